"""SPIN's own training of ConvMixers on ImageNet, as configurations: nobody has run them here.

| network | epochs | paper's accuracy, unshared (%) |
|---|---|---|
| `1536/20/7/3` | 150 | 78.03 |
| `768/32/14/3` | 300 | 75.71 (74.93 in table 2) |
| `512/16/14/9` | 300 | 67.48 |

Source: Lin 2022, supplement C; what it leaves open (ReLU, the strengths of what varies images, label smoothing,
dropout, the clipped gradient, the cycle) from its released configurations, and from Trockman 2022, whose training it
follows: the learning rate rises for two fifths, falls to a twentieth at four fifths. Accuracies: captions of figure 4.
Differs: RandAugment is kornia's, whose strengths go to 30: 27 with a deviation of 1.5 stands for 9 of 10 with 0.5.
Squares are cut out at random places of a picture brought to 256 pixels, not at random scales. Erased rectangles are
black, not noise. AdamW's ε is torch's, 1e-8, instead of 1e-3. One process a GPU gets 64 images.
"""

from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.experiments.printed.lin2022 import TABLES
from weightshare.training.data import Augment, Prepare
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.share import FusionName, OrderName, Share

EPOCHS = {"1536/20/7/3": 150, "768/32/14/3": 300, "512/16/14/9": 300}
FIGURES = {"1536/20/7/3": "fig4c", "768/32/14/3": "fig4b", "512/16/14/9": "fig4a"}
PUBLISHED = {size: TABLES[figure]["unshared"]["top1"].number for size, figure in FIGURES.items()}
AUGMENT = Augment(flip=True, rand_augment=[2, 27], rand_augment_std=1.5, erase=0.25, mixup=0.5, cutmix=0.5)
GPUS, IMAGES_A_GPU = 4, 64
WHERE = "blocks.*.pointwise"


def spin_recipe(epochs: int) -> Recipe:
    """SPIN's schedule for ConvMixers: one cycle of AdamW, and all that varies images and labels.

    Example:
        >>> recipe = spin_recipe(300)
        >>> recipe.schedule, recipe.lr, recipe.label_smoothing, recipe.clip, recipe.augment.mixup
        ('onecycle', 0.01, 0.1, 1.0, 0.5)
    """
    return Recipe(
        epochs=epochs,
        batch_size=GPUS * IMAGES_A_GPU,
        lr=0.01,
        weight_decay=2e-5,
        warmup=0.4,
        schedule="onecycle",
        label_smoothing=0.1,
        clip=1.0,
        augment=AUGMENT,
        channels_last=True,
    )


def spin_convmixer(
    size: str,
    out: str | Path,
    rate: int | None = None,
    order: OrderName = "sequential",
    fuse: FusionName = "first",
    init: str | None = None,
    seed: int = 0,
    data: str = "imagenet",
) -> RunConfig:
    """The configuration of one training.

    Args:
        size: `C/D/P/K`, one of `EPOCHS`.
        out: The run directory.
        rate: Share rate of the pointwise convolutions, or nothing for the unshared network.
        order: Which of them share.
        fuse: What a slot starts from: with `init`, weight fusion.
        init: The model of the finished unshared run, for weight fusion.
        seed: Of the run.
        data: The folder of ImageNet, with `train` and `val` in it.

    Raises:
        ConfigError: If the paper has no such network.

    Example:
        >>> made = spin_convmixer("768/32/14/3", "runs/ws", rate=2, fuse="mean", init="runs/plain/model.safetensors")
        >>> made.model, made.train.epochs, made.share[0].where, made.model_args
        ('convmixer:768/32/14/3', 300, 'blocks.*.pointwise', {'activation': 'relu', 'dropout': 0.5})
    """
    if size not in EPOCHS:
        raise ConfigError(f"SPIN has no ConvMixer {size!r}: need one of {', '.join(EPOCHS)}.")
    return RunConfig(
        f"convmixer:{size}",
        model_args={"activation": "relu", "dropout": 0.5},
        data=data,
        image_size=256,
        prepare=Prepare(cut=224, margin=None, normalise="imagenet"),
        init=init,
        share=[Share(rate, order=order, fuse=fuse, where=WHERE)] if rate else [],
        train=spin_recipe(EPOCHS[size]),
        seed=seed,
        device="cuda",
        devices=GPUS,
        precision="16-mixed",
        out=str(out),
    )
