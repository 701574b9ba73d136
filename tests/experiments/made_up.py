"""Tables and results that are made up, for tests of what shows them: no work is behind their cells."""

from collections.abc import Mapping
from dataclasses import replace
import math
from pathlib import Path

import weightshare
from weightshare.experiments.cells import Cell, folder_of
from weightshare.experiments.jobs import Calculation, Outcome, Scale
from weightshare.experiments.printed import Printed
from weightshare.experiments.table import Found, Metric, Outcomes, Table, no_job, single

COMMIT = "0123456789" + 30 * "0"
VERSION = weightshare.__version__
PROTOCOL: Mapping[Scale, str] = {
    "smoke": "Digits, one epoch.",
    "small": "A fifth of the images, 12 epochs instead of 200 & half the width.",
    "paper": "bfloat16 in products.",
}
ROWS = {
    "conv": "convolutions, with a description that is as long as some of them are",
    "lc": "local layers",
    "lc-ws1": "local layers, sleep after every batch",
    "lc-ws10": "so, after every 10 batches <b>",
}
ACCURACIES = {
    name: {f"{name}/top1": Metric(f"{title} top-1"), f"{name}/top1-diff": Metric(f"{title} top-1, less conv")}
    for name, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
}
PRINTED = {
    "conv": {"cifar10/top1": Printed(84.1, "table 4"), "cifar100/top1": Printed(50.27, "table 4")},
    "lc": {
        "cifar10/top1": Printed(67.21, "table 4"),
        "cifar10/top1-diff": Printed(-16.9, "table 4", misprint="The text says 16.8 < 16.9."),
    },
    "lc-ws1": {"cifar10/top1": Printed(None, "table 4", word="Diverged")},
    "lc-ws10": {"cifar10/top1": Printed(81.0, "table 4"), "cifar100/top1": Printed(48.5, "table 4")},
}


def nothing(seed: int, **arguments: object) -> Outcome:
    raise AssertionError("no cell is made in these tests")


def job(row: str, column: str, scale: Scale) -> Calculation:
    epochs = {"smoke": 1, "small": 12, "paper": 200}
    paper = {"epochs": 200, "width": 64, "row": row}
    arguments = {"epochs": epochs[scale], "width": 64 if scale == "paper" else 32, "row": row}
    return Calculation(nothing, arguments, paper, data=column or "cifar10")


def halves(outcomes: Outcomes) -> Outcomes:
    return {
        seed: replace(one, metrics={key: value / 2 for key, value in one.metrics.items()})
        for seed, one in outcomes.items()
    }


def picture(found: Found):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.subplots()
    for row in ("conv", "lc"):
        axes.plot([1, 2], [found[row, ""][0].metrics["snr"], 1], "o-")
    return figure


TABLE = Table(
    "pogodin2021/table4",
    "Convolutions, local layers and sleep",
    "table 4",
    ROWS,
    ACCURACIES,
    job,
    PROTOCOL,
    PRINTED,
    holds=lambda row, column: (row, column) != ("lc-ws1", "cifar100"),
    against="conv",
    note="A note: 1 < 2.",
)
MAIN = replace(TABLE, name="pogodin2021/table1", title="The main text's part", job=no_job, like=TABLE.name)
HALVED = replace(
    MAIN, name="pogodin2021/table6", title="Half of everything", derived=halves, printed={}, against=None, note=""
)
FIGURE = Table(
    "pogodin2021/figure5",
    "A figure of two curves",
    "figure 5",
    {row: ROWS[row] for row in ("conv", "lc")},
    single(snr=Metric("signal to noise", "", "", 3)),
    job,
    PROTOCOL,
    picture=picture,
)
EMPTY = replace(TABLE, name="lin2022/table9", title="Nothing of this is made", against=None, note="")
BARE = replace(FIGURE, name="beyond/figure1", title="Neither printed nor made")
TABLES = {table.name: table for table in (MAIN, TABLE, HALVED, FIGURE, EMPTY, BARE)}

MADE: Mapping[tuple[str, str], float] = {
    ("conv", "cifar10"): 84.0,
    ("lc", "cifar10"): 66.0,
    ("lc-ws1", "cifar10"): math.nan,
    ("lc-ws10", "cifar10"): 80.5,
    ("conv", "cifar100"): 51.25,
    ("lc", "cifar100"): 31.0,
}
"""The mean of three runs of each cell, at `small`; nan where they diverge; one cell is not made."""


def environment(dirty: bool = False) -> dict[str, object]:
    """Of a result that counts, or of one that does not."""
    packages = {"weightshare": VERSION, "torch": "2.13.0", "numpy": "2.4.6"}
    machine = {"processor": "A processor", "cores": 2, "threads": 1, "gpu": None, "peak_memory_bytes": 3 * 2**28}
    return {"python": "3.11.7", "packages": packages, **machine, "commit": COMMIT, "dirty": dirty, "joules": 7200.0}


def outcome(mean: float, seed: int, name: str, **more: object) -> Outcome:
    """A run: its number is above the mean, below it or on it, by 1."""
    value = mean + (seed % 3) - 1
    metrics, numbers = {name: value}, {"stored": 1000.0 + 500 * len(name) + value}
    if math.isnan(mean):
        metrics, numbers = {}, {"diverged": 1.0}
    curves = {"test_accuracy": [value * at / 12 for at in range(1, 13)], "train_loss": [2.0, None, 1.0]}
    given = {"seconds": 100.0 + seed, "data": "cifar10_jpeg.npz", "environment": environment(), **more}
    return Outcome(metrics, numbers, curves, **given)


def write(
    results: Path, table: Table, row: str, column: str, scale: str, outcomes: Mapping[int, Outcome], **changed
) -> Path:
    """Write a cell whose protocol is the table's, but for what is changed."""
    made = table.job(row, column, scale.partition("+")[0])
    path = folder_of(results, table, scale) / f"{row}{f'@{column}' if column else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    config, differs = {**made.config, **changed}, {**made.changed, **changed}
    Cell(table.name, row, column, scale, config, differs, dict(outcomes)).write(path)
    return path


def write_all(results: Path) -> None:
    """Results that count, made with changes, of another protocol, with somebody's own deltas, and damaged."""
    for (row, column), mean in MADE.items():
        write(results, TABLE, row, column, "small", {at: outcome(mean, at, f"{column}/top1") for at in range(3)})
    write(results, TABLE, "conv", "cifar10", "smoke", {0: outcome(11, 1, "cifar10/top1")})
    for row, mean in {"conv": 0.25, "lc": 0.5}.items():
        write(results, FIGURE, row, "", "small", {at: outcome(mean, at, "snr") for at in range(3)})
    tree = {0: outcome(99.125, 1, "cifar100/top1", environment=environment(dirty=True))}
    write(results, TABLE, "lc-ws10", "cifar100", "small", tree)
    write(results, TABLE, "conv", "cifar100", "paper", {0: outcome(98.125, 1, "cifar100/top1")}, epochs=7)
    write(results, TABLE, "conv", "cifar10", "small+mine", {0: outcome(97.125, 1, "cifar10/top1")}, epochs=3)
    damaged = folder_of(results, FIGURE, "paper") / "conv.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"format": "weightshare.cell/1", "tab', encoding="utf-8")
