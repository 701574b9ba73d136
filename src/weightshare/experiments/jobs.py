"""The work behind one cell of a table: a training, a calculation, or whatever else gives numbers for a seed.

A job says what its numbers depend on (`config`) and what its scale changed of the paper's protocol (`changed`), and
does the work in a folder that it can go on in after a stop. It knows neither tables nor result files.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from itertools import count
import json
from pathlib import Path
import time
from typing import Any, Literal

import torch

from weightshare.errors import ConfigError, Diverged, TrainingError
from weightshare.files.atomic import read_json
from weightshare.training.energy import joules
from weightshare.training.environment import environment, peak_memory
from weightshare.training.recipe import RunConfig, strict
from weightshare.training.run import ANYWHERE, ENVIRONMENT, finished, read_history, run

Scale = Literal["smoke", "small", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "small", "paper")

ELSEWHERE = {*ANYWHERE, "seed", "init", "device", "devices"}
"""What two runs of one protocol may differ in: where things lie, and what is drawn."""
STARTS = "starts_from_a_run"
"""What a protocol says instead of `init`, which is a file of this machine."""


@dataclass(frozen=True)
class Outcome:
    """What one seed of a cell gave.

    Args:
        metrics: By the table's names, in the unit in which they are printed.
        numbers: Further counts: stored numbers, images a second and the like; `diverged` is 1 of a run that did, which
            has no metrics.
        curves: By name, a number for each point of a picture.
        seconds: Of the work, of all sessions together.
        data: What was learnt from, where a data set stands for another one.
        environment: Versions, hardware, commit, energy.
    """

    metrics: Mapping[str, float]
    numbers: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    seconds: float = 0.0
    data: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where work is done.

    Args:
        runs: Folder of the run directories of a table at a scale.
        data: For the name of a data set what is read instead of it: a packed file or a folder.
        data_dir: Where data sets lie; see `weightshare.training.data.load_data`.
    """

    runs: Path
    data: Mapping[str, str] = field(default_factory=dict)
    data_dir: str | None = None

    def source(self, name: str) -> str:
        """What is read for the data set of a name."""
        return self.data.get(name, name)


class Job(ABC):
    """One cell of a table."""

    together: bool = False
    """Whether `work` is given all missing seeds at once, because that is faster; else one at a time."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that the numbers depend on but the seed, as JSON has it. A result of another `config` is no result."""

    def agrees(self, held: Mapping[str, Any]) -> bool:
        """Whether a result of that protocol is one of this job's, too."""
        return held == self.config

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the paper's protocol, by name."""
        return {}

    @abstractmethod
    def work(self, seeds: Sequence[int], place: Place) -> dict[int, Outcome]:
        """Do the work, or what is left of it.

        Raises:
            SharingError: If it cannot be done.
        """


@dataclass(frozen=True)
class Calculation(Job):
    """Numbers that a function computes.

    Args:
        function: Takes `seed`, or `seeds` if `together`, and the arguments; returns an `Outcome`, or one for each seed.
            With `folder=True` it also takes the folder that it may keep its state in.
        arguments: JSON-able, of this scale.
        printed: The same at the paper's scale.
        together: See `Job`.
        folder: Whether the function takes `folder`.
        data: The name of the data set that it reads, which it gets as `data` (a source) and `data_dir`.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    printed: Mapping[str, Any] = field(default_factory=dict)
    together: bool = False
    folder: bool = False
    data: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        names = {"function": f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}"}
        return plain({**names, "data": self.data, **self.arguments})

    @property
    def changed(self) -> dict[str, Any]:
        paper = plain(self.printed)
        return {key: value for key, value in plain(self.arguments).items() if paper.get(key) != value}

    def work(self, seeds: Sequence[int], place: Place) -> dict[int, Outcome]:
        given = dict(self.arguments)
        if self.folder:
            given["folder"] = place.runs
        if self.data is not None:
            given |= {"data": place.source(self.data), "data_dir": place.data_dir}
        named = _named(self.data, place)
        with measured() as cost:
            found = self.function(seeds=list(seeds), **given) if self.together else {}
            found = found or {seed: self.function(seed=seed, **given) for seed in seeds}
        return {
            seed: replace(
                one, seconds=one.seconds or cost["seconds"] / len(seeds), data=named, environment=dict(cost["machine"])
            )
            for seed, one in found.items()
        }


def folder_of(runs: Path, row: str, column: str, seed: int) -> Path:
    """The run directory of one seed of a cell."""
    return runs / f"{row}{f'@{column}' if column else ''}-seed{seed}"


def accuracy(settings: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """The accuracy of a run in percent, as the metric `accuracy`."""
    return {"accuracy": 100 * summary["accuracy"]}


@dataclass(frozen=True)
class Training(Job):
    """A training by `weightshare.training.run`: the paper's configuration, and what this scale changes of it.

    Args:
        settings: The paper's configuration of a seed, given the folder of runs, in which runs lie that it starts from.
        row: Of the table, which names the run directory.
        column: Likewise.
        deltas: By a dotted key of the configuration (`train.epochs`) what is set instead of the paper's value.
        measure: What is read off a finished run: metrics, in the unit in which they are printed.
        curves: Columns of the run's history that a picture needs.
        pictured: What a picture needs besides, read off a finished run: by name, numbers. Nothing if there is nothing.
    """

    settings: Callable[[int, Path], RunConfig]
    row: str
    column: str = ""
    deltas: Mapping[str, Any] = field(default_factory=dict)
    measure: Callable[[RunConfig, Mapping[str, Any]], Mapping[str, float]] = accuracy
    curves: Sequence[str] = ("train_accuracy", "test_accuracy")
    pictured: Callable[[RunConfig], Mapping[str, Sequence[float | None]]] | None = None

    @property
    def config(self) -> dict[str, Any]:
        made = self.resolved(0, Place(Path("runs")))
        return _protocol(made, made.init is not None)

    def agrees(self, held: Mapping[str, Any]) -> bool:
        """As `Job.agrees`; what a configuration did not have yet, when a result was made, is what it is by default."""
        try:
            made = strict(RunConfig, {key: value for key, value in held.items() if key != STARTS})
        except (ConfigError, TypeError):  # something that a configuration has no more
            return False
        return _protocol(made, held.get(STARTS)) == self.config

    @property
    def changed(self) -> dict[str, Any]:
        paper = asdict(self.settings(0, Path("runs")))
        return plain({key: value for key, value in self.deltas.items() if _at(paper, key) != value})

    def resolved(self, seed: int, place: Place) -> RunConfig:
        """The configuration of a seed at this scale.

        Raises:
            ConfigError: If a delta names no key of the configuration.
        """
        made = with_deltas(self.settings(seed, place.runs), self.deltas)
        folder = str(folder_of(place.runs, self.row, self.column, seed))
        return replace(made, seed=seed, out=folder, data=place.source(made.data), data_dir=place.data_dir)

    def work(self, seeds: Sequence[int], place: Place) -> dict[int, Outcome]:
        return {seed: self._one(seed, place) for seed in seeds}

    def _one(self, seed: int, place: Place) -> Outcome:
        settings = self.resolved(seed, place)
        before = _finished_before(settings)
        with measured() as cost:
            try:
                summary = run(settings, label=Path(settings.out).name)
                metrics = dict(self.measure(settings, summary))
            except Diverged:  # a result, too: its metrics are not a number
                summary, metrics = None, {}
            except torch.OutOfMemoryError as error:
                raise TrainingError(f"{_out_of_memory(settings)} ({error})") from error
        named, machine = _named(with_deltas(self.settings(seed, place.runs), self.deltas).data, place), cost["machine"]
        if before:  # somebody trained it before this: with which code, its directory says
            held = read_json(Path(settings.out) / ENVIRONMENT)
            machine = {**machine, **{key: held[key] for key in ("commit", "dirty", "packages") if key in held}}
        if summary is None:
            return Outcome({}, {"diverged": 1}, {}, cost["seconds"], named, machine)
        history = read_history(settings.out)
        curves: dict[str, Sequence[float | None]] = {
            key: [round(row[key], 6) for row in history] for key in self.curves if key in history[0]
        }
        curves |= self.pictured(settings) if self.pictured else {}
        numbers = {"stored": summary["stored"], "images_per_second": round(summary["images_per_second"], 1)}
        return Outcome(metrics, numbers, curves, summary["training_seconds"], named, machine)


def _protocol(made: RunConfig, starts: Any) -> dict[str, Any]:
    """A configuration as a result keeps it: all that its numbers depend on but the seed."""
    values = {key: value for key, value in asdict(made).items() if key not in ELSEWHERE}
    del values["train"]["fused"]  # equal up to rounding
    return plain({**values, STARTS: starts})


def _finished_before(settings: RunConfig) -> bool:
    """Whether a run is finished already. A run of another protocol in its directory makes room; nothing is lost."""
    folder = Path(settings.out)
    try:
        return finished(folder, settings) is not None
    except TrainingError:  # it holds another run
        number = next(number for number in count(1) if not Path(f"{folder}-before-{number}").exists())
        folder.rename(f"{folder}-before-{number}")
        return False


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """The cost of what is done inside: `seconds`, and `machine` with memory, and `joules` where readable."""
    found: dict[str, Any] = {}
    begun, energy = time.perf_counter(), joules()
    yield found
    spent = joules()
    found["seconds"] = time.perf_counter() - begun
    used = None if energy is None or spent is None or spent < energy else round(spent - energy, 1)
    found["machine"] = {**environment(), "peak_memory_bytes": peak_memory(), "joules": used}


def with_deltas(settings: RunConfig, deltas: Mapping[str, Any]) -> RunConfig:
    """A configuration with some keys set to something else.

    Args:
        settings: The configuration.
        deltas: By a dotted key, such as `train.epochs`, its value.

    Raises:
        ConfigError: If a key does not exist, with the nearest one that does, or a value is of another kind.

    Example:
        >>> with_deltas(RunConfig("convmixer:8/2/2/3"), {"train.epochs": 1, "seed": 3}).train.epochs
        1
    """
    values = asdict(settings)
    for key, value in deltas.items():
        if not isinstance(key, str):
            raise ConfigError(f"The key {key!r} is a {type(key).__name__}, need a dotted key such as train.epochs.")
        *path, last = key.split(".")
        inside = values
        for part in path:
            if not isinstance(inside.get(part), dict):
                raise ConfigError(f"The key {key!r} cannot be set: {part!r} holds no keys of its own.")
            inside = inside[part]
        inside[last] = deepcopy(value)
    return strict(RunConfig, values)


def plain(values: Any) -> Any:
    """Values as a JSON file gives them back: tuples are lists, keys are text."""
    return json.loads(json.dumps(values, default=lambda value: getattr(value, "__name__", None) or asdict(value)))


def _named(data: str | None, place: Place) -> str | None:
    """What a data set's name stands for here, where it is something else."""
    return None if data is None or place.source(data) == data else Path(place.source(data)).name


def _at(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part] if isinstance(values, Mapping) and part in values else {}
    return values


def _out_of_memory(settings: RunConfig) -> str:
    from weightshare.experiments.memory import fitting_batch  # trains a step

    fits = fitting_batch(settings)
    advice = (
        f"a batch of {fits} fits: set train.batch_size={fits} in a file of deltas, whose results are kept apart, or "
        "train on several devices"
        if fits
        else "not even a batch of 2 fits"
    )
    return (
        f"'{settings.out}' ran out of memory with train.batch_size={settings.train.batch_size}: {advice}. What was "
        "trained is kept, and goes on with the same command."
    )
