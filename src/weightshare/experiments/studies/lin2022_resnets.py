"""CIFAR-10's ResNets, trained and then tied: does what a network has learnt survive that its layers share?

ResNet-20, 32, 44 and 56, whose weights somebody trained. The convolutions of a stage's equal blocks are tied at rate 2;
the first block of a stage that changes the shape keeps its own, and so does every batch norm. A slot starts from the
mean of the two kernels that it replaces, and the network is trained on. It is measured against the same tied network,
trained by the same steps from random weights (`scratch`), and from the mean of random weights (`random`), which has all
that fusing does but what was learnt.

After fusion the running statistics of batch norms are those of other kernels. They can be measured again on training
images without their labels (`reestimate_`): how much of the damage is theirs alone.

Source: Lin 2022, section 3.2 and table 3, whose question this is: fusing a trained network helps, fusing a random one
must not. Differs: networks with stages, which the paper does not have. They were trained on the 50,000 official images;
here 5,085 of those, to the byte, are trained on, since on the whole set as JPEG files two things would be mixed: what
fusion costs, and images of another kind (the unshared networks lose 10 points on them). 5 epochs in batches of 64.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from weightshare.errors import ConfigError
from weightshare.training.data import Augment, Data, Prepare, augmentation
from weightshare.training.recipe import Recipe, RunConfig, Share

PAPER, TABLE, START_TABLE, RATES_TABLE = "lin2022", "resnets", "resnets-fusions", "resnets-rates"
NETWORKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}
"""For each network the blocks of a stage."""
WIDTHS = "16/32/64"
WHERE = "layer*.conv*"
PREPARE = Prepare(normalise="imagenet")
"""What the weights were trained with."""
PRECISION = "bf16-mixed"
RECIPE = Recipe(epochs=5, batch_size=64, weight_decay=1e-4, augment=Augment(crop=4, flip=True), channels_last=True)
ARMS: dict[str, tuple[bool, str, float]] = {
    "fused": (True, "mean", 1e-3),
    "scratch": (False, "first", 3e-3),
    "random": (False, "mean", 3e-3),
}
"""For each arm: whether it starts from the trained weights, how slots are fused, and the learning rate."""
RATES = {"fused": (3e-4, 1e-3, 3e-3, 1e-2), "scratch": (1e-3, 3e-3, 1e-2)}
"""For each arm the learning rates tried on ResNet-20, with a fifth of the training images held out. `ARMS` has the
best, `random` that of `scratch`. The trained network has seen what is held out: accuracy there says nothing else."""


def config(network: str, arm: str, seed: int, out: str | Path, data: str) -> RunConfig:
    """The configuration of one training.

    Args:
        network: One of `NETWORKS`.
        arm: One of `ARMS`.
        seed: Of the run.
        out: Folder of all runs, where `start_file` puts the trained weights, too.
        data: Images to train on and be measured on after each epoch: an `.npz`.

    Raises:
        ConfigError: If there is no such network or arm.
    """
    if network not in NETWORKS or arm not in ARMS:
        raise ConfigError(f"There is no {network!r} {arm!r}: need one of {', '.join(NETWORKS)}; {', '.join(ARMS)}.")
    trained, fuse, lr = ARMS[arm]
    return RunConfig(
        f"resnet20:{WIDTHS}",
        model_args={"blocks": NETWORKS[network], "shortcut": "pad"},
        data=data,
        prepare=PREPARE,
        init=str(start_file(network, out)) if trained else None,
        share=[Share(rate=2, fuse=fuse, where=WHERE)],  # type: ignore[arg-type]  # names of this module
        train=replace(RECIPE, lr=lr),
        seed=seed,
        device="cpu",
        precision=PRECISION,
        out=str(Path(out) / f"{network}-{arm}-seed{seed}"),
    )


def rate_config(arm: str, lr: float, out: str | Path, data: str) -> RunConfig:
    """The configuration of one trial of a learning rate, on ResNet-20, measured on images held out of training.

    Raises:
        ConfigError: If there is no such arm.
    """
    made = config("resnet20", arm, 0, out, data)
    held_out, recipe = replace(PREPARE, validation=0.2), replace(made.train, lr=lr)
    return replace(made, prepare=held_out, train=recipe, out=str(Path(out) / f"rate-{arm}-{lr:g}"))


def start_file(network: str, out: str | Path) -> Path:
    """Where the trained weights of a network lie as a file of `weightshare.save`."""
    return Path(out) / f"{network}.safetensors"


def reestimate_(model: nn.Module, data: Data, batch_size: int = 128, seed: int = 0) -> None:
    """Measure the running statistics of batch norms again: means over batches of training images; labels stay unused.

    Images are varied as in training (`RECIPE`). Statistics are of images with black borders then, and others do not fit
    the weights: of images as they are, they cost the unshared ResNet-20 three points.

    Args:
        model: Changed in place: its running means and variances, and nothing else.
        data: Its training images, in order, are what is measured on.
        batch_size: Images of a batch; the last ones that fill none are left out, as one image alone has no variance.
        seed: Of how images are varied; torch's own generator stays where it is.
    """
    was_training = {module: module.training for module in model.modules()}
    split = data.train
    vary = augmentation(RECIPE.augment, split.shape, data.classes)
    rows = torch.arange(len(split)).split(batch_size)
    whole = [chunk for chunk in rows if len(chunk) == batch_size] or rows
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        update_bn((split.normalised(vary(images, labels)[0]) for images, labels in split.batches(whole)), model)
    for module, mode in was_training.items():
        module.training = mode
