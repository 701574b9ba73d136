"""SPIN's ConvMixers as jobs: the paper's training on ImageNet, and what smaller scales change of it.

Small is 64/8/4/3 on a fifth of CIFAR-10: under two minutes on one core. Few images, and few epochs of them, since each
epoch ends with all test images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
import warnings

import torch

from weightshare.errors import SharingWarning
from weightshare.experiments.jobs import Outcome, Scale, Training, folder_of
from weightshare.experiments.studies.lin2022_imagenet import spin_convmixer
from weightshare.models.by_name import build
from weightshare.surgery.count import count, macs
from weightshare.training.recipe import RunConfig
from weightshare.training.run import MODEL
from weightshare.training.share import FusionName, Share
from weightshare.verbs import plan

POINTWISE = "blocks.*.pointwise"
IMAGE = 224
PICTURES: dict[str, Any] = {
    "image_size": None,
    "prepare.cut": None,
    "prepare.margin": 0,
    "prepare.normalise": "data",
    "prepare.fraction": 0.2,
    "train.schedule": "cosine",
    "train.warmup": 0.1,
    "train.label_smoothing": 0.0,
    "precision": "32-true",
}
FROM_SCRATCH: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"data": "digits", **PICTURES},
    "small": {"data": "cifar10", **PICTURES},
    "paper": {},
}
"""Small pictures and few epochs, which leave nothing to regularise."""
SCHEDULE: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"train.epochs": 1, "train.batch_size": 64, "train.augment": {}, "prepare.fraction": 0.2},
    "small": {"train.epochs": 5, "train.batch_size": 128, "train.augment": {"crop": 4, "flip": True}},
    "paper": {},
}
NETWORKS: Mapping[Scale, dict[str, str]] = {
    "smoke": {"512/16/14/9": "6/8/2/5", "768/32/14/3": "8/8/2/3", "1536/20/7/3": "10/8/2/3"},
    "small": {"512/16/14/9": "48/8/4/5", "768/32/14/3": "64/8/4/3", "1536/20/7/3": "96/8/4/3"},
}
"""For each of the paper's networks what stands for it."""


@dataclass(frozen=True)
class Arm:
    """One way to a network.

    Args:
        rate: Share rate, or nothing for an unshared network.
        fuse: What a slot starts from.
        start: The row whose trained weights it starts from, of the same seed, column and labels; or random ones.
        where: What shares.
        like: The row whose run this is, too.
    """

    rate: int | None = None
    fuse: FusionName = "first"
    start: str | None = None
    where: str | list[str] = POINTWISE
    like: str | None = None


def top1(settings: RunConfig, summary: Mapping[str, Any], name: str = "top1") -> dict[str, float]:
    """The accuracy of a run in percent."""
    return {name: 100 * summary["accuracy"]}


def training(
    size: str,
    arm: Arm,
    row: str,
    column: str,
    scale: Scale,
    noise: float = 0.0,
    shorter: Mapping[Scale, dict[str, Any]] | None = None,
    **options: Any,
) -> Training:
    """The training of a ConvMixer.

    Args:
        size: Of the paper's network, `C/D/P/K`.
        arm: How it comes about.
        row: Of the table.
        column: Of the table.
        scale: Of the cell.
        noise: Share of wrong labels, the same ones in all rows of a seed.
        shorter: What a scale changes besides, of tables with many trainings.
        options: Of the training: what is read off it.
    """

    def settings(seed: int, runs: Path) -> RunConfig:
        start = None if arm.start is None else str(folder_of(runs, arm.start, column, seed) / MODEL)
        made = spin_convmixer(size, "unused", init=start, seed=seed)
        share = [Share(arm.rate, fuse=arm.fuse, where=arm.where)] if arm.rate else []
        prepare = replace(made.prepare, label_noise=noise, seed=seed)
        return replace(made, share=share, prepare=prepare, device="auto", devices=1)

    deltas: dict[str, Any] = {}
    if scale != "paper":
        network = {"model": f"convmixer:{NETWORKS[scale][size]}", "model_args": {"activation": "relu"}}
        deltas = {**FROM_SCRATCH[scale], **network, **SCHEDULE[scale], **(shorter or {}).get(scale, {})}
    return Training(settings, arm.like or row, column, deltas=deltas, **{"measure": top1, **options})


def size_of(
    seeds: Sequence[int], size: str, rate: int | None = None, where: str | list[str] = POINTWISE
) -> dict[int, Outcome]:
    """Stored numbers in millions and multiply-adds in billions of a ConvMixer on ImageNet; nothing is allocated."""
    with torch.device("meta"):
        model, image = build(f"convmixer:{size}"), torch.empty(1, 3, IMAGE, IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SharingWarning)  # of batch norm, which is what table 2 shares
        stored = plan(model, Share(rate, where=where).spec, where).stored_after if rate else count(model).stored
    outcome = Outcome({"params": stored / 1e6, "flops": macs(model, image) / 1e9}, {"stored": stored})
    return dict.fromkeys(seeds, outcome)
