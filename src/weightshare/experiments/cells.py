"""Files of results: one JSON for each cell of a table at a scale, with one entry for each seed.

results/<paper>/<table>/<scale>/<row>[@<column>].json     what counts
results/<paper>/<table>/<scale>/apart/...                 what does not, and why

A result counts if its protocol is the one that the table has now, and if it says which code it came from: a commit
without changes, or a released version of the package. What another protocol gave, or a tree with changes, is kept
apart and never shown in a table. A file that cannot be read is moved there too, and its cell is made again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import hashlib
import json
import math
from pathlib import Path
import statistics
from typing import Any

from weightshare.errors import FileError
from weightshare.experiments.jobs import Job, Outcome, Scale
from weightshare.experiments.table import Found, Table
from weightshare.files.atomic import read_json, write_json

FORMAT = "weightshare.cell/1"
APART = "apart"
VARIANT = "+"
"""Between a scale and the name of somebody's own deltas, in the name of a folder."""


@dataclass(frozen=True)
class Source:
    """Which code made a result.

    Args:
        version: Of the package.
        commit: Of its checkout, or nothing where it was installed.
        dirty: Whether the package's files differed from the commit.
    """

    version: str
    commit: str | None = None
    dirty: bool | None = None

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> "Source":
        """From what `training.environment` found."""
        version = environment.get("packages", {}).get("weightshare", "unknown")
        if not isinstance(version, str) or not isinstance(environment.get("commit"), str | None):
            raise TypeError("the environment has a version or a commit that is no text")
        return cls(version, environment.get("commit"), environment.get("dirty"))

    def refused(self, now: str) -> str:
        """Why results of this code do not count, or nothing.

        Args:
            now: The version that asks.
        """
        if self.dirty:
            return f"made with changes that are in no commit, on top of {str(self.commit)[:10]}"
        if _release(self.version) != _release(now):
            return f"made with version {self.version}, need {'.'.join(_release(now))}"
        return ""


@dataclass
class Cell:
    """The results of a cell, as a file holds them.

    Args:
        table: Its name, `<paper>/<table>`.
        row: Its row.
        column: Its column, `""` where there is one.
        scale: With `+NAME` for somebody's own deltas.
        config: The protocol: see `Job.config`.
        changed: What differs from the paper's: see `Job.changed`.
        outcomes: By seed.
    """

    table: str
    row: str
    column: str
    scale: str
    config: dict[str, Any]
    changed: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{self.row}{f'@{self.column}' if self.column else ''}.json"

    def write(self, path: Path) -> None:
        """Write the cell in one step, seeds in order."""
        outcomes = {str(seed): _written(self.outcomes[seed]) for seed in sorted(self.outcomes)}
        write_json(path, {"format": FORMAT, **asdict(self), "outcomes": outcomes})

    @classmethod
    def read(cls, path: Path) -> "Cell":
        """Read a cell.

        Raises:
            FileError: If the file is none, or damaged.
        """
        data = read_json(path)
        try:
            if data.pop("format") != FORMAT:
                raise FileError(f"'{path}' is no result of format {FORMAT!r}.")
            outcomes = {int(seed): Outcome(**_read(one)) for seed, one in data.pop("outcomes").items()}
            texts, tables = ("table", "row", "column", "scale"), ("config", "changed")
            for names, kind in ((texts, str), (tables, dict)):
                for name in names:
                    if not isinstance(data[name], kind):
                        raise TypeError(f"{name} is a {type(data[name]).__name__}, need a {kind.__name__}")
            return cls(**data, outcomes=outcomes)
        except FileError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise FileError(f"'{path}' is no result file: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Kept:
    """What is found of a table.

    Args:
        found: What counts: outcomes by row and column.
        apart: Files that do not count, each with the reason.
        changed: By row and column, what the results' protocol changed of the paper's.
    """

    found: Found
    apart: Mapping[str, str]
    changed: Mapping[tuple[str, str], Mapping[str, Any]]


def folder_of(results: str | Path, table: Table, scale: str) -> Path:
    """Where the results of a table at a scale lie."""
    return Path(results) / table.paper / table.key / scale


def load(results: str | Path, table: Table, scale: Scale, version: str, name: str = "") -> Kept:
    """Read what is there of a table; nothing is changed.

    Args:
        results: Folder of results.
        table: Whose cells; those of a table that is `like` another one are read there, by its caller.
        scale: At which scale.
        version: Of the package that asks: results of another one do not count.
        name: Of the folder that the results lie in; the scale's if nothing.
    """
    folder = folder_of(results, table, name or scale)
    found, changed = {}, {}
    apart = {str(path.relative_to(results)): _why(path) for path in sorted((folder / APART).glob("*.json"))}
    for row, column in table.cells:
        cell = Cell(table.name, row, column, scale, {})
        path = folder / cell.file
        if not path.is_file():
            continue
        outcomes, held, why = counted(path, table.job(row, column, scale), version)
        if outcomes:
            found[row, column], changed[row, column] = outcomes, held
        if why:
            apart[str(path.relative_to(results))] = why
    return Kept(found, apart, changed)


def counted(path: Path, job: Job, version: str) -> tuple[dict[int, Outcome], dict[str, Any], str]:
    """The outcomes of a file that count for a job, what their protocol changed, and why others do not count."""
    try:
        cell = Cell.read(path)
    except FileError as error:
        return {}, {}, str(error)
    if not job.agrees(cell.config):
        return {}, {}, f"of another protocol: {_difference(cell.config, job.config)}"
    reasons = {seed: Source.of(one.environment).refused(version) for seed, one in cell.outcomes.items()}
    outcomes = {seed: one for seed, one in cell.outcomes.items() if not reasons[seed]}
    return outcomes, cell.changed, next((why for why in reasons.values() if why), "")


def put_apart(path: Path) -> Path:
    """Move a result file, damaged or not, to where it does not count, under a name that nothing else has."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    there = path.parent / APART / f"{path.stem}-{digest}.json"
    there.parent.mkdir(exist_ok=True)
    return path.replace(there)


def mean(outcomes: Mapping[int, Outcome], metric: str) -> float | None:
    """The mean of a metric over seeds; `nan` if a run diverged, `None` without runs that measured it."""
    if any(one.numbers.get("diverged") for one in outcomes.values()):
        return math.nan
    values = [one.metrics[metric] for one in outcomes.values() if metric in one.metrics]
    return statistics.fmean(values) if values else None


def spread(outcomes: Mapping[int, Outcome], metric: str) -> float:
    """The standard deviation of a metric over seeds (of a sample); 0 with one run."""
    values = [one.metrics[metric] for one in outcomes.values() if metric in one.metrics]
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else 0.0


def _why(path: Path) -> str:
    try:
        cell = Cell.read(path)
    except FileError as error:
        return str(error)
    sources = {Source.of(one.environment) for one in cell.outcomes.values()}
    dirty = next((source.refused(source.version) for source in sources if source.dirty), "")
    return dirty or "of another protocol, or another version"


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])


def _difference(held: Any, wanted: Any, at: str = "") -> str:
    """The first place in which two protocols differ."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in [*held, *(key for key in wanted if key not in held)]:
            if held.get(key) != wanted.get(key):
                return _difference(held.get(key), wanted.get(key), f"{at}.{key}".lstrip("."))
    return f"{at} {json.dumps(held)}, now {json.dumps(wanted)}"


def _written(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON, which has no `nan`: a number that is not finite is written as text."""
    made = asdict(outcome)
    for name in ("metrics", "numbers"):
        made[name] = {key: value if math.isfinite(value) else str(value) for key, value in made[name].items()}
    made["curves"] = {
        key: [None if value is None or not math.isfinite(value) else value for value in values]
        for key, values in outcome.curves.items()
    }
    return made


def _read(data: dict[str, Any]) -> dict[str, Any]:
    """An outcome out of a file, every value of its kind; what is wrong raises what `Cell.read` makes an error of."""
    floats = {name: {key: float(value) for key, value in data[name].items()} for name in ("metrics", "numbers")}
    curves = {
        key: [None if value is None else float(value) for value in values] for key, values in data["curves"].items()
    }
    if not isinstance(data["data"], str | None) or not math.isfinite(data["seconds"]):
        raise TypeError("data is no name, or seconds no number")
    Source.of(data["environment"])
    return {**data, **floats, "curves": curves}
