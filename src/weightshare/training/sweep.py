"""A sweep: many runs that differ in a few values, side by side on Ray, and one page that compares them.

sweep.yaml    what the sweep was last started with
index.html    the page, written again whenever a run has ended
NAME/         a run directory for each run, as `weightshare train` would make it; see `training.run`

A sweep that was stopped, or killed in any way, goes on when it is started again: runs that are finished are read, and
those that were at work go on from their checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
import os
from pathlib import Path
import time

from weightshare.analysis.comparison import Comparison, Entry, compare_page
from weightshare.errors import TrainingError
from weightshare.files.atomic import write_text
from weightshare.training.recipe import read_yaml, strict
from weightshare.training.sweep_plan import SEED, Planned, SweepConfig, planned
from weightshare.training.sweep_ray import on_ray
from weightshare.training.sweep_runs import DONE, Found, carry_out, forgive, look
from weightshare.training.workplace import Stopped, at_work

CONFIG, PAGE = "sweep.yaml", "index.html"
SHARE_OF_TIME = 0.05  # that drawing the page may take while runs are at work


def read_sweep(path: str | Path) -> SweepConfig:
    """Read a sweep from a YAML file.

    Raises:
        ConfigError: If the file is missing, or has an unknown key or a value of the wrong kind.
    """
    return strict(SweepConfig, read_yaml(path))


def sweep(config: SweepConfig, echo: Callable[[str], None] = print, retry: bool = False) -> list[Found]:
    """Carry out every run of a sweep that is not done yet, and write the page that compares them.

    A run that fails does not stop the others: the page says why it did.

    Args:
        config: What to do.
        echo: Gets a line whenever a run has ended.
        retry: Whether runs that failed before are tried again.

    Returns:
        For each run what its directory tells: `finished`, `stopped early`, `failed`, or `unfinished` if its worker
        died again and again.

    Raises:
        ConfigError: If the configuration does not fit, or Ray is not installed or not to be had.
        TrainingError: If another process is at work in the folder, a directory holds another run, or a node of the
            cluster is not ready.
        Stopped: If the process was asked to stop.

    Example:
        >>> small = {"model": "convmixer:8/2/2/3", "device": "cpu", "train": {"epochs": 1}}
        >>> config = SweepConfig(small, {"train.lr": [0.01, 0.03], "seed": [0, 1]}, out="runs/sweep")
        >>> [run.name for run in planned(config)]
        ['lr=0.01_seed=0', 'lr=0.01_seed=1', 'lr=0.03_seed=0', 'lr=0.03_seed=1']
    """
    runs = planned(config)
    out = Path(config.out).absolute()
    with at_work(out):
        if retry:
            for run in runs:
                forgive(run)
        found = [look(run) for run in runs]
        write_text(out / CONFIG, _yaml(config))
        page = _Page(config, runs, echo)
        for one in found:
            if one.summary and not one.finishes:
                carry_out(one.planned)  # only notes that it was finished when its worker was killed
        page.write()
        if any(one.status not in DONE for one in found):
            try:
                on_ray(config, found, page.ended)
            except Stopped as stop:
                page.write()
                raise Stopped(f"{stop} {page.told}", stop.asked) from None
            page.write()
        return page.found


def rewrite_page(folder: str | Path) -> Path:
    """Make the page of a sweep again from its runs' directories, also while it is at work.

    Raises:
        SharingError: If the folder is no sweep, or a run's files are damaged.
    """
    path = Path(folder) / PAGE
    write_text(path, _page(*read_folder(folder)))
    return path


def read_folder(folder: str | Path) -> tuple[SweepConfig, list[Found]]:
    """What a sweep's folder holds, wherever it has been moved to: its configuration and its runs.

    Raises:
        SharingError: If the folder is no sweep, or a run's files are damaged.
    """
    path = Path(folder) / CONFIG
    if not os.path.isfile(path):
        raise TrainingError(f"'{folder}' is no sweep: it has no {CONFIG}. Make one with: weightshare sweep FILE")
    config = replace(read_sweep(path), out=str(folder))
    return config, [look(run) for run in planned(config)]


def compared(config: SweepConfig, found: Sequence[Found]) -> Comparison:
    """The runs as the page compares them."""
    entries = [
        Entry(one.planned.name, one.planned.values, one.status, one.history, one.summary, one.error, one.attempts)
        for one in found
    ]
    return Comparison(entries, config.metric, config.mode, SEED)


class _Page:
    """The page of a sweep, and the lines that are told while it is at work."""

    def __init__(self, config: SweepConfig, runs: Sequence[Planned], echo: Callable[[str], None]) -> None:
        self.config, self.runs, self.echo = config, runs, echo
        self.found: list[Found] = []
        self._written, self._seconds = 0.0, 0.0

    def write(self) -> None:
        """Look at all directories, and write the page."""
        started = time.monotonic()
        self.found = [look(run) for run in self.runs]
        write_text(Path(self.config.out) / PAGE, _page(self.config, self.found))
        self._written = time.monotonic()
        self._seconds = self._written - started

    def ended(self, run: Planned) -> None:
        """Tell of a run that has ended; the page is written unless that was done a moment ago."""
        one = look(run)
        number = one.history[-1].get(self.config.metric) if one.history and one.summary else None
        said = one.error or ("" if number is None else f"{self.config.metric} {number:.4g}")
        self.found = [one if other.planned.name == run.name else other for other in self.found]
        self.echo(f"{self.told} {run.name}: {one.status}{', ' if said else ''}{said}")
        if time.monotonic() - self._written > self._seconds / SHARE_OF_TIME:
            self.write()

    @property
    def told(self) -> str:
        """How far it is."""
        return f"{sum(one.status in DONE for one in self.found)} of {len(self.found)} runs have ended."


def _page(config: SweepConfig, found: Sequence[Found]) -> str:
    return compare_page(Path(config.out).absolute().name, compared(config, found), _yaml(config))


def _yaml(config: SweepConfig) -> str:
    import yaml

    return yaml.safe_dump(asdict(config), sort_keys=False)
