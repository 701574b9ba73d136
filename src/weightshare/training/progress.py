"""What is seen of a long run: a bar with the time left on a terminal, ten plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import sys
import time


@contextmanager
def progress(label: str, total: int, done: int, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Show how far a run is, on standard error.

    A terminal that cannot move its cursor (`TERM=dumb`, some editors and logs) gets the plain lines.

    Args:
        label: What runs.
        total: Number of steps, those done already included.
        done: How many were done before.
        shown: Nothing is written if not.

    Yields:
        A function to call after every step with what is going on.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    if not shown or done >= total:
        yield lambda _: None
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, *left, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda text: bar.update(task, advance=1, description=f"{label}, {text}")
    else:
        started, made = time.perf_counter(), 0
        tenth = max(1, (total - done) // 10)

        def line(text: str) -> None:
            nonlocal made
            made += 1
            if made % tenth == 0:
                left = (time.perf_counter() - started) / made * (total - done - made)
                print(f"{label}, {text}, step {done + made}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)

        yield line
