"""A contest: one thing that has to be done, ways of doing it (ours and rivals), and sizes.

Each way works in a process of its own, which is told what to do line by line, so that libraries cannot disturb each
other and each process's peak of memory is that of one way. In a round every way does it once, ours first, and the ratio
is taken within the round: whatever else the machine does slows all of them.

    python -m benchmarks.contest NAME WAY      # such a process; it reads commands and answers in JSON
"""

from collections.abc import Callable, Mapping
import contextlib
import ctypes
from dataclasses import dataclass, field
import gc
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
import json
import math
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
TINY = os.environ.get("WEIGHTSHARE_BENCHMARKS") == "tiny"
"""Whether benchmarks only show that they work, on sizes that say nothing about time."""
CONTESTS = (
    *("local", "sleep", "proximal", "rows", "gradient", "penalty", "filters", "chain", "regression"),
    *("templates", "ties", "codebook", "lookup", "files", "counting"),
)
RIVALS = (
    *("cvxpy", "clarabel", "scs", "coremltools", "flax", "jax", "tensorflow", "tf_keras", "torchao", "torchinfo"),
    *("torchisotonic", "webdataset", "x-transformers"),
)
"""Packages of rivals, whose versions are kept with the results."""
LEAST, BUDGET, ROUNDS = 0.01, {True: 2.5, False: 0.8}, (3, 15)
"""Seconds that one measurement takes at least; seconds for each way at a shown size, and at another; rounds."""
CLOSE = 0.05
"""Ratios this near to 1 are level."""


@dataclass(frozen=True)
class Task:
    """A piece of work of one size, ready to be done.

    Args:
        run: Does it once.
        result: What the last run found, in the same form for every way of a contest; `None` where it is another thing.
        stored: Numbers or bytes that this way keeps, where a contest is about that.
    """

    run: Callable[[], object]
    result: Callable[[], Any] = lambda: None
    stored: Callable[[], int] | None = None


@dataclass(frozen=True)
class Way:
    """One way of doing it.

    Args:
        make: From a size to a task.
        why: What makes the difference to ours, in half a sentence.
        ours: Whether it is this library.
        least: Size from which it is measured.
        most: Size up to which it is measured; past that it takes too long or too much memory.
        goal: Time of ours over this one's that is claimed at the last size shown, at most.
        needs: A package that need not be installed.
    """

    make: Callable[[int], Task]
    why: str = ""
    ours: bool = False
    least: int = 0
    most: float = math.inf
    goal: float | None = None
    needs: str = ""

    @property
    def installed(self) -> bool:
        return not self.needs or find_spec(self.needs) is not None


@dataclass(frozen=True)
class Contest:
    """What is to be done.

    Args:
        title: For the page.
        text: What is measured, for the page.
        unit: What sizes count.
        ways: By name; the first is ours, and ratios are taken to it.
        sizes: That are measured.
        shown: Sizes that stand in the table.
        tiny: The size that tests run.
        error: From a size and a result to how wrong it is.
        checked: The largest size at which errors are found.
        off: What the error is, for the page.
        stored: What `Task.stored` counts.
    """

    title: str
    text: str
    unit: str
    ways: Mapping[str, Way]
    sizes: tuple[int, ...]
    shown: tuple[int, ...]
    tiny: int
    error: Callable[[int, Any], float] | None = None
    checked: float = math.inf
    off: str = "largest difference"
    stored: str = ""

    @property
    def goals(self) -> dict[str, float]:
        return {name: way.goal for name, way in self.ways.items() if way.goal is not None}


def contest(name: str) -> Contest:
    """By the name of its module."""
    return import_module(f"benchmarks.contests.{name}").CONTEST


def versions() -> dict[str, str]:
    """Of the rivals that are installed."""
    found = {}
    for package in RIVALS:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def threads() -> int:
    """How many every way may use: as many as this process may have cores."""
    return 1 if TINY else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- in the process of one way


def serve(name: str, way: str) -> None:
    """Do what is asked line by line until there is no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    held = contest(name)
    given = Worker(held, held.ways[way])
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        command, *values = json.loads(line)
        print(json.dumps(getattr(given, command)(*values)), file=answers, flush=True)


class Worker:
    """What a process of one way can do."""

    def __init__(self, held: Contest, way: Way) -> None:
        self.held, self.way = held, way
        self.task, self.size, self.times = Task(lambda: None), 0, 1

    def prepare(self, size: int) -> dict[str, Any]:
        """Make the task of a size, do it twice, and say what it takes: seconds, and memory beyond what is held."""
        self.task, self.times = Task(lambda: None), 1
        gc.collect()
        self.size, self.task = size, self.way.make(size)
        self.task.run()
        memory = peak_of(self.task.run)
        once = min(self.measure(), self.measure())
        self.times = max(1, math.ceil(LEAST / once))
        found: dict[str, Any] = {"once": once, "memory": memory}
        result = self.task.result()
        if self.held.error is not None and result is not None and size <= self.held.checked:
            found["error"] = float(self.held.error(size, result))
        if self.task.stored is not None:
            found["stored"] = int(self.task.stored())
        return found

    def measure(self) -> float:
        """Seconds that it takes once."""
        start = time.perf_counter()
        for _ in range(self.times):
            self.task.run()
        return (time.perf_counter() - start) / self.times


def peak_of(run: Callable[[], object]) -> int | None:
    """Bytes that this process holds at most while something runs, beyond what it holds before; by Linux's count."""
    if sys.platform != "linux":
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that it counts when it is taken again
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is that of now
    before = _most()
    run()
    return _most() - before


def _most() -> int:
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024


# ---- in the process that compares


@dataclass
class Running:
    """The process of one way."""

    name: str
    way: str
    process: subprocess.Popen = field(init=False)

    def __post_init__(self) -> None:
        count = str(threads())
        alike = {"OMP_NUM_THREADS": count, "NUMBA_NUM_THREADS": count, "TF_NUM_INTRAOP_THREADS": count}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.contest", self.name, self.way]
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self.process = subprocess.Popen(
            *(command,),
            cwd=ROOT,
            env=os.environ | alike | quiet,
            text=True,
            stderr=self.said,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def answer(self) -> Any:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.said.seek(0)
        raise RuntimeError(f"{self.name}: {self.way!r} ended:\n{self.said.read()[-2000:]}")

    def ask(self, command: str, *values: object) -> Any:
        self.process.stdin.write(json.dumps([command, *values]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.said.close()


def compare(name: str) -> dict[str, Any]:
    """Measure a contest: for each way and size the median ratio of rounds, seconds, memory and error.

    Returns:
        `ways`, by name and size the numbers; `exponents`, by name the slope of time over size in logarithms;
        `left_out`, by name what is not installed; `threads`.
    """
    held = contest(name)
    first, *_ = held.ways
    present = {key: way for key, way in held.ways.items() if way.installed}
    found: dict[str, dict[str, Any]] = {key: {} for key in present}
    running = {key: Running(name, key) for key in present}
    for one in running.values():
        one.answer()  # it has loaded what it needs
    try:
        for size in (held.tiny,) if TINY else held.sizes:
            taking = [key for key, way in present.items() if way.least <= size <= way.most]
            for key in taking:
                found[key][str(size)] = running[key].ask("prepare", size)
            budget = BUDGET[size in held.shown]
            rounds = {key: _rounds(budget, found[key][str(size)].pop("once")) for key in taking}
            taken: dict[str, list[float]] = {key: [] for key in taking}
            for turn in range(max(rounds.values())):
                for key in taking:
                    if key == first or turn < rounds[key]:
                        taken[key].append(running[key].ask("measure"))
            for key in taking:
                pairs = list(zip(taken[first], taken[key], strict=False))
                numbers = {"seconds": statistics.median(taken[key]), "rounds": len(pairs)}
                numbers["ratio"] = statistics.median(one / other for one, other in pairs)
                found[key][str(size)] |= {key: _rounded(value) for key, value in numbers.items()}
    finally:
        for one in running.values():
            one.__exit__()
    missing = {key: way.needs for key, way in held.ways.items() if not way.installed}
    slopes = {key: exponent({int(size): at["seconds"] for size, at in sizes.items()}) for key, sizes in found.items()}
    return {"ways": found, "exponents": slopes, "left_out": missing, "threads": threads()}


def _rounds(budget: float, once: float) -> int:
    return max(ROUNDS[0], min(ROUNDS[1], int(budget / max(once, LEAST))))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def exponent(seconds: Mapping[int, float]) -> float | None:
    """The slope of the line that fits logarithms of time over those of size best; of one size there is none."""
    if len(seconds) < 2:
        return None
    x, y = [math.log(size) for size in seconds], [math.log(value) for value in seconds.values()]
    return round(statistics.linear_regression(x, y).slope, 3)


if __name__ == "__main__":
    serve(*sys.argv[1:])
