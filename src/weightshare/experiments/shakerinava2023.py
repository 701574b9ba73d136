"""Shakerinava 2023, weight-sharing regularisation: its tables and figures.

The numbers of the paper that we have are three: 92.40 and 95.04 % on the torus, 73.50 % on CIFAR-10. How each network
is trained is in `studies.shakerinava2023_protocol`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from weightshare.experiments.jobs import Calculation, Scale, Training
from weightshare.experiments.printed.shakerinava2023 import TABLES as PRINTED
from weightshare.experiments.studies import prox_timing, regression, rewinding_picture, torus_filters
from weightshare.experiments.studies.shakerinava2023_protocol import (
    CIFAR10,
    CIFAR_PROTOCOL,
    REWINDING,
    REWINDING_PROTOCOL,
    TORUS,
    TORUS_PROTOCOL,
    cifar_training,
    rewinding_training,
    torus_training,
)
from weightshare.experiments.table import Metric, Table, no_job, single

PAPER = "shakerinava2023"
TIMED: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"rounds": 1, "least": 0.0, "device": "cpu"},
    "small": {"rounds": 9, "least": 1.0, "device": "cpu"},
    "paper": {"rounds": 25, "least": 5.0, "device": "auto"},
}
ACCURACY = Metric("test accuracy")
SHARING = {
    "distinct": Metric("distinct values of weights", better=""),
    "zero": Metric("zeros of weights", better=""),
}
OURS = "its sizes and numbers are not in the text that the project has, so they are ours."


def torus(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the torus table."""
    return torus_training(row, scale)


def needs(row: str) -> Sequence[str]:
    """The row of the torus table that a row starts from."""
    start = TORUS[row].start
    return () if start is None else (start,)


def cifar10(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the CIFAR-10 table."""
    return cifar_training(row, scale)


def shuffled(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of either table, with pixels shuffled once."""
    train = torus_training if column == "torus" else cifar_training
    return train(row, scale, column, shuffle=True)


def rewinding(row: str, column: str, scale: Scale) -> Training:
    """The training of one strength and rewinding."""
    return rewinding_training(row, scale)


def timing(row: str, column: str, scale: Scale) -> Calculation:
    """The measurement of one map at one size."""
    here, paper = ({"method": row, "size": column, "drawn": column, **TIMED[at]} for at in (scale, "paper"))
    if scale == "smoke":
        here["drawn"] = next(iter(prox_timing.SIZES))
    return Calculation(prox_timing.prox_timing, here, paper, folder=True)


def fit(row: str, column: str, scale: Scale) -> Calculation:
    """One way to fit one problem of linear regression."""
    problem = asdict(regression.PROBLEMS[column])
    little = {"rows": problem["rows"] // 6, "coefficients": 20, "validation": 20}
    here, paper = (
        {"row": row, "column": column, "problem": {**problem, **(little if at == "smoke" else {})}}
        for at in (scale, "paper")
    )
    return Calculation(regression.regression, here, paper)


def _fit_metrics(column: str) -> dict[str, Metric]:
    rows = regression.PROBLEMS[column].rows
    of = f"{rows} observations"
    return {
        f"{column}/error": Metric(f"error of coefficients, {of}", better="low"),
        f"{column}/r2": Metric(f"R² on test data, {of}", "", digits=4),
        f"{column}/distinct": Metric(f"distinct values, {of}", "", "", 1),
        f"{column}/rand": Metric(f"adjusted Rand index of clusters, {of}", ""),
        f"{column}/steps": Metric(f"steps, {of}", "", "low", 0),
    }


TABLES = (
    Table(
        name=f"{PAPER}/torus",
        title="MNIST on a torus: can a fully connected network find convolutions by itself?",
        source="key results",
        rows={row: made.title for row, made in TORUS.items()},
        columns=single(accuracy=ACCURACY, **SHARING),
        job=torus,
        printed=PRINTED["torus"],
        protocol=TORUS_PROTOCOL,
        needs=needs,
    ),
    Table(
        name=f"{PAPER}/cifar10",
        title="CIFAR-10 by one wide layer: convolution, its fully connected twin, and the twin regularised",
        source="key results",
        rows={row: made.title for row, made in CIFAR10.items()},
        columns=single(accuracy=ACCURACY, **SHARING),
        job=cifar10,
        printed=PRINTED["cifar10"],
        protocol=CIFAR_PROTOCOL,
    ),
    Table(
        name=f"{PAPER}/shuffled",
        title="Pixels shuffled once, alike in all images: convolution fails, and what has to find it does not",
        source="the experiments with shuffled pixels",
        rows={"cnn": "convolutions", "plain": "fully connected twin", "regularised": "regularised twin"},
        columns={
            "torus": {"torus/accuracy": Metric("test accuracy on the torus")},
            "cifar10": {"cifar10/accuracy": Metric("test accuracy on CIFAR-10")},
        },
        job=shuffled,
        protocol={
            "smoke": "As torus and cifar10.",
            "small": "As torus and cifar10, without crops and mirroring.",
            "paper": "bfloat16 in products; no augmentation, which knows where pixels are.",
        },
    ),
    Table(
        name=f"{PAPER}/prox-timing",
        title="How long one proximal map takes",
        source="the timings of the three algorithms",
        rows=prox_timing.ROWS,
        columns={
            size: {
                f"{size}/seconds": Metric(f"seconds for {n:,} weights", "s", "low", 4),
                f"{size}/ratio": Metric(f"seconds over ours for {n:,} weights", "", "low"),
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
        name=f"{PAPER}/regression",
        title="Linear regression whose true coefficients share: can the sharing be found from the data alone?",
        source="linear regression with shared coefficients",
        rows=regression.ROWS,
        columns={column: _fit_metrics(column) for column in regression.PROBLEMS},
        job=fit,
        protocol={
            "smoke": "A sixth of the observations, 20 coefficients.",
            "small": "Nothing.",
            "paper": OURS[0].upper() + OURS[1:],
        },
        picture=regression.picture,
        note="120 coefficients of four and of three different values; the noise is 5 % of the signal.",
    ),
    Table(
        name=f"{PAPER}/figure-filters",
        title="The first layer's filters: are they translated copies of one another?",
        source="pictures of the rows of the first layer's weight matrix",
        rows={row: made.title for row, made in TORUS.items()},
        columns=single(
            translated=Metric("cosine to the most similar other filter, shifted", "", ""),
            energy=Metric("share of energy within 3×3 positions", "", ""),
        ),
        job=no_job,
        like=f"{PAPER}/torus",
        protocol=TORUS_PROTOCOL,
        picture=torus_filters.picture,
        note="Of the 256 filters of the greatest norm, medians. Noise has 0.11 of its energy within 3×3 positions.",
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
        protocol=dict.fromkeys(("smoke", "small", "paper"), "As prox-timing."),
        picture=prox_timing.picture,
    ),
    Table(
        name=f"{PAPER}/figure-rewinding",
        title="How strongly should weights be pulled together, and how far rewound?",
        source="open question 2",
        rows={row: f"{strength} times the strength, ρ = {rewind:g}" for row, (strength, rewind) in REWINDING.items()},
        columns=single(accuracy=Metric("held-out accuracy"), **SHARING),
        job=rewinding,
        protocol=REWINDING_PROTOCOL,
        picture=rewinding_picture.picture,
    ),
)
