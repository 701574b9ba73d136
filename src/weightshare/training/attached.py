"""What is attached to optimizers, as a loop sees it: an epoch is over, training is over, how much is shared now."""

from collections.abc import Iterable

from weightshare.depth.record import RecordHandle
from weightshare.hooks import Handle
from weightshare.space.sleep import SleepHandle
from weightshare.values.baselines import Baseline
from weightshare.values.proximal import ProximalHandle

MEASURED = ("weights", "distinct", "zero", "penalty")


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


def shared(handles: Iterable[Handle]) -> dict[str, float]:
    """How far the regularised weights are shared, over all layers; nothing where none is regularised.

    Returns:
        `distinct_share` and `zero_share`, of the regularised weights, and `penalty`, the sum of their `R`.
    """
    measured = [handle.measure() for handle in handles if isinstance(handle, ProximalHandle | Baseline)]
    rows = [row for found in measured for row in found.values()]
    if not rows:
        return {}
    weights, distinct, zero, penalty = (sum(row[key] for row in rows) for key in MEASURED)
    return {"distinct_share": distinct / weights, "zero_share": zero / weights, "penalty": penalty}
