"""What a sweep is: a run's configuration, what varies in it, and by which number its runs are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import hashlib
from itertools import product
import json
import math
from pathlib import Path
import random
import re
from reprlib import repr as short
from typing import Any, Literal

from weightshare.errors import ConfigError
from weightshare.training.recipe import RunConfig, strict
from weightshare.training.snapshot import NOISE, ROW, SHARED, SIMILARITY

METRICS = (*ROW, *SHARED, *NOISE, *SIMILARITY)
"""What runs can be compared by: a number of each epoch."""
SEED = "seed"
"""The key over whose values the page averages."""
MOST_RUNS = 100_000
"""Runs that a sweep may have: all of them are listed before the first begins."""
LONGEST = 120  # characters of a run's name; file systems allow 255 bytes
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving (ASHA): runs that are behind others at the same epoch end early.

    Args:
        grace_epochs: No run ends before so many epochs; the first rung, at least 1.
        reduction: One run in so many goes on from each rung to the next, which lies so many times as far; above 1.

    Source: Li 2020, A system for massively parallel hyperparameter tuning; as Ray Tune has it.
    """

    grace_epochs: int = 1
    reduction: float = 3.0

    def __post_init__(self) -> None:
        if self.grace_epochs < 1 or not 1 < self.reduction < math.inf:
            raise ConfigError(f"{self}: need grace_epochs of 1 or more and a reduction above 1.")


@dataclass(frozen=True)
class Range:
    """Where a value is drawn from, both ends included.

    Args:
        low: Least value.
        high: Greatest value, above `low`.
        scale: `uniform`, or `log`: each factor has the same chance, and `low` is above 0.
    """

    low: float
    high: float
    scale: Literal["uniform", "log"] = "uniform"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"{self}: need finite numbers with low below high.")
        if self.scale == "log" and self.low <= 0:
            raise ConfigError(f"{self}: need low above 0 on a logarithmic scale.")

    def drawn(self, fraction: float) -> float:
        """The value at a fraction of the way, to four digits, so that it can be read in a name."""
        if self.scale == "log":
            return float(f"{self.low * (self.high / self.low) ** fraction:.4g}")
        return float(f"{self.low + (self.high - self.low) * fraction:.4g}")


@dataclass(frozen=True)
class Samples:
    """Values that are drawn at random instead of listed; the same ones whenever the sweep is started.

    Args:
        count: How many times a value is drawn for every key, at least 1.
        ranges: For each dotted key the keys of a `Range`.
        seed: Of what is drawn.
    """

    count: int
    ranges: dict[str, Any]
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_RUNS or not self.ranges:
            raise ConfigError(f"samples: need a count from 1 to {MOST_RUNS:,}, and ranges for one key or more.")
        _expect_keys(self.ranges, "samples.ranges")
        self.settings()

    def settings(self) -> list[dict[str, Any]]:
        """For each sample the value of every key."""
        drawn = random.Random(self.seed)
        ranges = {key: _range(given, f"samples.ranges.{key}") for key, given in self.ranges.items()}
        return [{key: one.drawn(drawn.random()) for key, one in ranges.items()} for _ in range(self.count)]


@dataclass(frozen=True)
class SweepConfig:
    """All that a sweep depends on.

    Args:
        base: The configuration of a run, without `out`; see `RunConfig`.
        grid: For each dotted key of it, such as `train.regularise.0.strength`, the list of values that it takes. Every
            combination is a run. Over the values of `seed` the page averages.
        samples: Keys whose values are drawn; every sample goes with every combination of the grid.
        metric: What runs are compared by: a number of each epoch, such as `test_accuracy`.
        mode: `max` or `min`: which end of the metric is better.
        asha: When runs end early; nothing for never.
        concurrent: How many runs at a time; nothing for as many as there is room for.
        cpus: Cores of each run, at least 1; its threads.
        gpus: GPUs of each run; a fraction lets several share one.
        address: Of a Ray cluster, such as `auto` or `HOST:6379`; nothing for this machine.
        out: The folder of the sweep. Each run has its directory in it.

    Raises:
        ConfigError: If a value is out of range, or nothing varies.
    """

    base: dict[str, Any]
    grid: dict[str, Any] = field(default_factory=dict)
    samples: Samples | None = None
    metric: str = "test_accuracy"
    mode: Literal["max", "min"] = "max"
    asha: Halving | None = None
    concurrent: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    address: str | None = None
    out: str = "runs/sweep"

    def __post_init__(self) -> None:
        for name, valid, needed in (
            ("base", "out" not in self.base, "no 'out': each run has its directory in the sweep's"),
            ("metric", self.metric in METRICS, f"one of {', '.join(METRICS)}"),
            ("concurrent", self.concurrent is None or self.concurrent >= 1, "1 or more, or nothing"),
            ("cpus", self.cpus >= 1, "1 or more"),
            ("gpus", math.isfinite(self.gpus) and self.gpus >= 0, "0 or more"),
            ("out", bool(self.out), "the name of a folder"),
            ("grid", bool(self.grid or self.samples), "a list of values for one key or more"),
        ):
            if not valid:
                raise ConfigError(f"{name}={getattr(self, name)!r}: need {needed}.")
        _expect_keys(self.grid, "grid")
        try:
            json.dumps(self.base)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"base={short(self.base)}: need plain values: {error}") from error
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"grid.{key}={values!r}: need a list of values.")
            if len({json.dumps(plain(value)) for value in values}) < len(values):
                raise ConfigError(f"grid.{key}={values!r}: a value is there twice.")
            if self.samples is not None and key in self.samples.ranges:
                raise ConfigError(f"{key} is both in the grid and drawn: need one of them.")
        runs = math.prod(map(len, self.grid.values())) * (self.samples.count if self.samples else 1)
        if runs > MOST_RUNS:
            raise ConfigError(f"The sweep would have {runs:,} runs, need {MOST_RUNS:,} at most: list fewer values.")

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted keys of what varies, drawn ones first."""
        return (*(self.samples.ranges if self.samples else ()), *self.grid)


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Args:
        name: Of its directory, from its values.
        values: For each short name of a key its value, that of the seed too.
        settings: Its configuration as plain values.
        folder: Its directory.
    """

    name: str
    values: dict[str, Any]
    settings: dict[str, Any]
    folder: Path

    @property
    def config(self) -> RunConfig:
        """The configuration.

        Raises:
            SharingError: If its values do not go together.
        """
        return strict(RunConfig, {**self.settings, "out": str(self.folder)})


def planned(sweep: SweepConfig) -> list[Planned]:
    """Every run of a sweep, in the order in which they start.

    Raises:
        ConfigError: If a key leads nowhere in the configuration, two runs are the same, or none has values that go
            together. A single run whose values do not go together is told when it is run.
    """
    short = dict(zip(sweep.keys, short_keys(sweep.keys), strict=True))
    drawn = sweep.samples.settings() if sweep.samples else [{}]
    listed = [dict(zip(sweep.grid, values, strict=True)) for values in product(*sweep.grid.values())]
    runs = []
    for values in ({**one, **other} for one in drawn for other in listed):
        values = {key: plain(value) for key, value in values.items()}
        settings: Any = json.loads(json.dumps(sweep.base))
        for key, value in values.items():
            _put(settings, key, value)
        named = {short[key]: value for key, value in values.items()}
        name = run_name(named)
        runs.append(Planned(name, named, settings, Path(sweep.out).absolute() / name))
    if len({run.name for run in runs}) < len(runs):
        raise ConfigError("Two runs of the sweep have the same values. Take fewer samples, or wider ranges.")
    _refuse_hopeless(runs, sweep)
    return runs


def _refuse_hopeless(runs: Sequence[Planned], sweep: SweepConfig) -> None:
    """Raise if no run can be configured, or one needs what runs on Ray do not have."""
    errors, configs = [], []
    for run in runs:
        try:
            configs.append(run.config)
        except ValueError as error:
            errors.append(error)
    if not configs:
        raise errors[0]
    for config in configs:
        if config.devices != 1:
            raise ConfigError(f"devices={config.devices}: each run of a sweep has one process. Give it more cpus.")
        if config.device not in ("auto", "cpu") and not sweep.gpus:
            raise ConfigError(f"device={config.device!r} with gpus=0: say how many GPUs a run has, such as gpus: 1.")
        if sweep.asha is not None and sweep.asha.grace_epochs > config.train.epochs:
            raise ConfigError(f"asha.grace_epochs={sweep.asha.grace_epochs}: a run has {config.train.epochs} epochs.")


def short_keys(keys: Sequence[str]) -> list[str]:
    """The last parts of dotted keys, as many as it takes to tell them apart.

    Example:
        >>> short_keys(["seed", "train.lr", "train.regularise.0.strength", "train.regularise.1.strength"])
        ['seed', 'lr', '0.strength', '1.strength']
    """
    parts = {tuple(key.split(".")) for key in keys} | {(SEED,)}  # another seed is not taken for the run's

    def short(key: Sequence[str]) -> str:
        depth = 1
        while sum(other[-depth:] == key[-depth:] for other in parts) > 1:
            depth += 1
        return ".".join(key[-depth:])

    return [short(tuple(key.split("."))) for key in keys]


def run_name(values: Mapping[str, Any]) -> str:
    """A directory's name that says a run's values; a long one is cut and told apart by a digest.

    Example:
        >>> run_name({"strength": 0.01, "where": ["fc1", "blocks.*"], "seed": 0})
        'strength=0.01_where=fc1,blocks.-1610_seed=0'
    """
    name = "_".join(f"{key}={text_of(value)}" for key, value in values.items())
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{_digest(dict(values))[:8]}"


def text_of(value: Any) -> str:
    """A value as part of a file's name: as it is if it can be, else with a digest of what is lost."""
    if isinstance(value, list) and all(isinstance(part, int | float | str) for part in value):
        text = ",".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    safe = re.sub(r"[^\w.,+-]+", "-", text, flags=re.ASCII)
    return safe if safe == text else f"{safe.strip('-')}-{_digest(value)[:4]}".lstrip("-")


def plain(value: Any) -> Any:
    """A value of a grid as JSON has it; YAML's text `1e-3` is a number.

    Raises:
        ConfigError: If it is none.
    """
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{value!r} in a grid: need plain values: {error}") from error


def _put(settings: Any, key: str, value: Any) -> None:
    """Set what a dotted key leads to; sections are made, entries of lists have to be there."""
    *path, last = key.split(".")
    here = settings
    for part in path:
        here = here.setdefault(part, {}) if isinstance(here, dict) else here[_position(here, part, key)]
    if isinstance(here, dict):
        here[last] = value
    else:
        here[_position(here, last, key)] = value


def _position(here: Any, part: str, key: str) -> int:
    if not isinstance(here, list) or not part.isdecimal() or len(part) > 9 or int(part) >= len(here):
        held = f"a list of {len(here)}" if isinstance(here, list) else repr(here)
        raise ConfigError(f"The key {key!r} leads nowhere: there is no {part!r} in {held} of the base configuration.")
    return int(part)


def _expect_keys(values: Mapping[Any, Any], at: str) -> None:
    for key in values:
        if not isinstance(key, str):
            raise ConfigError(f"{at}: the key {key!r} is a {type(key).__name__}, need a dotted key such as train.lr.")


def _range(given: Any, at: str) -> Range:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{at}={given!r}: need low, high and perhaps scale.")
    return strict(Range, given, f"{at}.")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
