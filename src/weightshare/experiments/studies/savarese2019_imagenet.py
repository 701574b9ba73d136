"""WRN-50-2 and SWRN-50-2 on ImageNet: configurations for each scale, and the errors that the poster prints.

Source: Savarese 2019, the poster's table of ImageNet, which tells neither a schedule nor what varies images. Both are
the usual ones of ResNet-50: SGD of 90 epochs at 0.1, divided by 10 after 30, 60 and 80, in batches of 256.
Differs: squares are cut at random places of a picture brought to 256 pixels, not at random scales.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from weightshare.depth.templates import Templates
from weightshare.experiments.jobs import Calculation, Job, Outcome, Scale, Training
from weightshare.experiments.studies.savarese2019_cifar import CURVES, DEPTHS, DIGITS, SIZE
from weightshare.experiments.studies.savarese2019_cifar import counted as counted_wrn
from weightshare.models.wrn50 import BLOCKS, wrn50
from weightshare.training.data import Augment, Prepare
from weightshare.training.data.split import Split
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.run import trained
from weightshare.verbs import plan

IMAGENET: dict[str, tuple[str, str]] = {
    "wrn-50-2": ("WRN 50-2", "weightshare.models:wrn50"),
    "swrn-50-2": ("SWRN 50-2, one template a layer", "weightshare.models:swrn50"),
}
"""By row, its name and the network."""
PROTOCOL = Recipe(
    epochs=90,
    batch_size=256,
    lr=0.1,
    weight_decay=1e-4,
    warmup=0.0,
    clip=None,
    augment=Augment(flip=True),
    channels_last=True,
    optimizer="sgd",
    momentum=0.9,
    nesterov=True,
    schedule="step",
    milestones=[30 / 90, 60 / 90, 80 / 90],
    factor=0.1,
)
WIDTHS: Mapping[Scale, int] = {"smoke": 1, "small": 1, "paper": 2}
WHOLE: Mapping[str, Any] = {"image_size": None, "prepare.cut": None, "prepare.margin": 0, "prepare.normalise": "data"}
"""Images as they are."""
SMOKE: Mapping[str, Any] = {"depth": DEPTHS["smoke"], "width": WIDTHS["smoke"]}
"""Of the network that stands in at `smoke`: none of ResNet-50's depth is small."""
SMOKE_DIGITS = {key: value for key, value in DIGITS.items() if key != "model_args.depth"}
SMALL: Mapping[str, Any] = {
    **WHOLE,
    "image_size": 32,
    "prepare.fraction": 0.01,
    "prepare.validation": 0.1,
    "train.epochs": 1,
    "train.batch_size": 64,
    "train.lr": 0.025,
    "train.augment.crop": 4,
    "precision": "32-true",
    "model_args.width": WIDTHS["small"],
}


def imagenet(row: str, column: str, scale: Scale) -> Job:
    """The work of a row: parameters are counted, `imagenet` is a training."""
    shared = row.startswith("s")
    if column == SIZE:
        if scale == "smoke":
            return Calculation(counted_wrn, {**SMOKE, "templates": 0 if shared else None}, together=True)
        whole = {"width": WIDTHS["paper"], "shared": shared}
        return Calculation(counted, {**whole, "width": WIDTHS[scale]}, whole, together=True)
    deltas: Mapping[Scale, Mapping[str, Any]] = {
        "smoke": {
            **WHOLE,
            **SMOKE_DIGITS,
            "model": f"weightshare.models:{'swrn' if shared else 'wrn'}",
            "model_args": SMOKE,
        },
        "small": SMALL,
        "paper": {},
    }
    return Training(partial(settings, row), row, column, deltas[scale], errors, CURVES)


def settings(row: str, seed: int, runs: Path) -> RunConfig:
    """The training of a row at the poster's sizes."""
    return RunConfig(
        IMAGENET[row][1],
        model_args={"width": WIDTHS["paper"]},
        data="imagenet",
        image_size=256,
        prepare=Prepare(cut=224, margin=None, normalise="imagenet"),
        train=PROTOCOL,
        precision="bf16-mixed",
    )


def counted(seeds: Sequence[int], width: int, shared: bool) -> dict[int, Outcome]:
    """The parameters of a network, in millions: the same for every seed, and nothing is computed."""
    with torch.device("meta"):
        net = wrn50(width)
    stored = sum(parameter.numel() for parameter in net.parameters())
    for stage, blocks in enumerate(BLOCKS if shared else (), 1):
        made = plan(net, Templates(blocks - 1, within="model"), net.repeated(stage))
        stored += made.stored_after - made.stored_before
    return dict.fromkeys(seeds, Outcome({"params": stored / 1e6}))


def errors(settings: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """The errors of a finished run in percent: of the first guess, and of the first five."""
    model, data = trained(settings.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    missed = misses(model.to(device), data.test.to(device), 5)
    return {"imagenet/top1-error": 100 * (1 - summary["accuracy"]), "imagenet/top5-error": 100 * missed}


@torch.no_grad()
def misses(model: torch.nn.Module, split: Split, guesses: int) -> float:
    """The share of images whose class is not among the first guesses of a network; its mode is put back."""
    was_training = model.training
    model.eval()
    missed = 0
    for images, labels in split.batches(torch.arange(len(split)).split(256)):
        guessed = model(split.normalised(images)).topk(guesses, dim=1).indices
        missed += int((guessed != labels[:, None]).all(1).sum())
    model.train(was_training)
    return missed / len(split)
