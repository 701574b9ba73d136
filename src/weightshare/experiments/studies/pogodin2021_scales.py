"""The trainings of Pogodin 2021 as jobs: what `small` and `smoke` change of the paper's protocol, and what is measured.

`small` keeps the widths of the network, takes a third of its blocks, halves images (a padding of 2 then is the paper's
4), and learns from the first images of each class only, so that there is time to go over them often. Fewer than these
do not show what the paper shows: of a thousand images a local network knows as much as a convolutional one (44.9 and
45.5 % of test images, both having learnt theirs by heart).

Copies of images (`prepare.copies`) only make an epoch longer, so that test images are looked at a few times instead of
after each pass. Every row makes as many steps, where the paper's repeats take so many times longer.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightshare.experiments.jobs import Scale, Training
from weightshare.experiments.studies import pogodin2021_protocol as paper
from weightshare.experiments.studies.divergence import EVERY, STEPS, Divergence
from weightshare.experiments.studies.divergence import RATES as RATES_OF_FIGURE_6
from weightshare.training.recipe import RunConfig
from weightshare.training.run import trained
from weightshare.training.snapshot import NOISE

FRACTION, PASSES, BATCH = 0.08, 32, 64
COPIES = 8
"""Passes over the images that count as one epoch of `small`, repeats included."""
HALF = 2
"""By what the sides of images, squares and paddings are divided."""

RATES = {
    "conv": 1e-2,
    "lc": 3e-3,
    "lc-reps4": 3e-3,
    "lc-reps8": 3e-3,
    "lc-reps16": 3e-3,
    "lc-ws1": 1e-2,
    "lc-ws10": 6e-3,
    "lc-ws100": 2e-3,
}
"""Learning rates of `small`, whatever the data set and the padding: a tenth of the paper's steps wants higher ones.

On smaller networks and test images, of 1e-3 and 3e-3 (`lc`) and of 1e-3 and 4e-3 (`ws(1)`) the higher did better; the
others follow by their place between `lc` and `conv`. There was no further search.
"""

TINY = {"resnet20": "resnet20:2/3/5", "resnet18": "resnet18:2/3/5/7"}


def training(row: str, dataset: str, padding: int | None, scale: Scale) -> Training:
    """The training of a cell of tables 3 to 5, or of table 12, where there is no padding.

    Args:
        row: One of `pogodin2021_protocol.ROWS`.
        dataset: One of `pogodin2021_protocol.TASKS`, which the column is named after.
        padding: 0, 4 or 8 pixels; nothing for ImageNet.
        scale: How much of it.
    """

    def settings(seed: int, runs: Path) -> RunConfig:
        return paper.config(row, dataset, padding, seed, runs)

    def measure(made: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
        if len(paper.TASKS[dataset].accuracies) == 1:
            return {f"{dataset}/top1": 100 * summary["accuracy"]}
        found = paper.accuracies(*measured_on(made))
        return {f"{dataset}/top{count}": 100 * share for count, share in zip((1, 5), found, strict=True)}

    changes = deltas(row, dataset, padding, scale)
    return Training(settings, row, dataset, changes, measure, ("train_accuracy", "test_accuracy", *NOISE))


def deltas(row: str, dataset: str, padding: int | None, scale: Scale) -> dict[str, Any]:
    """What a scale sets instead of the paper's values, by dotted key."""
    if scale == "paper":
        return {}
    made = _smoke(dataset, padding) if scale == "smoke" else _small(row, dataset, padding)
    if scale == "smoke" and padding is None and (every := paper.ROWS[row].sleep_every):
        # Of so few pixels no two positions are of one module of the paper's.
        made["train.sleep"] = [{"every": every, "period": 1}]
    return made | {"model_args": {"blocks": 1}, "precision": "32-true", "train.batch_size": BATCH}


def _small(row: str, dataset: str, padding: int | None) -> dict[str, Any]:
    task = paper.TASKS[dataset]
    if padding is None:
        square = {"image_size": 64, "prepare.cut": 56, "prepare.fraction": 0.02, "train.fused": True}
        return square | {"train.epochs": 2, "train.lr": RATES[row.replace("first-conv", "lc")]}
    repeats = paper.ROWS[row].repeats
    copies = max(1, COPIES // repeats)
    made = {"prepare.fraction": FRACTION, "prepare.pool": HALF, "prepare.copies": copies, "train.fused": True}
    made |= {"train.epochs": PASSES // (copies * repeats), "train.lr": RATES[row]}
    if task.cut is not None:
        return made | {"prepare.cut": task.cut // HALF, "prepare.margin": padding // HALF}
    return made | ({"train.augment.crop": padding // HALF} if padding else {})


def _smoke(dataset: str, padding: int | None) -> dict[str, Any]:
    task = paper.TASKS[dataset]
    name = TINY[task.model.partition(":")[0]]
    made = {"data": "digits", "model": name, "image_size": None, "prepare.fraction": 0.2, "train.epochs": 1}
    made["train.channels_last"] = False  # oneDNN of torch 2.13 writes past its buffers with so few channels last
    if task.cut is not None:
        return made | {"prepare.cut": 6, "prepare.margin": padding and 1, "prepare.normalise": "data"}
    return made | ({"train.augment.crop": 1} if padding else {})


def measured_on(made: RunConfig) -> tuple[Any, Any]:
    """The trained network of a finished run and the images that it is measured on, on the best device."""
    from lightning_fabric import Fabric

    model, data = trained(made.out)
    device = Fabric(accelerator=made.device, devices=1).device
    return model.to(device), data.to(device).test


def divergence(row: str, column: str, scale: Scale) -> Divergence:
    """The training of a row of figure 6: `lc-ws10` at a rate of its own."""

    def settings(seed: int, runs: Path) -> RunConfig:
        made = paper.config("lc-ws10", "cifar10", 4, seed, runs)
        return replace(made, train=replace(made.train, lr=RATES_OF_FIGURE_6[row]))

    fewer = deltas("lc-ws10", "cifar10", 4, scale)
    left = ("train.lr", "train.epochs", "prepare.fraction", "prepare.copies")
    kept = {key: value for key, value in fewer.items() if key not in left}
    return Divergence(settings, row, column, kept, steps=STEPS if scale != "smoke" else EVERY + 2)
