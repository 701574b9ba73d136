"""Shakerinava 2023, weight-sharing regularisation: its tables and figures.

The numbers of the paper that we have are three: 92.40 and 95.04 % on the torus, 73.50 % on CIFAR-10.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightshare.experiments.jobs import Scale, Training
from weightshare.experiments.printed import Printed
from weightshare.experiments.studies.torus import LAYERS, PREPARE, RECIPE, proximal
from weightshare.experiments.table import Metric, Table, single
from weightshare.training.recipe import RunConfig
from weightshare.training.regularise import Regularise

PAPER = "shakerinava2023"

TORUS_ROWS: dict[str, tuple[str, str, list[Regularise], bool]] = {
    "cnn": ("circular convolutions", "torus-cnn", [], False),
    "plain": ("fully connected twin", "torus-mlp", [], False),
    "l1": ("ℓ1", "torus-mlp", [Regularise(l1=1e-3, where=list(LAYERS))], False),
    "regularised": ("R by its proximal map", "torus-mlp", proximal(1e-3, 1e-4), False),
}
"""For each row what it is, the network, what regularises it and whether pixels are shuffled."""

DELTAS: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"data": "digits", "prepare.fraction": 0.5, "prepare.pool": 1, "train.epochs": 1, "train.batch_size": 64},
    "small": {"train.epochs": 60},
    "paper": {},
}
WIDTHS: Mapping[Scale, str] = {"smoke": "2/3", "small": "4/8", "paper": "32/64"}


def torus(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the torus table."""
    _, network, regularise, shuffle = TORUS_ROWS[row]

    def settings(seed: int, runs: Path) -> RunConfig:
        return RunConfig(
            f"{network}:{WIDTHS['paper']}",
            data="mnist",
            prepare=replace(PREPARE, shuffle=shuffle),
            train=replace(RECIPE, regularise=regularise),
            precision="bf16-mixed",
        )

    return Training(settings, row, deltas={"model": f"{network}:{WIDTHS[scale]}", **DELTAS[scale]})


TABLES = (
    Table(
        name="shakerinava2023/torus",
        title="MNIST on a torus: can a fully connected network find convolutions by itself?",
        source="key results",
        rows={row: made[0] for row, made in TORUS_ROWS.items()},
        columns=single(accuracy=Metric("test accuracy")),
        job=torus,
        printed={
            "plain": {"accuracy": Printed(92.40, "key results")},
            "regularised": {"accuracy": Printed(95.04, "key results")},
        },
        protocol={
            "smoke": "Digits, one epoch, 2 and 3 channels.",
            "small": "4 and 8 channels instead of 32 and 64, 60 epochs instead of 200.",
            "paper": "bfloat16 in products.",
        },
    ),
)
