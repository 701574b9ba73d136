"""Beyond the four papers: all four methods on one task, and the methods of their neighbours."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from weightshare.experiments.jobs import Scale, Training
from weightshare.experiments.studies import four_methods
from weightshare.experiments.table import Metric, Table, single

PAPER = "beyond"

FOUR: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"data": "digits", "prepare.fraction": 0.2, "train.epochs": 1},
    "small": {"prepare.fraction": 0.2, "train.epochs": 12},
    "paper": {},
}
FOUR_CHANNELS: Mapping[Scale, int] = {"smoke": 4, "small": 16, "paper": four_methods.CHANNELS}


def four(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the four methods' table."""
    arm, deltas = four_methods.ARMS[row], dict(FOUR[scale])
    deltas["model_args"] = four_methods.settings(row, 0, four_methods.NOWHERE, FOUR_CHANNELS[scale]).model_args
    if arm.retrained and "train.epochs" in deltas:
        deltas["train.epochs"] = max(1, deltas["train.epochs"] // 4)
    return Training(partial(four_methods.settings, row), row, deltas=deltas, measure=partial(four_methods.stored, row))


def four_needs(row: str) -> list[str]:
    """The row that a row starts from."""
    start = four_methods.ARMS[row].start
    return [] if start is None else [start]


TABLES: tuple[Table, ...] = (
    Table(
        name="beyond/four-methods",
        title="All four methods on one task, at equal stored numbers",
        source="ours",
        rows={row: four_methods.titled(row) for row in four_methods.ARMS},
        columns=single(
            accuracy=Metric("test accuracy"),
            stored=Metric("stored numbers", "", "low", 0),
            file=Metric("file", "KiB", "low", 1),
            macs=Metric("multiply-adds", "M", "low", 2),
        ),
        job=four,
        needs=four_needs,
        protocol={
            "smoke": "Digits, one epoch, 4 channels.",
            "small": "16 channels instead of 64, 12 epochs instead of 100 (3 of retraining), a fifth of the training images.",
            "paper": "A protocol of ours: CIFAR-10, 64 channels at 4×4 positions, AdamW, 100 epochs, 25 of retraining.",
        },
    ),
)
