"""A dial between a convolution and a locally connected layer: kernels of low rank over positions, from 1 up.

Three 3×3 layers of equal width see 16×16, 8×8 and 8×8 positions of a CIFAR-10 image; the last two are convolutions, of
a low rank over positions, or locally connected. All start as the same convolutions, so only what may move apart
differs.

Source: Elsayed 2020 ("Revisiting spatial invariance with low-rank local connectivity"). Differs: network and schedule
are ours; coefficients are one for each position and not normalised (see `space.lowrank`).
"""

from typing import Literal

import torch
from torch import nn

from weightshare.errors import SpecError
from weightshare.space.convert import plan_local
from weightshare.space.lowrank import LowRank
from weightshare.verbs import share_

LOCAL = ("3", "6")
"""Of the layers, those whose positions may differ."""


def network(
    channels: int,
    positions: Literal["one", "own"] | int = "one",
    classes: int = 10,
    in_channels: int = 3,
    size: tuple[int, int] = (32, 32),
) -> nn.Sequential:
    """Build the network.

    Args:
        channels: Of each layer.
        positions: `one` kernel for all, a convolution; kernels of this rank; or each position its `own`.
        classes: Outputs.
        in_channels: Of the images.
        size: Height and width of the images, multiples of 4; those of 8 pixels or less are halved once, others twice.

    Raises:
        SpecError: If a side is no multiple of 4, or the rank does not fit.
    """
    if size[0] % 4 or size[1] % 4:
        raise SpecError(f"The network halves images twice: need sides that 4 divides, got {tuple(size)}.")
    layers: list[nn.Module] = []
    for number, stride in enumerate((1 if max(size) <= 8 else 2, 2, 1)):
        conv = nn.Conv2d(channels if number else in_channels, channels, 3, stride, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    if positions != "one":
        plan_local(model, torch.zeros(1, in_channels, *size), list(LOCAL), 0, 0.0).apply_(model)
    if isinstance(positions, int):
        share_(model, LowRank(positions), [f"{path}.weight" for path in LOCAL])
    return model
