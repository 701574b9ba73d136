"""What stands behind a page's numbers: what the scale changed, commits, machines, data, runs, and what is apart."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
import json
import math
from pathlib import Path
from typing import Any

from weightshare.errors import FileError
from weightshare.experiments.cells import VARIANT, Cell, Kept, folder_of
from weightshare.experiments.jobs import Calculation, Job, Outcome, Scale, Training, plain
from weightshare.experiments.table import Table

MOST_ROWS = 6
"""That are named with a change; more are counted."""
LONGEST = 160
"""Characters of a value of a protocol."""


@dataclass(frozen=True)
class Change:
    """One thing that a scale changed: its key, the paper's value, ours, and of which cells."""

    key: str
    paper: str
    ours: str
    cells: str


def changes(held: Table, scale: Scale, kept: Kept) -> list[Change]:
    """What results changed of the paper's protocol, in the order in which it is met; equal changes are one.

    Args:
        held: The table that holds the cells.
        scale: Of the results.
        kept: The results.
    """
    met: dict[tuple[str, str, str], list[str]] = {}
    for (row, column), changed in kept.changed.items():
        if (row, column) in kept.found:
            job = held.job(row, column, scale)
            for key, value in changed.items():
                met.setdefault((key, _text(_papers(job, key)), _text(value)), []).append(_label(row, column))
    return [Change(*what, _named(cells, len(kept.found))) for what, cells in met.items()]


def facts(kept: Kept) -> list[tuple[str, str]]:
    """Where results come from, by name: commits, data, machines, versions, time, memory and energy."""
    runs = [one for outcomes in kept.found.values() for one in outcomes.values()]
    seconds, most = [one.seconds for one in runs], [one.environment.get("peak_memory_bytes") or 0 for one in runs]
    joules = [one.environment["joules"] for one in runs if one.environment.get("joules")]
    stand_ins = Counter(one.data for one in runs if one.data)
    found = [
        ("commit", _counted(_commit(one) for one in runs)),
        ("data", _counted(map(_data, stand_ins.elements())) if stand_ins else "the data sets that the protocol names"),
        ("machine", _counted(_machine(one.environment) for one in runs)),
        ("versions", _counted(_versions(one.environment) for one in runs)),
        (
            "time",
            f"{_time(sum(seconds))} of work in {len(runs)} runs, {_time(min(seconds))} to {_time(max(seconds))} each",
        ),
    ]
    if any(most):
        found.append(("memory", f"at most {max(most) / 2**20:,.0f} MiB held by a process"))
    if joules:
        found.append(("energy", f"{sum(joules) / 3600:,.1f} Wh, in {len(joules)} of {len(runs)} runs"))
    return found


def every_run(kept: Kept) -> tuple[list[str], list[list[str]]]:
    """A table with one line for each run: titles, and rows of text."""
    runs = [(row, column, seed, one) for (row, column), some in kept.found.items() for seed, one in some.items()]
    metrics = list(dict.fromkeys(name for *_, one in runs for name in one.metrics))
    numbers = list(dict.fromkeys(name for *_, one in runs for name in one.numbers))
    titles = ["cell", "seed", *metrics, *(f"{name} (count)" if name in metrics else name for name in numbers), "time"]
    rows = [
        [
            _label(row, column),
            str(seed),
            *(_short(one.metrics.get(name)) for name in metrics),
            *(_short(one.numbers.get(name)) for name in numbers),
            _time(one.seconds),
        ]
        for row, column, seed, one in runs
    ]
    return titles, rows


def apart(results: Path, held: Table, scale: Scale, kept: Kept) -> list[tuple[str, str]]:
    """Files of results that do not count, each with the reason: those of the table, and somebody's own changes."""
    folder = folder_of(results, held, scale).parent
    own = sorted(folder.glob(f"{scale}{VARIANT}*/**/*.json"))
    return [*kept.apart.items(), *((path.relative_to(results).as_posix(), _own(path, held, scale)) for path in own)]


def stand_ins(kept: Kept, held: Table, scale: Scale) -> dict[str, str]:
    """For the name of a data set, the file that was read instead of it, as `--data` takes it."""
    found = {}
    for (row, column), outcomes in kept.found.items():
        named = held.job(row, column, scale).config.get("data")
        found |= {str(named): one.data for one in outcomes.values() if one.data and named}
    return found


def _own(path: Path, held: Table, scale: Scale) -> str:
    try:
        cell = Cell.read(path)
    except FileError as error:
        return str(error)
    beside = held.job(cell.row, cell.column, scale).changed if (cell.row, cell.column) in held.cells else {}
    own = {key: value for key, value in cell.changed.items() if beside.get(key) != value}
    return f"with changes of somebody's own: {', '.join(f'{key}={_text(value)}' for key, value in own.items())}"


def _papers(job: Job, key: str) -> Any:
    """The paper's value of a key that a job changed."""
    if isinstance(job, Calculation):
        return plain(job.printed).get(key)
    values = asdict(job.settings(0, Path("runs"))) if isinstance(job, Training) else {}
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return plain(values)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _label(row: str, column: str) -> str:
    return f"{row}, {column}" if column else row


def _named(cells: Sequence[str], of: int) -> str:
    if len(cells) == of:
        return "all"
    return "; ".join(cells) if len(cells) <= MOST_ROWS else f"{len(cells)} of {of} cells"


def _counted(texts: Iterator[str]) -> str:
    """Texts with how often each is met, where there are several."""
    met = Counter(texts)
    if len(met) == 1:
        return next(iter(met))
    return "; ".join(f"{text} ({count} run{'s' * (count > 1)})" for text, count in met.items())


def _commit(one: Outcome) -> str:
    commit = one.environment.get("commit")
    version = one.environment.get("packages", {}).get("weightshare", "unknown")
    return str(commit)[:10] if commit else f"the released version {version}"


def _data(name: str) -> str:
    return f"{name}, in place of the data set" + (", whose images were saved as JPEG" if "jpeg" in name.lower() else "")


def _machine(environment: Mapping[str, Any]) -> str:
    where = environment.get("gpu") or environment.get("processor") or "not told"
    threads = environment.get("threads")
    return f"{where}{'' if environment.get('gpu') or not threads else f', threads in a run: {threads}'}"


def _versions(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages", {})
    kept = [f"{name} {packages[name]}" for name in ("weightshare", "torch", "numpy") if name in packages]
    return ", ".join([f"Python {environment['python']}", *kept] if "python" in environment else kept)


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:,.6g}"
