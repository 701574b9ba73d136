"""A run directory while a run is at work in it: one process at a time, and a stop that loses nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import signal
import threading
import time
from types import FrameType

from weightshare.errors import FileError, TrainingError
from weightshare.files.atomic import remove_leftovers

LOCK = ".lock"
PATIENCE = 1.0  # seconds in which more signals count as one: `timeout` and schedulers signal a process and its group


@contextmanager
def at_work(folder: str | Path, patience: float = 0.0) -> Iterator[None]:
    """Be the one process that writes to a run directory; the system ends this when the process ends, however it does.

    What a killed process left half written is removed. Of several processes of one run only the first locks.

    Args:
        folder: The run directory; it is made if there is none.
        patience: Seconds to wait for another process to leave.

    Raises:
        TrainingError: If another process is at work there.
        FileError: If the folder cannot be made or written.
    """
    from filelock import FileLock, Timeout  # torch depends on it

    if not is_first_process():
        yield
        return
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0, is_singleton=True)  # the same one again inside one process
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise TrainingError(
            f"Another process is at work in '{folder}'. Wait for it, stop it, or choose another folder with --out."
        ) from error
    except OSError as error:
        raise FileError(
            f"Cannot work in '{folder}': {error.strerror or error}. Choose a folder that can be written."
        ) from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def is_first_process() -> bool:
    """Whether this is the first of the processes of a run, also before they are launched."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return not getattr(rank_zero_only, "rank", 0)


class Stop:
    """Whether the system or the user has asked this process to stop. Made by `stoppable`."""

    INTERRUPT, TERMINATE = signal.SIGINT, signal.SIGTERM

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked = 0.0

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._asked = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._asked > PATIENCE:  # someone asks again, and will not wait for the end of a step
            raise KeyboardInterrupt


@contextmanager
def stoppable(active: bool) -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of dying from them, so that the state can be kept; asked again, end at once.

    Args:
        active: Whether to do so at all; nor is it done outside of the main thread, which alone gets signals.
    """
    stop = Stop()
    if not active or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Stopped(TrainingError):
    """A run was asked to stop, has kept its state and can go on.

    Args:
        message: Where it stopped, and how to go on.
        asked: The signal that asked.
    """

    def __init__(self, message: str, asked: signal.Signals) -> None:
        super().__init__(message)
        self.asked = asked

    @property
    def status(self) -> int:
        """Exit status by the convention of shells."""
        return 128 + int(self.asked)
