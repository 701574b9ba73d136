"""CIFAR-10 with a locally connected ResNet, small enough for two cores: how much of the gap does sleep close?

A third of ResNet-20's blocks at half its width on maps of full size, so that modules hold as many positions as in the
paper: a convolutional network, the local one, and the local one with each regulariser of table 1.

Source: Pogodin 2021, table 1 (padding of 4). Differs: one block a stage instead of three, widths 8/16/32 instead of
16/32/64; 15 epochs in batches of 256 instead of 200 in batches of 512, the learning rate falling at the same fractions;
bfloat16 instead of float16; 8 epochs of 4 copies. Learning rates and decay are those of table 10.
"""

from dataclasses import replace
from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.training.data import Augment
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.recipe import Recipe, RunConfig

PAPER, TABLE = "pogodin2021", "table1-reduced"
MODEL, BLOCKS = "resnet20:8/16/32", 1
CROP = Augment(crop=4, flip=False, pad="mean")
RECIPE = Recipe(
    epochs=15, batch_size=256, warmup=0.0, clip=None, augment=CROP, channels_last=True, schedule="step"
)
REPEATED_EPOCHS = 8

ROWS: dict[str, tuple[bool, float, float, int, int | None]] = {
    "conv": (False, 1e-2, 1e-4, 1, None),
    "lc": (True, 1e-3, 1e-4, 1, None),
    "lc-ws1": (True, 1e-3, 1e-2, 1, 1),
    "lc-ws10": (True, 5e-4, 1e-2, 1, 10),
    "lc-ws100": (True, 5e-4, 1e-2, 1, 100),
    "lc-4reps": (True, 1e-3, 1e-2, 4, None),
}
"""For each row: whether it is local, learning rate, weight decay, copies of an image in a batch, and `n` of `ws(n)`."""

PUBLISHED = {"conv": 88.3, "lc": 80.9, "lc-4reps": 82.9, "lc-ws1": 87.4, "lc-ws10": 85.1, "lc-ws100": 82.0}
"""Accuracy in table 1, percent: 200 epochs of the whole network."""


def config(row: str, seed: int, out: str | Path, data: str = "cifar10", data_dir: str | None = None) -> RunConfig:
    """The configuration of one training.

    Raises:
        ConfigError: If there is no such row.
    """
    if row not in ROWS:
        raise ConfigError(f"There is no row {row!r}: need one of {', '.join(ROWS)}.")
    local, lr, decay, copies, every = ROWS[row]
    recipe = replace(RECIPE, lr=lr, weight_decay=decay, sleep=[SleepPhase(every)] if every else [])
    if copies > 1:
        recipe = replace(recipe, epochs=REPEATED_EPOCHS, augment=replace(CROP, repeats=copies))
    return RunConfig(
        MODEL,
        model_args={"blocks": BLOCKS},
        data=data,
        data_dir=data_dir,
        localise=[Localise()] if local else [],
        train=recipe,
        seed=seed,
        device="cpu",
        precision="bf16-mixed",
        out=str(Path(out) / f"{row}-seed{seed}"),
    )
