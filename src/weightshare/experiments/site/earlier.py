"""Results of earlier studies, in the format from before tables: listed with their notes, clearly apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path

from weightshare.errors import FileError
from weightshare.experiments import cells
from weightshare.experiments.studies import results as studies
from weightshare.experiments.studies.results import Result


@dataclass(frozen=True)
class Study:
    """The results of one folder.

    Args:
        name: `<paper>/<table>`.
        results: Its rows.
        notes: What differs from the paper's protocol, each once; rows refer to them by number, from 1.
    """

    name: str
    results: Sequence[Result]
    notes: Sequence[str]

    def note_of(self, result: Result) -> int:
        """The number of a row's note, 0 without one."""
        return self.notes.index(result.notes) + 1 if result.notes else 0


@dataclass(frozen=True)
class Earlier:
    """What lies in the folder of results and is no cell of a table.

    Args:
        studies: By name.
        others: Further files, each with what it is.
    """

    studies: Sequence[Study] = ()
    others: Mapping[str, str] = field(default_factory=dict)


def earlier(folder: Path, known: Sequence[str]) -> Earlier:
    """Read all files of results that are no cells.

    Args:
        folder: Of results.
        known: Names of tables, whose own folders hold cells and are left out.
    """
    found: dict[str, list[Result]] = {}
    others: dict[str, str] = {}
    for path in sorted(folder.rglob("*.json")):
        inside = path.relative_to(folder)
        if len(inside.parts) > 3 and "/".join(inside.parts[:2]) in known:
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kind = data.get("format") if isinstance(data, dict) else None
            if kind == studies.FORMAT:
                result = Result.read(path)
                found.setdefault(f"{result.paper}/{result.table}", []).append(result)
            elif kind == cells.FORMAT:
                others[inside.as_posix()] = f"a cell of {data.get('table')!r}, which is no table now"
            else:
                others[inside.as_posix()] = "numbers that a study or a benchmark wrote beside its results"
        except (OSError, ValueError, FileError) as error:
            others[inside.as_posix()] = f"cannot be read: {error}"
    made = [
        Study(name, some, list(dict.fromkeys(one.notes for one in some if one.notes))) for name, some in found.items()
    ]
    return Earlier(made, others)


def commit_of(result: Result) -> str:
    """The commit of a result, in short, or that none was recorded."""
    commit = result.environment.get("commit")
    return (
        f"{str(commit)[:10]}{', with changes' if result.environment.get('dirty') else ''}" if commit else "not recorded"
    )
