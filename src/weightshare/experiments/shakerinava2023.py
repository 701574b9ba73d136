"""Shakerinava 2023, weight-sharing regularisation: its tables and figures.

The numbers of the paper that we have are three: 92.40 and 95.04 % on the torus, 73.50 % on CIFAR-10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightshare.experiments.jobs import Calculation, Scale, Training, accuracy, plain
from weightshare.experiments.printed.shakerinava2023 import TABLES as PRINTED
from weightshare.experiments.studies import prox_timing, torus_filters
from weightshare.experiments.studies.torus import LAYERS, PREPARE, RECIPE, proximal
from weightshare.experiments.table import Metric, Table, no_job, single
from weightshare.training.recipe import RunConfig
from weightshare.training.regularise import Regularise

PAPER = "shakerinava2023"
EVERY = 4
"""At small, a quarter of the batch with the map after every fourth step: as often for each image as in the paper."""

TORUS_ROWS: dict[str, tuple[str, str, list[Regularise]]] = {
    "cnn": ("circular convolutions", "torus-cnn", []),
    "plain": ("fully connected twin", "torus-mlp", []),
    "l1": ("ℓ1", "torus-mlp", [Regularise(l1=1e-3, where=list(LAYERS))]),
    "beta-lasso": ("β-lasso", "torus-mlp", [Regularise("beta_lasso", strength=1e-4, where=list(LAYERS))]),
    "subgradient": (
        "R by its subgradient",
        "torus-mlp",
        [Regularise("subgradient", strength=s, where=at) for s, at in zip((1e-3, 1e-4), LAYERS, strict=True)],
    ),
    "regularised": ("R by its proximal map", "torus-mlp", proximal(1e-3, 1e-4)),
    "rewound": ("R by its proximal map, rewound by 0.98", "torus-mlp", proximal(1e-2, 1e-3, rewind=0.98)),
}
"""For each row what it is, the network, and what regularises it. Strengths are the paper's for its own map and the
subgradient; of the others the better ones of a sweep."""

DELTAS: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"data": "digits", "prepare.fraction": 0.5, "prepare.pool": 1, "train.epochs": 1, "train.batch_size": 64},
    "small": {"train.epochs": 30, "train.batch_size": 128, "train.lr": 0.4},
    "paper": {},
}
WIDTHS: Mapping[Scale, str] = {"smoke": "2/3", "small": "4/8", "paper": "32/64"}
PRECISION: Mapping[Scale, str] = {"smoke": "32-true", "small": "32-true", "paper": "bf16-mixed"}


def torus_training(row: str, scale: Scale, shuffle: bool) -> Training:
    """The training of a row of the torus table, or of the same with pixels shuffled."""
    _, network, regularise = TORUS_ROWS[row]

    def settings(seed: int, runs: Path) -> RunConfig:
        return RunConfig(
            f"{network}:{WIDTHS['paper']}",
            data="mnist",
            prepare=replace(PREPARE, shuffle=shuffle),
            train=replace(RECIPE, regularise=regularise),
            precision="bf16-mixed",
        )

    def measure(made: RunConfig, summary: Mapping[str, Any]) -> Mapping[str, float]:
        return accuracy(made, summary) | torus_filters.sharing(made)

    deltas = {"model": f"{network}:{WIDTHS[scale]}", "precision": PRECISION[scale], **DELTAS[scale]}
    if scale == "small":
        deltas["train.regularise"] = seldom(regularise)
    return Training(settings, row, deltas=deltas, measure=measure, pictured=torus_filters.shown_filters)


def seldom(regularise: Sequence[Regularise]) -> list[dict[str, Any]]:
    """Regularisers as keys and values, proximal maps after every fourth step alone."""
    made = [replace(one, every=EVERY) if one.kind == "proximal" else one for one in regularise]
    return plain({"made": made})["made"]


def torus(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the torus table."""
    return torus_training(row, scale, shuffle=False)


TIMED: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"rounds": 1, "least": 0.0, "device": "cpu"},
    "small": {"rounds": 9, "least": 1.0, "device": "cpu"},
    "paper": {"rounds": 25, "least": 5.0, "device": "auto"},
}


def timing(row: str, column: str, scale: Scale) -> Calculation:
    """The measurement of one map at one size."""
    size = column if scale != "smoke" else "1e3"
    made = [{"method": row, "size": column, "drawn": size, **TIMED[at]} for at in (scale, "paper")]
    return Calculation(prox_timing.prox_timing, made[0], made[1] | {"drawn": column}, folder=True)


TORUS_PROTOCOL: Mapping[Scale, str] = {
    "smoke": "Digits, one epoch, 2 and 3 channels.",
    "small": "4 and 8 channels instead of 32 and 64; 30 epochs instead of 200, of batches of 128 instead of 512, at a "
    "learning rate of 0.4 instead of 0.1, the proximal map after every fourth step; float32.",
    "paper": "bfloat16 in products; images halved by means of 2×2 pixels; one data set for all runs, of seed 0.",
}
SHARING = {
    "distinct": Metric("distinct values of weights", better=""),
    "zero": Metric("zeros of weights", better=""),
}

TABLES = (
    Table(
        name=f"{PAPER}/torus",
        title="MNIST on a torus: can a fully connected network find convolutions by itself?",
        source="key results",
        rows={row: made[0] for row, made in TORUS_ROWS.items()},
        columns=single(accuracy=Metric("test accuracy"), **SHARING),
        job=torus,
        printed=PRINTED["torus"],
        protocol=TORUS_PROTOCOL,
    ),
    Table(
        name=f"{PAPER}/figure-filters",
        title="The first layer's filters: are they translated copies of one another?",
        source="pictures of the rows of the first layer's weight matrix",
        rows={row: made[0] for row, made in TORUS_ROWS.items()},
        columns=single(
            translated=Metric("cosine to the most similar other filter, shifted", unit="", better=""),
            energy=Metric("share of energy within 3×3 positions", unit="", better=""),
        ),
        job=no_job,
        like=f"{PAPER}/torus",
        protocol=TORUS_PROTOCOL,
        picture=torus_filters.picture,
    ),
    Table(
        name=f"{PAPER}/prox-timing",
        title="How long one proximal map takes",
        source="the timings of the three algorithms",
        rows=prox_timing.ROWS,
        columns={
            size: {
                f"{size}/seconds": Metric(f"seconds for {n:,} weights", "s", "low", 4),
                f"{size}/ratio": Metric(f"seconds over ours for {n:,} weights", "", "low", 2),
            }
            for size, n in prox_timing.SIZES.items()
        },
        job=timing,
        protocol={
            "smoke": "1,000 weights whatever the column says, one round.",
            "small": "9 rounds, and at least a second, on the CPU.",
            "paper": "On a GPU where there is one; weights of N(0, 0.05²) and a step of 0.01 are ours.",
        },
        note="Each is measured in turn with our exact map: read the ratios rather than the seconds.",
    ),
    Table(
        name=f"{PAPER}/figure-scaling",
        title="How the time of one proximal map grows with the number of weights",
        source="the timings of the three algorithms",
        rows=prox_timing.ROWS,
        columns={
            size: {f"{size}/seconds": Metric(f"seconds for {n:,} weights", "s", "low", 4)}
            for size, n in prox_timing.SIZES.items()
        },
        job=no_job,
        like=f"{PAPER}/prox-timing",
        protocol={"smoke": "See prox-timing.", "small": "See prox-timing.", "paper": "See prox-timing."},
        picture=prox_timing.picture,
    ),
)
