"""Changes that kornia makes: RandAugment and random erasing, on the device of the images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from weightshare.errors import ConfigError

CHANGES = (
    ("auto_contrast", 0, 1),
    ("equalize", 0, 1),
    ("invert", 0, 1),
    ("rotate", -30.0, 30.0),
    ("posterize", 4.0, 8.0),
    ("solarize", 0.0, 1.0),
    ("solarize_add", 0.0, 0.43),
    ("color", 0.1, 1.9),
    ("contrast", 0.1, 1.9),
    ("brightness", 0.1, 1.9),
    ("sharpness", 0.1, 1.9),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("translate_x", -0.1, 0.1),
    ("translate_y", -0.1, 0.1),
)
"""Name and range of each change, as kornia's own RandAugment has them."""

STRONGEST = 30
"""What kornia divides a strength by."""


def rand_augment(n: int, m: int, channels: int, std: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Make the function that applies RandAugment, with changes drawn for each image.

    kornia's own draws once for a whole batch; here images that drew the same change are put together.

    Args:
        n: Changes for each image, one after the other, from 1.
        m: Strength, 1 to 29 of 30.
        channels: 1 or 3; on grey images there is no `color`.
        std: Standard deviation of the strength, which is drawn anew for each change of a batch and kept in 0 to 30.

    Raises:
        ConfigError: If kornia is not installed, or images have other channels.
    """
    if channels not in (1, 3):
        raise ConfigError(f"augment.rand_augment is for images of 1 or 3 channels; these have {channels}.")
    auto = _kornia().auto
    changes = [auto.RandAugment(1, m, policy=[[change]]) for change in CHANGES if channels == 3 or change[0] != "color"]

    @torch.no_grad()
    def vary(images: Tensor) -> Tensor:
        for _ in range(n):
            drawn = torch.randint(len(changes), (len(images),))
            out = torch.empty_like(images)
            for number, change in enumerate(changes):
                rows = (drawn == number).nonzero()[:, 0]
                if len(rows):
                    rows = rows.to(images.device, non_blocking=True)
                    if std:  # kornia reads its m in each call
                        change.m = float((m + std * torch.randn(())).clamp(0, STRONGEST))
                    out[rows] = change(images[rows])
            images = out
        return images

    return vary


def erasing(probability: float) -> Callable[[Tensor], Tensor]:
    """Make the function that blackens a rectangle of some images.

    Raises:
        ConfigError: If kornia is not installed.
    """
    return _kornia().RandomErasing(p=probability)


def _kornia() -> Any:
    try:
        import kornia.augmentation
    except ImportError as error:
        raise ConfigError(
            "augment.rand_augment and augment.erase are kornia's, which is not there: "
            f"pip install 'weightshare[augment]' ({error})."
        ) from error
    return kornia.augmentation
