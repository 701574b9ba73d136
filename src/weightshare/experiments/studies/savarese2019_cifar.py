"""CIFAR-10 with wide ResNets whose layers share templates: the poster's tables, and a small one that two cores train.

Does a network with one template for each layer, which stores nothing less, learn better than a plain one? What do two
templates for six layers cost, and what is won when the numbers that they save go into width? And when does it show
which layers are alike, with the similarity of layers regularised and without?

Source: Savarese 2019, the poster's tables of CIFAR and its pictures of the layer similarity matrix.
Differs: in `config`, WRN-28-1 for WRN-28-10 and width 1.5 for 14; JPEG copies of CIFAR-10, the first 1,000 training
images of each class: 900 are learnt from and 100 validate, and the 10,000 test images are measured on once, at the end.
15 epochs instead of 200, no dropout, bfloat16. Batches, learning rate, its steps, momentum and weight decay are those
of wide ResNets. The strengths of the regulariser are ours. Nothing but the precision differs in `poster_config`, which
nobody has run here.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weightshare.errors import ConfigError
from weightshare.experiments.printed.savarese2019 import TABLES
from weightshare.training.data import Augment, Prepare
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Regularise

PAPER, TABLE = "savarese2019", "cifar10"

PROTOCOL = Recipe(
    epochs=200,
    batch_size=128,
    lr=0.1,
    weight_decay=5e-4,
    warmup=0.0,
    clip=None,
    augment=Augment(crop=4, flip=True),
    channels_last=True,
    optimizer="sgd",
    momentum=0.9,
    nesterov=True,
    schedule="step",
    milestones=[0.3, 0.6, 0.8],
    factor=0.2,
)
"""Zagoruyko 2016, section 3: the learning rate is divided by 5 after 60, 120 and 160 of 200 epochs."""
DROPOUT, CUTOUT = 0.3, 16

DEPTH, EPOCHS = 28, 15
PREPARE = Prepare(fraction=0.2, validation=0.1)


@dataclass(frozen=True)
class Row:
    """A network of the small table.

    Args:
        width: Widening factor.
        templates: Of each bank of six layers, or nothing for a plain network.
        strength: Of the regulariser of layer similarity, or 0.
        like: Its counterpart in the poster's table, and that one's error in percent; or nothing.
    """

    width: float = 1
    templates: int | None = None
    strength: float = 0.0
    like: tuple[str, float] | None = None


def _like(row: str) -> tuple[str, float]:
    """A row of the poster's table of CIFAR, as it is called there, and its error on CIFAR-10."""
    return f"{row.upper().replace('WRN-', 'WRN ')}*", TABLES["cifar"][row]["cifar10/error"].number


ROWS: dict[str, Row] = {
    "wrn": Row(like=_like("wrn-28-10")),
    "swrn-6": Row(templates=6, like=_like("swrn-28-10")),
    "swrn-2": Row(templates=2, like=_like("swrn-28-10-2")),
    "swrn-2-similar": Row(templates=2, strength=0.3),
    "swrn-2-similar-weak": Row(templates=2, strength=0.1),
    "swrn-2-wide": Row(1.5, 2, like=_like("swrn-28-14-2")),
}
"""The wide one stores about what the plain one does."""

WITH_DROPOUT = [row for row in TABLES["cifar"] if "wrn" in row and not row.endswith("-plain")]
WITH_CUTOUT = [row for row in TABLES["cutout"] if "wrn" in row]


def _network(row: str) -> str:
    """A network's name for `models.build`: `swrn:28/10/2`."""
    kind, *sizes = row.split("-")
    return f"{kind}:{'/'.join(sizes)}"


POSTER: dict[str, tuple[str, bool, float]] = {
    **{row: (_network(row), False, TABLES["cifar"][row]["cifar10/error"].number) for row in WITH_DROPOUT},
    **{f"{row}-cutout": (_network(row), True, TABLES["cutout"][row]["error"].number) for row in WITH_CUTOUT},
}
"""The poster's networks with their error in percent on CIFAR-10, after 200 epochs, with dropout or with cutout."""


def config(row: str, seed: int, out: str | Path, data: str = "cifar10", data_dir: str | None = None) -> RunConfig:
    """The configuration of one training of the small table.

    Args:
        row: One of `ROWS`.
        seed: Of the run.
        out: Folder of all runs.
        data: CIFAR-10, or other images.
        data_dir: Where it lies.

    Raises:
        ConfigError: If there is no such row.
    """
    if row not in ROWS:
        raise ConfigError(f"There is no row {row!r}: need one of {', '.join(ROWS)}.")
    made = ROWS[row]
    sizes: dict[str, Any] = {"depth": DEPTH, "width": made.width}
    kind = "wrn"
    if made.templates is not None:
        kind, sizes = "swrn", sizes | {"templates": made.templates}
    penalty = [Regularise("layer_similarity", made.strength)] if made.strength else []
    return RunConfig(
        f"weightshare.models:{kind}",
        model_args=sizes,
        data=data,
        data_dir=data_dir,
        prepare=PREPARE,
        train=replace(PROTOCOL, epochs=EPOCHS, regularise=penalty),
        seed=seed,
        device="cpu",
        precision="bf16-mixed",
        out=str(Path(out) / f"{row}-seed{seed}"),
    )


def poster_config(row: str, seed: int, out: str | Path, data: str = "cifar10", device: str = "cuda") -> RunConfig:
    """The configuration of one training of the poster, for a GPU; it can be stopped and goes on where it was.

    Args:
        row: One of `POSTER`.
        seed: Of the run.
        out: Folder of all runs.
        data: CIFAR-10, all of it.
        device: Where it trains.

    Raises:
        ConfigError: If there is no such row.

    Differs: bfloat16 in products and norms; weights stay float32. The poster says dropout of 0.3 of its first table
        and cutout of its second, so rows have one of the two.

    Example:
        >>> made = poster_config("swrn-28-10-2-cutout", 0, "runs")
        >>> made.model, made.model_args, made.train.augment.cutout, made.train.epochs
        ('swrn:28/10/2', {}, 16, 200)
    """
    if row not in POSTER:
        raise ConfigError(f"The poster has no row {row!r}: need one of {', '.join(POSTER)}.")
    network, cutout, _ = POSTER[row]
    recipe = replace(PROTOCOL, augment=replace(PROTOCOL.augment, cutout=CUTOUT)) if cutout else PROTOCOL
    return RunConfig(
        network,
        model_args={} if cutout else {"dropout": DROPOUT},
        data=data,
        train=recipe,
        seed=seed,
        device=device,
        precision="bf16-mixed",
        checkpoint_minutes=2.0,
        out=str(Path(out) / f"{row}-seed{seed}"),
    )
