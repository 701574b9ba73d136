"""The runs of a sweep as their directories tell: what is done, and how one is carried out exactly once.

The directories are all that a sweep knows. A finished run has its `summary.json`; beside a run's own files there are

attempts.jsonl      one line whenever the run starts, finishes or fails
failed.json         why it failed; as long as it is there the run is not tried again
stopped_early.json  after which epoch it was told to end
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
import json
import os
from pathlib import Path
import platform
import traceback
from typing import Any, Literal

from weightshare.errors import FileError, SharingError
from weightshare.files.atomic import read_json, write_json, write_text
from weightshare.training.keeper import METRICS
from weightshare.training.loop import History
from weightshare.training.run import finished, read_history, run
from weightshare.training.sweep_plan import Planned
from weightshare.training.workplace import at_work

ATTEMPTS, FAILED, STOPPED_EARLY = "attempts.jsonl", "failed.json", "stopped_early.json"
PATIENCE = 60.0  # seconds in which a killed worker has let go of its directory
Status = Literal["waiting", "unfinished", "finished", "stopped early", "failed"]
DONE: tuple[Status, ...] = ("finished", "stopped early", "failed")


@dataclass(frozen=True)
class Found:
    """What a run's directory tells.

    Args:
        planned: The run.
        status: How far it is; `unfinished` is at work, or was killed and can go on.
        history: Its rows so far.
        summary: What `summary.json` holds, once it is finished.
        error: Why it failed.
        attempts: How often it was started.
        finishes: How often it came to its end: never or once.
    """

    planned: Planned
    status: Status
    history: History = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    attempts: int = 0
    finishes: int = 0


def look(planned: Planned) -> Found:
    """Read a run's directory.

    Raises:
        TrainingError: If it holds another run.
        FileError: If its files are damaged.
    """
    folder = planned.folder
    events = [row["event"] for row in read_attempts(folder)]
    attempts, finishes = events.count("started"), events.count("finished")
    if (folder / FAILED).is_file():
        said = read_json(folder / FAILED)
        error = said.get("error") if isinstance(said, dict) else None
        return Found(planned, "failed", _rows(folder), {}, str(error), attempts, finishes)
    try:
        config = planned.config
    except SharingError as error:
        return Found(planned, "failed", error=str(error))
    summary = finished(folder, config)
    if summary is not None:
        status: Status = "stopped early" if summary.get("stopped_early") else "finished"
        return Found(planned, status, read_history(folder), summary, "", attempts, finishes)
    rows = _rows(folder)
    return Found(planned, "unfinished" if rows or attempts else "waiting", rows, {}, "", attempts, finishes)


def carry_out(planned: Planned, on_epoch: Callable[[History], bool] | None = None) -> Found:
    """Train a run unless that was done; an error ends up in its directory.

    Args:
        planned: The run.
        on_epoch: As for `fit`; asked only where no `stopped_early.json` has said so before.

    Returns:
        What its directory tells afterwards: `finished`, `stopped early` or `failed`.

    Raises:
        SharingError: If the directory cannot be written, holds another run, or another process does not leave it.
    """
    folder = planned.folder
    with at_work(folder, PATIENCE):  # held over the look as well, so that nothing is done twice
        if (found := look(planned)).status in DONE:
            if found.summary and not found.finishes:  # killed between the summary and the line
                _note(folder, "finished")
            return look(planned)
        _note(folder, "started")
        try:
            run(planned.config, label=planned.name, on_epoch=lambda rows: _ends(folder, rows, on_epoch))
        except Exception as error:  # whatever a network of the user's raises; the other runs go on
            write_json(folder / FAILED, {"error": _said(error), "traceback": traceback.format_exc()})
            _note(folder, "failed")
        else:
            _note(folder, "finished")
        return look(planned)


def end_early(planned: Planned, epoch: int) -> None:
    """Tell a run to end; its worker reads that after the epoch at the latest that it is in."""
    write_json(planned.folder / STOPPED_EARLY, {"epoch": epoch})


def forgive(planned: Planned) -> None:
    """Let a run that failed be tried again."""
    (planned.folder / FAILED).unlink(missing_ok=True)


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """The lines of `attempts.jsonl`, none if there is no such file.

    Raises:
        FileError: If it is damaged.
    """
    path = folder / ATTEMPTS
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read '{path}': {error}. Delete it: it only counts.") from error
    if not all(isinstance(row, dict) and isinstance(row.get("event"), str) for row in rows):
        raise FileError(f"'{path}' is damaged. Delete it: it only counts.")
    return rows


def _note(folder: Path, event: str) -> None:
    """Add a line; under the directory's lock, and the whole file at once, so that no line is ever torn."""
    row = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    row |= {"host": platform.node(), "process": os.getpid()}
    lines = [json.dumps(line) for line in (*read_attempts(folder), row)]
    write_text(folder / ATTEMPTS, "\n".join(lines) + "\n")


def _ends(folder: Path, rows: History, on_epoch: Callable[[History], bool] | None) -> bool:
    if not (folder / STOPPED_EARLY).exists() and on_epoch is not None and on_epoch(rows):
        write_json(folder / STOPPED_EARLY, {"epoch": len(rows)})
    return (folder / STOPPED_EARLY).exists()


def _rows(folder: Path) -> History:
    """What a run that is not finished has written so far."""
    return read_history(folder) if (folder / METRICS).is_file() and (folder / METRICS).stat().st_size else []


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, SharingError) else f"{type(error).__name__}: {error}"
