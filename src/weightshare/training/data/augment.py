"""What varies images in training: which changes, with which strength, and in which order they are made."""

from collections.abc import Callable
from dataclasses import dataclass, fields
import math
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from weightshare.errors import ConfigError
from weightshare.training.data.cutting import cutting
from weightshare.training.data.mixing import mixing
from weightshare.training.data.moves import moving

Augmentation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Augment:
    """Which changes are made to images of the training part; the default is none.

    Args:
        crop: Pixels put around an image before a part of the old size is cut out at random; 0 for none. CIFAR is
            usually trained with 4.
        flip: Whether half of the images are mirrored, left to right.
        rand_augment: `(n, m)` of RandAugment (Cubuk et al. 2019, arXiv 1909.13719): n changes out of 15 for each image,
            drawn anew for each one, of strength m from 1 to 29. Needs kornia.
        erase: Probability that a rectangle of an image is blackened (Zhong et al. 2017, arXiv 1708.04896), 0 to 1. Its
            area is 2 to 33 % of the image, its sides' ratio 0.3 to 3.3. Needs kornia.
        mixup: α of Beta(α, α) that the weight of images mixed in pairs is drawn from (Zhang et al. 2017, arXiv
            1710.09412); 0 for none.
        cutmix: α of Beta(α, α) that the area is drawn from that an image takes over from another (Yun et al. 2019,
            arXiv 1905.04899); 0 for none. With `mixup` too, each batch has one of the two, with even chances.
        pad: Of `crop`, what the pixels put around are: `zero`, black, or `mean`, that of the training images, which is
            0 once images are normalised.
        rand_augment_std: Of `rand_augment`: standard deviation of the strength, on its scale of 30. It is drawn from
            a normal distribution around m, cut off at 0 and 30, for all images of a batch that drew the same change.
        repeats: How often each image is in a batch, varied by itself each time. The batch keeps its size and holds so
            many times fewer different images, and the epoch has so many times more steps: each image comes up `repeats`
            times in it (Pogodin 2021, section 5.1, whose time for a run grows as often).
        cutout: Side in pixels of a square of each image that takes the mean of the training images, which is 0 once
            images are normalised, around a random pixel (DeVries 2017, arXiv 1708.04552); 0 for none. CIFAR-10 is
            usually trained with 16.

    Raises:
        ConfigError: If a value has the wrong kind or is out of range.

    Example:
        >>> Augment(crop=4, flip=True)  # doctest: +NORMALIZE_WHITESPACE
        Augment(crop=4, flip=True, rand_augment=None, erase=0.0, mixup=0.0, cutmix=0.0, pad='zero',
        repeats=1, rand_augment_std=0.0, cutout=0)
    """

    crop: int = 0
    flip: bool = False
    rand_augment: list[int] | tuple[int, ...] | None = None
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    pad: Literal["zero", "mean"] = "zero"
    repeats: int = 1
    rand_augment_std: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        if type(self.crop) is not int or self.crop < 0:
            raise _wrong("crop", self.crop, "a whole number of pixels, 0 or more")
        if type(self.flip) is not bool:
            raise _wrong("flip", self.flip, "true or false")
        if self.rand_augment is not None:
            object.__setattr__(self, "rand_augment", _two(self.rand_augment))
        if not _number(self.erase) or not 0 <= self.erase <= 1:
            raise _wrong("erase", self.erase, "a probability, 0 to 1")
        for name in ("mixup", "cutmix", "rand_augment_std"):
            if not _number(getattr(self, name)) or not 0 <= getattr(self, name) < math.inf:
                raise _wrong(name, getattr(self, name), "a finite number, 0 or more")
        if self.rand_augment_std and self.rand_augment is None:
            raise _wrong("rand_augment_std", self.rand_augment_std, "rand_augment with it: nothing has a strength")
        for name in ("erase", "mixup", "cutmix", "rand_augment_std"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.pad not in ("zero", "mean"):
            raise _wrong("pad", self.pad, "'zero' or 'mean'")
        if self.pad != "zero" and not self.crop:
            raise _wrong("pad", self.pad, "crop with it: nothing is put around images")
        if type(self.repeats) is not int or self.repeats < 1:
            raise _wrong("repeats", self.repeats, "a whole number, 1 or more")
        if type(self.cutout) is not int or self.cutout < 0:
            raise _wrong("cutout", self.cutout, "a whole number of pixels, 0 or more")

    @property
    def soft(self) -> bool:
        """Whether targets are shares of classes instead of labels."""
        return self.mixup > 0 or self.cutmix > 0

    def __bool__(self) -> bool:
        """Whether anything is changed at all."""
        return any(getattr(self, entry.name) != entry.default for entry in fields(self))


def augmentation(
    augment: Augment, shape: tuple[int, int, int], classes: int, mean: Tensor | None = None, cut: int | None = None
) -> Augmentation:
    """Make the function that varies a batch. Copies (`repeats`) are made before, by who makes the batch.

    Crops, cuts and flips come first, then RandAugment, erasing, cutout, and mixing of pairs.

    Args:
        augment: What to do.
        shape: Of one image: `(in, h, w)`.
        classes: Number of classes, at least every label + 1.
        mean: Of each channel over the training images, in [0, 1], `(in)`; needed for `pad="mean"` and
            for `cutout`.
        cut: Side of the square that is cut out of each image, or of it and its border, at random; nothing for `(h, w)`.

    Returns:
        From `(images, labels)`, float32 `(batch, in, h, w)` in [0, 1] and int64 `(batch)` on one device, to images of
        the same shape (or cut) in [0, 1] and targets: the labels, or with `mixup` or `cutmix` float32 `(batch,
        classes)`, each row of sum 1. What is put in stays as it is. Random numbers come from torch's global generator
        of the CPU, on whatever device the images are: the same state gives the same batch.

    Raises:
        ConfigError: If kornia is needed and not installed, if a crop is as wide as an image, if RandAugment is to vary
            images of other than 1 or 3 channels, or if a mean is missing.

    Example:
        >>> import torch
        >>> vary = augmentation(Augment(crop=1, mixup=0.2), shape=(3, 5, 7), classes=2)
        >>> images, targets = vary(torch.rand(11, 3, 5, 7), torch.zeros(11, dtype=torch.int64))
        >>> tuple(images.shape), tuple(targets.shape)
        ((11, 3, 5, 7), (11, 2))
    """
    size = shape[1:] if cut is None else (cut, cut)
    if cut is not None and not 1 <= cut <= min(shape[1:]):
        raise ConfigError(f"A square of {cut} pixels cannot be cut out of images of {shape[1]}×{shape[2]}.")
    if augment.crop >= min(size):
        raise ConfigError(f"augment.crop={augment.crop}: need less than the side of an image, {min(size)} pixels.")
    named = "pad='mean'" if augment.pad == "mean" else f"cutout={augment.cutout}"
    if (augment.pad == "mean" or augment.cutout) and (mean is None or mean.shape != shape[:1]):
        got = "none" if mean is None else tuple(mean.shape)
        raise ConfigError(f"augment.{named}: need the mean of each of {shape[0]} channels, got {got}.")
    steps: list[Callable[[Tensor], Tensor]] = []
    if augment.crop or augment.flip or size != shape[1:]:
        steps.append(moving(augment.crop, augment.flip, mean if augment.pad == "mean" else None, size))
    if augment.rand_augment or augment.erase:
        from weightshare.training.data.pixels import erasing, rand_augment  # they import kornia

        if augment.rand_augment:
            n, m = augment.rand_augment
            steps.append(rand_augment(n, m, shape[0], augment.rand_augment_std))
        if augment.erase:
            steps.append(erasing(augment.erase))
    if augment.cutout and mean is not None:
        steps.append(cutting(augment.cutout, mean))
    mix = mixing(augment.mixup, augment.cutmix, classes) if augment.soft else None

    def vary(
        images: Float[Tensor, "batch in h w"], labels: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch in h2 w2"], Tensor]:
        for step in steps:
            images = step(images)
        return mix(images, labels) if mix else (images, labels)

    return vary


def _two(value: Any) -> list[int]:
    """`[n, m]` as a list, whatever sequence it came as: JSON and YAML give it back so."""
    pair = list(value) if isinstance(value, list | tuple) else []
    if len(pair) != 2 or any(type(number) is not int for number in pair) or pair[0] < 1 or not 0 < pair[1] < 30:
        raise _wrong("rand_augment", value, "[n, m] with n from 1 and m from 1 to 29, or nothing")
    return pair


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(name: str, value: Any, needed: str) -> ConfigError:
    return ConfigError(f"augment.{name}={value!r}: need {needed}.")
