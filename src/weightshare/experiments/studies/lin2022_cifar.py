"""CIFAR-10 with a ConvMixer that two cores train in a minute: SPIN's table 3 and its figures 2 to 4 in small.

Does the start from a trained network make up for what tying costs, does a fused random start do nothing, does it matter
which layers share, and who learns wrong labels by heart? Pointwise convolutions share, as in the paper's main setting.

A fused network has been trained twice as long in all, as in the paper. Beside it stand networks that had as much: the
unshared one and the one tied from scratch, each trained on from where it was, with the same schedule once more.

Source: Lin 2022, table 3 and supplement E, F. Differs: 64/8/4/3 instead of 768/32/14/3; JPEG copies of CIFAR-10, the
first 1,000 training images of each class: 900 are learnt from and 100 validate, and the 10,000 test images are measured
on once, at the end. 16 epochs in batches of 128 instead of 300 in batches of 256; crops and flips alone vary images;
bfloat16. The learning rate is the paper's.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.experiments.printed.lin2022 import TABLES
from weightshare.training.data import Augment, Prepare
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.run import MODEL
from weightshare.training.share import FusionName, OrderName, Share

PAPER, TABLE = "lin2022", "cifar10"
NETWORK, WHERE = "convmixer:64/8/4/3", "blocks.*.pointwise"
RECIPE = Recipe(epochs=16, batch_size=128, lr=0.01, augment=Augment(crop=4, flip=True), channels_last=True)
PREPARE = Prepare(fraction=0.2, validation=0.1)
NOISES = (0.0, 0.2, 0.4)


@dataclass(frozen=True)
class Arm:
    """One way to a network.

    Args:
        rate: Share rate of the pointwise convolutions; nothing for none.
        order: Which of them share. A random order is drawn anew by each seed.
        fuse: What a slot starts from.
        start: The row whose trained weights it starts from, of the same seed and the same labels; or random ones.
    """

    rate: int | None = None
    order: OrderName = "sequential"
    fuse: FusionName = "first"
    start: str | None = None


ORDERS: tuple[OrderName, ...] = ("sequential", "strided", "random")


def name_of(kind: str, rate: int, order: str) -> str:
    """The name of the arm of one kind, `tied` or `fused`, at a rate and in an order."""
    return f"{kind}-{rate}" if order == "sequential" else f"{kind}-{rate}-{order}"


ARMS: dict[str, Arm] = {
    "unshared": Arm(),
    "unshared-again": Arm(start="unshared"),
    "tied-2": Arm(2),
    "tied-2-again": Arm(start="tied-2"),
    "fused-2": Arm(2, fuse="mean", start="unshared"),
    "random-mean-2": Arm(2, fuse="mean"),
    "first-2": Arm(2, start="unshared"),
    **{name_of("tied", r, o): Arm(r, o) for r in (2, 4) for o in ORDERS},
    **{name_of("fused", r, o): Arm(r, o, "mean", "unshared") for r in (2, 4) for o in ORDERS},
}
"""`tied` starts from random weights, `fused` from the mean of the trained unshared network's, `first` from the first of
its readers'; `again` is trained on. The number is the share rate."""

NOISY = ("unshared", "unshared-again", "tied-2", "tied-2-again", "fused-2")
ROWS: dict[str, tuple[str, float]] = {
    **{name: (name, 0.0) for name in ARMS},
    **{f"{name}-noise-{noise}": (name, noise) for noise in NOISES[1:] for name in NOISY},
}
"""For each row its arm and its label noise; each comes after the row that it starts from."""

PUBLISHED: dict[str, tuple[float, str]] = {
    row: (cell.number, f"{cell.source}, ImageNet: 768/32/14/3{more}")
    for row, cell, more in (
        *((row, cells["top1"], ", 300 epochs") for row, cells in TABLES["table3"].items() if row in ARMS),
        ("tied-4", TABLES["fig3"]["rate-4"]["top1"], ""),
        ("fused-4", TABLES["fig4b"]["rate-4"]["top1"], ""),
    )
}
"""Accuracy in percent, and where it stands. Choosing the first of random weights (74.25) is our `tied-2`, too."""


def row_of(arm: str, noise: float) -> str:
    """The name of an arm's row at a label noise."""
    return f"{arm}-noise-{noise}" if noise else arm


def config(row: str, seed: int, out: str | Path, data: str = "cifar10", data_dir: str | None = None) -> RunConfig:
    """The configuration of one training.

    Args:
        row: One of `ROWS`.
        seed: Of the run, and of the labels that are replaced: all rows of a seed and a noise learn from the same ones.
        out: Folder of all runs; the row that this one starts from lies there too.
        data: CIFAR-10, or other images.
        data_dir: Where it lies.

    Raises:
        ConfigError: If there is no such row.
    """
    if row not in ROWS:
        raise ConfigError(f"There is no row {row!r}: need one of {', '.join(ROWS)}.")
    name, noise = ROWS[row]
    arm = ARMS[name]
    start = None
    if arm.start is not None:
        start = str(Path(out) / f"{row_of(arm.start, noise)}-seed{seed}" / MODEL)
    # A file holds its plans: who is trained on from a tied network is tied already.
    share = [Share(arm.rate, order=arm.order, order_seed=seed, fuse=arm.fuse, where=WHERE)] if arm.rate else []
    return RunConfig(
        NETWORK,
        model_args={"activation": "relu"},
        data=data,
        data_dir=data_dir,
        prepare=replace(PREPARE, label_noise=noise, seed=seed),
        init=start,
        share=share,
        train=RECIPE,
        seed=seed,
        device="cpu",
        precision="bf16-mixed",
        out=str(Path(out) / f"{row}-seed{seed}"),
    )
