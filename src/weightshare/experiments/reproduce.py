"""Make what is missing of a table: cell by cell and seed by seed, several at once, and go on after any stop.

Workers only work: they are handed the name of a table, a cell and seeds, and give back outcomes. This process alone
writes result files, each in one step, as soon as a seed is done. A run that was stopped lies in its run directory.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
import logging
import multiprocessing
import os
from pathlib import Path
import re
import signal
import sys
from typing import Any

import torch

from weightshare.errors import ConfigError, SharingError, TrainingError
from weightshare.experiments.cells import APART, VARIANT, Cell, Source, counted, folder_of, load, put_apart
from weightshare.experiments.jobs import Job, Outcome, Place, Scale, Training
from weightshare.experiments.papers import holder, kept, table_named
from weightshare.experiments.table import Found, Table, checked_scale
from weightshare.training.environment import environment
from weightshare.training.progress import progress
from weightshare.training.workplace import Stopped, at_work, stoppable

PATIENCE = 0.5
"""Seconds after which it is looked up whether this process was asked to stop."""


@dataclass(frozen=True)
class Task:
    """What a worker is handed.

    Args:
        table: Its name.
        row: Of the cell.
        column: Of the cell.
        scale: Of the cell.
        seeds: To be worked on in one go.
        place: Where.
        deltas: Somebody's own, on top of the scale's.
    """

    table: str
    row: str
    column: str
    scale: Scale
    seeds: tuple[int, ...]
    place: Place
    deltas: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        column = f" {self.column}" if self.column else ""
        return f"{self.row}{column} seed {', '.join(map(str, self.seeds))}"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        table: Its name.
        scale: `smoke`, `small` or `paper`.
        rows: Which, or all.
        columns: Which, or all.
        seeds: How many runs of each cell, from seed 0; the table's own number if nothing.
        results: Folder of results.
        out: Folder of run directories.
        workers: Processes at once; one for each core if nothing, or one where there is a GPU.
        data: For the name of a data set what is read instead of it.
        data_dir: Where data sets lie.
        deltas: Somebody's own changes by dotted key, for tables that are trainings; results go to a folder of `name`.
        name: Of these deltas.
    """

    table: str
    scale: Scale = "small"
    rows: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    seeds: int | None = None
    results: Path = Path("results")
    out: Path = Path("runs/reproduce")
    workers: int | None = None
    data: Mapping[str, str] | None = None
    data_dir: str | None = None
    deltas: Mapping[str, Any] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        checked_scale(self.scale)
        for name, value in (("seeds", self.seeds), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: need 1 or more.")
        for name, source in (self.data or {}).items():
            if not isinstance(source, str) or not source:
                raise ConfigError(f"data {name}={source!r}: need NAME=SOURCE, a packed file or a folder.")
        if bool(self.deltas) != bool(self.name) or not re.fullmatch(r"[A-Za-z0-9_-]*", self.name):
            raise ConfigError(
                f"name={self.name!r}, deltas={self.deltas!r}: need both or neither, the name of letters, digits, '-'."
            )

    @property
    def folder(self) -> str:
        """The name of the folder of the results, and of that of the runs."""
        return f"{self.scale}{VARIANT}{self.name}" if self.name else self.scale


def reproduce(request: Request, echo: Callable[[str], None] = print) -> Table:
    """Make what is missing of a table at a scale, and write a result file for each cell.

    A cell whose results count already is not made again; see `cells` for what counts. With a checkout that has changes,
    results are kept apart.

    Args:
        request: What is asked for.
        echo: Gets lines about what is done.

    Returns:
        The table that holds the cells: the one asked for, or the one that it is like.

    Raises:
        ConfigError: If there is no such table, row or column.
        TrainingError: If a cell cannot be made; the others were.
        Stopped, KeyboardInterrupt: When asked to stop; what was done is kept.
    """
    asked = table_named(request.table)
    table = holder(asked)
    rows, columns = _with_needs(table, asked.chosen(request.rows)), _columns(asked, request.columns)
    seeds = range(request.seeds or table.seeds[request.scale])
    machine = environment()
    source = Source.of(machine)
    folder = folder_of(request.results, table, request.folder)
    place = Place(request.out / table.paper / table.key / request.folder, request.data or {}, request.data_dir)
    with at_work(place.runs):
        tasks = []
        for row, column in table.cells:
            if row in rows and column in columns:
                job = job_of(table, row, column, request.scale, request.deltas)
                missing = _missing(folder, Cell(table.name, row, column, request.folder, {}), job, seeds, source)
                groups = [tuple(missing)] if job.together and missing else [(seed,) for seed in missing]
                tasks += [
                    Task(table.name, row, column, request.scale, group, place, request.deltas) for group in groups
                ]
        if not tasks:
            echo(f"{table.name} at scale {request.folder}: all is there, nothing to do.")
            return table
        if source.dirty:
            echo("The package's files have changes that are in no commit: results are kept apart.")
        _carry_out(table, tasks, request, folder, source, echo)
    return table


def found_of(request: Request, version: str) -> Found:
    """What is there of what a request asks for, and counts; with somebody's own deltas, the results of these.

    Args:
        request: What was asked for.
        version: Of the package: results of another one do not count.
    """
    table = table_named(request.table)
    if not request.deltas:
        return kept(request.results, table, request.scale, version).found
    held = holder(table)
    own = replace(held, job=lambda row, column, scale: job_of(held, row, column, scale, request.deltas))
    found = load(request.results, own, request.scale, version, request.folder).found
    return {cell: found[cell] for cell in table.cells if cell in found}


def job_of(table: Table, row: str, column: str, scale: Scale, deltas: Mapping[str, Any] | None = None) -> Job:
    """The work behind a cell, with somebody's own deltas on top.

    Raises:
        ConfigError: If there are deltas, and the cell is no training.
    """
    job = table.job(row, column, scale)
    if not deltas:
        return job
    if not isinstance(job, Training):
        raise ConfigError(f"{table.name} is no table of trainings: deltas do not fit it.")
    changed = replace(job, deltas={**job.deltas, **deltas})
    changed.resolved(0, Place(Path("runs")))  # a key that does not exist is told before anything runs
    return changed


def work(task: Task) -> dict[int, Outcome]:
    """What a worker does; what a run says on standard error goes to `log.txt` of the folder of runs."""
    job = job_of(table_named(task.table), task.row, task.column, task.scale, task.deltas)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    task.place.runs.mkdir(parents=True, exist_ok=True)
    try:
        with open(task.place.runs / "log.txt", "a", encoding="utf-8") as log, redirect_stderr(log):
            return job.work(task.seeds, task.place)
    finally:
        if _parent not in (0, os.getppid()):  # nobody waits for the outcome, and nobody would end this process
            os._exit(1)


def _carry_out(
    table: Table, tasks: Sequence[Task], request: Request, folder: Path, source: Source, echo: Callable[[str], None]
) -> None:
    workers = min(request.workers or _workers(), len(tasks))
    failed: list[str] = []
    with progress(f"{table.name} {request.folder}", len(tasks), 0) as step:

        def keep(task: Task, outcomes: Mapping[int, Outcome]) -> None:
            _write(table, task, request, folder, source, outcomes)
            step(task.label)

        if workers == 1:
            for task in tasks:
                try:
                    outcomes = work(task)
                except Stopped:
                    raise
                except SharingError as error:
                    failed.append(f"{task.label}: {error}")
                else:
                    keep(task, outcomes)  # where this fails, everything else would
        else:
            failed = _in_parallel(table, tasks, workers, keep)
    if failed:
        done = f"{len(tasks) - len(failed)} of {len(tasks)} runs are done"
        listed = "\n  ".join(failed)
        raise TrainingError(f"{table.name}: {len(failed)} failed, {done}. Go on with the same command.\n  {listed}")


def _in_parallel(
    table: Table, tasks: Sequence[Task], workers: int, keep: Callable[[Task, Mapping[int, Outcome]], None]
) -> list[str]:
    """Carry out tasks on several processes, what a row starts from before it; the reasons of those that failed."""
    threads = max(1, torch.get_num_threads() // workers)
    waiting, running, failed, bad = list(tasks), dict[Future[dict[int, Outcome]], Task](), list[str](), list[Task]()
    context = multiprocessing.get_context("spawn")
    start = {"initializer": _start, "initargs": (threads, os.getpid())}
    with stoppable(True) as stop, ProcessPoolExecutor(workers, context, **start) as pool:
        try:
            while waiting or running:
                for task in [one for one in waiting if not _blocked(table, one, [*waiting, *running.values()])]:
                    if any(_starts_from(table, task, other) for other in bad):
                        failed.append(f"{task.label}: what it starts from failed")
                        bad.append(task)
                    elif len(running) < workers:  # so that nothing is left to a worker once this process is gone
                        running[pool.submit(work, task)] = task
                    else:
                        break
                    waiting.remove(task)
                finished = wait(running, timeout=PATIENCE, return_when=FIRST_COMPLETED).done if running else ()
                if stop.signal is not None:
                    raise Stopped("Stopped between two runs, or inside of some.", stop.signal)
                for done in finished:
                    task = running.pop(done)
                    try:
                        outcomes = done.result()
                    except BrokenProcessPool as error:
                        raise TrainingError(
                            "A worker died: killed by the system, perhaps for want of memory; try fewer workers. What "
                            "was done is kept: go on with the same command."
                        ) from error
                    except Stopped:
                        raise
                    except SharingError as error:
                        failed.append(f"{task.label}: {error}")
                        bad.append(task)
                    else:
                        keep(task, outcomes)
        except BaseException:  # also when asked to stop: runs under way keep their state
            for process in list((pool._processes or {}).values()):
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGTERM)
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


_parent = 0
"""In a worker, the process that it works for."""


def _start(threads: int, parent: int) -> None:
    """What a worker does first: it uses its share of the cores, and ends, its state kept, when its parent is killed."""
    global _parent
    _parent = parent
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes on what it is told
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _blocked(table: Table, task: Task, others: Sequence[Task]) -> bool:
    return any(_starts_from(table, task, other) for other in others)


def _starts_from(table: Table, task: Task, other: Task) -> bool:
    same = task.column == other.column and bool({*task.seeds} & {*other.seeds})
    return same and other.row in table.needs(task.row)


def _missing(folder: Path, cell: Cell, job: Job, seeds: Sequence[int], source: Source) -> list[int]:
    """Seeds without a result that counts; files that cannot count any more are moved out of the way."""
    path = _path(folder, cell, source)
    if source.dirty:
        held = Cell.read(path) if path.is_file() else None
        return [seed for seed in seeds if held is None or not job.agrees(held.config) or seed not in held.outcomes]
    if not path.is_file():
        return list(seeds)
    outcomes, _, why = counted(path, job, source.version)
    if why:
        put_apart(path)
        if outcomes:
            replace(cell, config=job.config, changed=job.changed, outcomes=outcomes).write(path)
    return [seed for seed in seeds if seed not in outcomes]


def _write(
    table: Table, task: Task, request: Request, folder: Path, source: Source, outcomes: Mapping[int, Outcome]
) -> None:
    job = job_of(table, task.row, task.column, task.scale, task.deltas)
    cell = Cell(table.name, task.row, task.column, request.folder, job.config, job.changed)
    path = _path(folder, cell, source)
    held = Cell.read(path) if path.is_file() else cell
    cell.outcomes = {**(held.outcomes if job.agrees(held.config) else {}), **outcomes}
    cell.write(path)


def _path(folder: Path, cell: Cell, source: Source) -> Path:
    return folder / APART / f"{cell.file.removesuffix('.json')}-dirty.json" if source.dirty else folder / cell.file


def _with_needs(table: Table, rows: Sequence[str]) -> set[str]:
    """Rows, and those that they start from."""
    wanted, left = set(rows), list(rows)
    while left:
        new = [row for row in table.needs(left.pop()) if row not in wanted]
        wanted |= {*new}
        left += new
    return wanted


def _columns(table: Table, columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return list(table.columns)
    unknown = [column for column in columns if column not in table.columns]
    if unknown:
        raise ConfigError(f"{table.name} has no column {unknown[0]!r}: need {', '.join(table.columns)}.")
    return list(columns)


def _workers() -> int:
    return 1 if torch.cuda.is_available() else max(1, torch.get_num_threads())
