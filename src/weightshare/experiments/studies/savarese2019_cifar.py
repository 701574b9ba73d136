"""Wide ResNets whose layers share templates, as the poster trains them: configurations for each scale.

Source: Savarese 2019, the poster's tables of CIFAR, of ImageNet and beside architecture search. Its schedule is not on
it; that of small images is Zagoruyko's (2016), that of large ones is the usual one of ResNet-50.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from weightshare.depth.templates import Templates
from weightshare.experiments.jobs import Calculation, Job, Outcome, Scale, Training
from weightshare.models.wrn import STAGES, wrn
from weightshare.training.data import Augment
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.verbs import plan

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
DEPTH, DROPOUT, CUTOUT = 28, 0.3, 16
SIZE = "size"
"""The column of parameters, which are counted and not trained."""
CURVES = ("train_accuracy", "test_accuracy", "layer_similarity")


@dataclass(frozen=True)
class Network:
    """A wide ResNet of the poster's tables of CIFAR.

    Args:
        name: In the poster's words.
        width: Widening factor.
        templates: Of each bank: a number, 0 for one for each layer; nothing for a plain network.
        dropout: Probability between the two convolutions of a block.
        cutout: Side of the square that is covered, in pixels, or 0.
    """

    name: str
    width: int
    templates: int | None = None
    dropout: float = 0.0
    cutout: int = 0

    @property
    def model(self) -> str:
        return f"weightshare.models:{'wrn' if self.templates is None else 'swrn'}"

    @property
    def sizes(self) -> dict[str, Any]:
        """What the network is built with."""
        given: dict[str, Any] = {"depth": DEPTH, "width": self.width}
        given |= {"templates": self.templates} if self.templates else {}
        return given | ({"dropout": self.dropout} if self.dropout else {})


CIFAR: dict[str, Network] = {
    "wrn-28-10-plain": Network("WRN 28-10", 10),
    "wrn-28-10": Network("WRN 28-10*", 10, dropout=DROPOUT),
    "swrn-28-10": Network("SWRN 28-10*", 10, 0, DROPOUT),
    "swrn-28-10-2": Network("SWRN 28-10-2*", 10, 2, DROPOUT),
    "swrn-28-14": Network("SWRN 28-14*", 14, 0, DROPOUT),
    "swrn-28-14-2": Network("SWRN 28-14-2*", 14, 2, DROPOUT),
    "swrn-28-18": Network("SWRN 28-18*", 18, 0, DROPOUT),
    "swrn-28-18-2": Network("SWRN 28-18-2*", 18, 2, DROPOUT),
}
"""By row. The poster's star says dropout."""
BESIDE: dict[str, Network] = {
    "wrn-28-10": Network("WRN 28-10 with cutout", 10, cutout=CUTOUT),
    "swrn-28-6-2": Network("SWRN 28-6-2", 6, 2, cutout=CUTOUT),
    "swrn-28-10-2": Network("SWRN 28-10-2", 10, 2, cutout=CUTOUT),
    "swrn-28-14-2": Network("SWRN 28-14-2", 14, 2, cutout=CUTOUT),
}
"""By row of the table beside architecture search."""

WIDTHS: Mapping[Scale, Mapping[int, float]] = {
    "smoke": {10: 1, 14: 1.25, 18: 1.5},
    "small": {10: 1, 14: 1.5, 18: 2},
    "paper": {10: 10, 14: 14, 18: 18},
}
"""Widening factors of the table of CIFAR at each scale, by the poster's."""
WIDTHS_BESIDE: Mapping[Scale, Mapping[int, float]] = {
    "smoke": {6: 1, 10: 1.25, 14: 1.5},
    "small": {6: 1, 10: 1.5, 14: 2},
    "paper": {6: 6, 10: 10, 14: 14},
}
"""Those of the table beside architecture search."""

DEPTHS: Mapping[Scale, int] = {"smoke": 16, "small": DEPTH, "paper": DEPTH}
DIGITS: Mapping[str, Any] = {
    "data": "digits",
    "precision": "32-true",
    "prepare.fraction": 0.25,
    "model_args.depth": DEPTHS["smoke"],
    "train.epochs": 1,
    "train.batch_size": 64,
    "train.augment.crop": 1,
}
CORES: Mapping[str, Any] = {
    "prepare.pool": 2,
    "train.batch_size": 64,
    "train.lr": 0.05,
    "train.augment.crop": 2,
    "precision": "32-true",
}
"""What two cores need: images of half the side, and batches as small as cost nothing; few of them multiply bfloat16."""
DELTAS: Mapping[Scale, Mapping[str, Any]] = {
    "smoke": DIGITS,
    "small": {**CORES, "prepare.fraction": 0.3, "train.epochs": 5},
    "paper": {},
}
DELTAS_BESIDE: Mapping[Scale, Mapping[str, Any]] = {
    "smoke": {**DIGITS, "train.augment.cutout": 3},
    "small": {**CORES, "prepare.fraction": 0.2, "train.epochs": 5, "train.augment.cutout": CUTOUT // 2},
    "paper": {},
}


def cifar(row: str, column: str, scale: Scale) -> Job:
    """The work of a row of the table of CIFAR: parameters are counted, `cifar10` and `cifar100` are trainings."""
    network, width = CIFAR[row], WIDTHS[scale][CIFAR[row].width]
    if column == SIZE:
        return _counted(network, width, DEPTHS[scale])
    deltas = {**DELTAS[scale], "model_args.width": width}
    if network.dropout and scale == "small":
        deltas["model_args.dropout"] = 0.0
    return Training(
        partial(settings, network, column),
        row,
        column,
        deltas,
        partial(error, metric=f"{column}/error"),
        CURVES,
    )


def beside(row: str, column: str, scale: Scale) -> Job:
    """The work of a row of the table beside architecture search."""
    network, width = BESIDE[row], WIDTHS_BESIDE[scale][BESIDE[row].width]
    if column == SIZE:
        return _counted(network, width, DEPTHS[scale])
    deltas = {**DELTAS_BESIDE[scale], "model_args.width": width}
    return Training(partial(settings, network, "cifar10"), row, column, deltas, error_and_days, CURVES)


def settings(network: Network, data: str, seed: int, runs: Path) -> RunConfig:
    """The poster's training of a network of its tables of CIFAR."""
    augment = replace(PROTOCOL.augment, cutout=network.cutout)
    return RunConfig(
        network.model,
        model_args=network.sizes,
        data=data,
        train=replace(PROTOCOL, augment=augment),
        precision="bf16-mixed",
        checkpoint_minutes=2.0,
    )


def counted(seeds: Sequence[int], width: float, depth: int, templates: int | None) -> dict[int, Outcome]:
    """The parameters of a network, in millions: the same for every seed, and nothing is computed.

    Args:
        seeds: Of the outcomes.
        width: Widening factor.
        depth: Layers.
        templates: As in `Network`.
    """
    with torch.device("meta"):
        net = wrn(depth, width)
    stored = sum(parameter.numel() for parameter in net.parameters())
    if templates is not None:
        spec = Templates(templates or len(net.repeated) // STAGES, within="model")
        stored = plan(net, spec, net.repeated).stored_after
    return dict.fromkeys(seeds, Outcome({"params": stored / 1e6}))


def _counted(network: Network, width: float, depth: int) -> Calculation:
    one = {"depth": depth, "width": width, "templates": network.templates}
    return Calculation(counted, one, {**one, "depth": DEPTH, "width": network.width}, together=True)


def error(settings: RunConfig, summary: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The error of a run in percent."""
    return {metric: 100 * (1 - summary["accuracy"])}


def error_and_days(settings: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """The error of a run in percent, and how many days it took."""
    return {**error(settings, summary, "error"), "gpu_days": summary["training_seconds"] / 86400}
