"""What is attached to optimizers, as a loop sees it: an epoch is over, or training is over."""

from collections.abc import Iterable

from weightshare.depth.record import RecordHandle
from weightshare.hooks import Handle
from weightshare.space.sleep import SleepHandle
from weightshare.values.proximal import ProximalHandle


def finish(handles: Iterable[Handle]) -> None:
    """Tell them that the last step is done, before the model is evaluated for the last time."""
    for handle in handles:
        if isinstance(handle, ProximalHandle):
            handle.finish()


def epoch_ended(handles: Iterable[Handle]) -> None:
    """Tell them that an epoch is over."""
    for handle in handles:
        if isinstance(handle, SleepHandle):
            handle.epoch_ended()
        if isinstance(handle, RecordHandle):
            handle.now()
