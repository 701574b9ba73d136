"""Weight-sharing regularisation as it is trained: MNIST on a torus, CIFAR-10, shuffled pixels, strength and rewinding.

A network of convolutions and its fully connected twin; the twin is trained plain, with each regulariser, and with
rewinding. Strengths are the paper's for its own map and the subgradient; those of ℓ1 and β-lasso, and of the rewound
map on the torus, are the better ones of a sweep of ours on held-out images.

Batch norm makes weights of any length alike: what counts is the learning rate over their length squared, and the
pull shortens them until that is in balance with the noise of mini-batches. So higher rates and smaller batches help
the plain network more than the regularised one (after 5 epochs of batches of 64 at a rate of 0.3, it had 60 against
31 %, at a width of 4 and 8), and small keeps the paper's batches on the torus, at twice its rate.

Source: Shakerinava 2023. Differs: bfloat16 in products; one data set for all runs, drawn from seed 0; RandAugment of
three changes of strength 5 instead of AutoAugment, which we do not have.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from weightshare.experiments.jobs import Scale, Training, folder_of
from weightshare.experiments.studies import torus_filters
from weightshare.training.data import Augment, Prepare
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Cluster, Regularise
from weightshare.training.run import MODEL

RECIPE = Recipe(epochs=200, batch_size=512, lr=0.1, weight_decay=0.0, warmup=0.0, clip=None, optimizer="sgd")
PREPARE = Prepare(fraction=0.6, pool=2, shift=True)
LAYERS = ["fc1.weight", "fc2.weight"]
RETRAIN_EPOCHS = 40
SELDOM = 4  # steps for each proximal map on CIFAR-10 at small, whose batches are as many times smaller


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is, its network, what regularises it, and what it starts from.

    Args:
        title: In words.
        network: By name, without its widths.
        regularise: What drives its weights to share.
        start: The row whose weights it starts from, as `codebook` clusters them; nothing for weights that are drawn.
        codebook: What is frozen of them.
    """

    title: str
    network: str
    regularise: list[Regularise] = field(default_factory=list)
    start: str | None = None
    codebook: list[Cluster] = field(default_factory=list)


def proximal(first: float, second: float, **options: Any) -> list[Regularise]:
    """The proximal map on both layers of the torus network, each with its strength."""
    return [Regularise(strength=s, where=at, **options) for s, at in zip((first, second), LAYERS, strict=True)]


def _subgradient(first: float, second: float) -> list[Regularise]:
    return [Regularise("subgradient", strength=s, where=at) for s, at in zip((first, second), LAYERS, strict=True)]


TORUS = {
    "cnn": Row("circular convolutions", "torus-cnn"),
    "plain": Row("fully connected twin", "torus-mlp"),
    "l1": Row("ℓ1", "torus-mlp", [Regularise(l1=1e-3, where=LAYERS)]),
    "beta-lasso": Row("β-lasso", "torus-mlp", [Regularise("beta_lasso", strength=1e-4, where=LAYERS)]),
    "subgradient": Row("R by its subgradient", "torus-mlp", _subgradient(1e-3, 1e-4)),
    "regularised": Row("R by its proximal map", "torus-mlp", proximal(1e-3, 1e-4)),
    "rewound": Row("R by its proximal map, rewound by 0.98", "torus-mlp", proximal(1e-2, 1e-3, rewind=0.98)),
    "plain-256": Row("plain, then 256 values a layer, retrained", "torus-mlp", start="plain"),
    "regularised-256": Row("regularised, then 256 values a layer, retrained", "torus-mlp", start="regularised"),
}
WIDTHS: Mapping[str, Mapping[Scale, str]] = {
    "torus-cnn": {"smoke": "2/3", "small": "4/8", "paper": "32/64"},
    "torus-mlp": {"smoke": "2/3", "small": "4/8", "paper": "32/64"},
    "s-conv": {"smoke": "1", "small": "4", "paper": "64"},
    "s-fc": {"smoke": "1", "small": "4", "paper": "64"},
}
FIRST = "1.weight"
"""Of S-FC: its first layer, the only one that is regularised."""

CIFAR10 = {
    "cnn": Row("S-Conv: a 9×9 convolution", "s-conv"),
    "plain": Row("S-FC, its fully connected twin", "s-fc"),
    "l1": Row("ℓ1", "s-fc", [Regularise(l1=1e-4, l1_per_step=False, where=FIRST)]),
    "beta-lasso": Row("β-lasso", "s-fc", [Regularise("beta_lasso", strength=1e-4, where=FIRST)]),
    "regularised": Row(
        "R and ℓ1 by their proximal map, rewound by 0.98",
        "s-fc",
        [Regularise(strength=1e-3, l1=1e-4, rewind=0.98, l1_per_step=False, where=FIRST)],
    ),
}
SHUFFLED = ("cnn", "plain", "regularised")
"""Rows of both tables that are also trained with pixels shuffled once."""

SMOKE = {"data": "digits", "prepare.fraction": 0.5, "train.epochs": 1, "train.batch_size": 64, "precision": "32-true"}
TORUS_DELTAS: Mapping[Scale, dict[str, Any]] = {
    "smoke": {**SMOKE, "prepare.pool": 1},
    "small": {"train.epochs": 50, "train.lr": 0.2, "precision": "32-true"},
    "paper": {},
}
CIFAR_DELTAS: Mapping[Scale, dict[str, Any]] = {
    "smoke": {**SMOKE, "train.augment": asdict(Augment())},
    "small": {
        "prepare.fraction": 0.4,
        "train.epochs": 14,
        "train.batch_size": 128,
        "train.augment": asdict(Augment(crop=4, flip=True)),
        "precision": "32-true",
    },
    "paper": {},
}
SMALL_RETRAIN_EPOCHS = 10

TORUS_PROTOCOL: Mapping[Scale, str] = {
    "smoke": "Digits, one epoch, 2 and 3 channels.",
    "small": "4 and 8 channels instead of 32 and 64; 50 epochs instead of 200, at a learning rate of 0.2 instead of "
    "0.1; 10 epochs of retraining instead of 40; float32.",
    "paper": "bfloat16 in products; images halved by means of 2×2 pixels; one data set for all runs, of seed 0.",
}
CIFAR_PROTOCOL: Mapping[Scale, str] = {
    "smoke": "Digits, one epoch, one channel.",
    "small": "4 channels instead of 64; 40 % of the training images, 14 epochs instead of 400, of batches of 128 "
    "instead of 512, the proximal map after every fourth step; crops and mirroring alone; float32.",
    "paper": "bfloat16 in products; RandAugment of three changes of strength 5 instead of AutoAugment.",
}


def torus_settings(row: str, shuffle: bool, seed: int, runs: Path) -> RunConfig:
    """The paper's configuration of a row of the torus table, with pixels shuffled or not."""
    made = TORUS[row]
    settings = RunConfig(
        f"{made.network}:{WIDTHS[made.network]['paper']}",
        data="mnist",
        prepare=replace(PREPARE, shuffle=shuffle),
        train=replace(RECIPE, regularise=made.regularise),
        precision="bf16-mixed",
    )
    if made.start is None:
        return settings
    return replace(
        settings,
        init=str(folder_of(runs, made.start, "", seed) / MODEL),
        codebook=[Cluster(256, where=LAYERS)],
        train=replace(RECIPE, epochs=RETRAIN_EPOCHS),
    )


def torus_training(row: str, scale: Scale, column: str = "", shuffle: bool = False) -> Training:
    """The training of a row of the torus table, or of the same with pixels shuffled."""
    deltas = _deltas(TORUS[row], TORUS_DELTAS, scale)
    if scale == "small" and TORUS[row].start is not None:
        deltas["train.epochs"] = SMALL_RETRAIN_EPOCHS

    def measure(made: RunConfig, summary: Mapping[str, Any]) -> Mapping[str, float]:
        return _accuracy(column, summary) | torus_filters.sharing(made, LAYERS)

    def settings(seed: int, runs: Path) -> RunConfig:
        return torus_settings(row, shuffle, seed, runs)

    return Training(settings, row, column, deltas, measure, pictured=torus_filters.shown_filters)


def cifar_training(row: str, scale: Scale, column: str = "", shuffle: bool = False) -> Training:
    """The training of a row of the CIFAR-10 table, or of the same with pixels shuffled."""
    made = CIFAR10[row]
    augment = Augment() if shuffle else Augment(crop=4, flip=True, rand_augment=[3, 5], cutout=16)

    def settings(seed: int, runs: Path) -> RunConfig:
        return RunConfig(
            f"{made.network}:{WIDTHS[made.network]['paper']}",
            data="cifar10",
            prepare=Prepare(shuffle=shuffle),
            train=replace(RECIPE, epochs=400, augment=augment, regularise=made.regularise),
            precision="bf16-mixed",
        )

    def measure(run: RunConfig, summary: Mapping[str, Any]) -> Mapping[str, float]:
        return _accuracy(column, summary) | (torus_filters.shares(run, [FIRST]) if made.network == "s-fc" else {})

    deltas = _deltas(made, CIFAR_DELTAS, scale)
    if scale == "small" and any(one.kind == "proximal" for one in made.regularise):  # as often for each image
        seldom = [asdict(replace(one, every=SELDOM)) for one in made.regularise]
        deltas["train.regularise"] = seldom
    if shuffle:
        deltas.pop("train.augment", None)
    return Training(settings, row, column, deltas, measure)


def _deltas(row: Row, by_scale: Mapping[Scale, dict[str, Any]], scale: Scale) -> dict[str, Any]:
    deltas = dict(by_scale[scale])
    if scale != "paper":
        deltas["model"] = f"{row.network}:{WIDTHS[row.network][scale]}"
    return deltas


def _accuracy(column: str, summary: Mapping[str, Any]) -> dict[str, float]:
    return {f"{column}/accuracy" if column else "accuracy": 100 * summary["accuracy"]}


STRENGTHS, REWINDS = (1, 3, 10, 30), (0.0, 0.9, 0.99, 0.999)
REWINDING = {
    f"strength-{strength}-rewind-{rewind:g}": (strength, rewind) for strength in STRENGTHS for rewind in REWINDS
}
"""By row the strength, as a multiple of the paper's, and ρ."""

REWINDING_PROTOCOL: Mapping[Scale, str] = {
    "smoke": "Digits, one epoch, 2 and 3 channels.",
    "small": "Handwritten digits, ten shifted copies of each, 4 and 8 channels, no dropout; 12 epochs of batches of "
    "256 with momentum 0.9 at a learning rate of 0.3; strengths are multiples of 0.01, of both layers.",
    "paper": "The sweep that the paper asks for: strengths are multiples of its own, 0.001 and 0.0001; measured on a "
    "tenth of the training images that is held out.",
}


def rewinding_training(row: str, scale: Scale) -> Training:
    """The training of one strength and rewinding, measured on held-out training images."""
    strength, rewind = REWINDING[row]

    def settings(seed: int, runs: Path) -> RunConfig:
        regularise = proximal(1e-3 * strength, 1e-4 * strength, rewind=rewind)
        made = torus_settings("plain", shuffle=False, seed=seed, runs=runs)
        prepare, train = replace(made.prepare, validation=0.1), replace(made.train, regularise=regularise)
        return replace(made, prepare=prepare, train=train)

    deltas = _deltas(TORUS["plain"], TORUS_DELTAS, scale)
    if scale == "small":
        deltas |= {
            "data": "digits",
            "prepare": asdict(Prepare(shift=True, copies=10, validation=0.25)),
            "model_args": {"dropout": 0.0},
            "train.epochs": 12,
            "train.batch_size": 256,
            "train.lr": 0.3,
            "train.momentum": 0.9,
            "train.regularise": [asdict(Regularise(strength=0.01 * strength, rewind=rewind, where=LAYERS))],
        }

    def measure(made: RunConfig, summary: Mapping[str, Any]) -> Mapping[str, float]:
        return _accuracy("", summary) | torus_filters.shares(made, LAYERS)

    return Training(settings, row, "", deltas, measure)
