"""What is done to a data set once, before training: parts of it, wrong labels, smaller images, images on a torus,
shuffled pixels, squares from the middle."""

from dataclasses import dataclass, fields, replace
import math
from typing import Literal

from jaxtyping import Int
import numpy as np
import torch
from torch import Tensor

from weightshare.errors import ConfigError
from weightshare.training.data.build import Part, build
from weightshare.training.data.lazy import Lazy
from weightshare.training.data.split import Data, InMemory, Split

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue over ImageNet, as torchvision has them."""

ANYWHERE = ("fraction", "validation", "label_noise", "cut", "margin", "normalise")
"""What also works on images that are read from disk in each step; their mean and standard deviation stay."""


@dataclass(frozen=True)
class Prepare:
    """Changes to a data set, made in this order and the same for every run of one seed; the default is none.

    Args:
        fraction: Share of the training images of each class that is kept, the first ones of it; above 0, at most 1.
        validation: Share of the kept training images of each class, the last ones of it, that is held out and measured
            on *instead of* the test images, for choosing settings; 0 to below 1.
        label_noise: Share `l` of the training images whose label is replaced by a class drawn from all, its own
            included, so that about `l (1 - 1 / classes)` of the labels are wrong; 0 to 1. Images that are measured on
            keep theirs. With one seed, what is replaced at a low share is replaced by the same at a higher one.
        pool: Side of the squares of pixels whose mean becomes one pixel; 2 halves the side.
        copies: How many copies of each training image there are, each shifted by itself.
        shift: Whether each image, test images too, is shifted around a torus once by a random number of rows and
            columns, any with the same chance.
        shuffle: Whether pixels are put into another order, one for all images, so that neighbours are neighbours no
            more.
        seed: Of replaced labels, shifts and the order.
        cut: Side of the square from the middle of each image that a network sees; nothing for whole images.
        margin: Of `cut`: pixels that training images keep on each side of that square. Each step cuts a square of side
            `cut` out of them at random. Nothing is all that there is: the whole image, and of images that are read from
            disk in each step the whole picture, of which `image_size` tells the shorter side.
        normalise: By which mean and standard deviation: of the training images (`data`), or those of ImageNet.

    Raises:
        ConfigError: If a value is out of its range.

    Source: Shakerinava 2023: MNIST on a torus is `Prepare(fraction=0.6, pool=2, shift=True)`. Pogodin 2021, section
        5.1: TinyImageNet with a padding of 4 is `Prepare(cut=48, margin=4, normalise="imagenet")`; ImageNet
        `Prepare(cut=224, margin=None, normalise="imagenet")` of a folder brought to 256 pixels. Lin 2022, supplement
        F.1: label noise.
    Differs: Images are halved by means of 2×2 pixels; the paper does not say how.
    """

    fraction: float = 1.0
    validation: float = 0.0
    pool: int = 1
    copies: int = 1
    shift: bool = False
    shuffle: bool = False
    seed: int = 0
    cut: int | None = None
    margin: int | None = 0
    normalise: Literal["data", "imagenet"] = "data"
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        for name, valid, needed in (
            ("fraction", math.isfinite(self.fraction) and 0 < self.fraction <= 1, "above 0 and at most 1"),
            ("validation", math.isfinite(self.validation) and 0 <= self.validation < 1, "0 to below 1"),
            ("label_noise", 0 <= self.label_noise <= 1, "a share, 0 to 1"),
            ("pool", self.pool >= 1, "1 or more pixels"),
            ("copies", self.copies >= 1, "1 or more"),
            ("seed", 0 <= self.seed < 2**32, "0 to 4294967295"),
            ("cut", self.cut is None or self.cut >= 1, "1 or more pixels, or nothing"),
            ("margin", self.margin is None or self.margin >= 0, "0 or more pixels, or nothing for all there is"),
            ("margin", self.margin == 0 or self.cut is not None, "0 without a cut"),
            ("normalise", self.normalise in ("data", "imagenet"), "data or imagenet"),
        ):
            if not valid:
                raise ConfigError(f"prepare.{name}={getattr(self, name)!r}: need {needed}.")

    def __bool__(self) -> bool:
        """Whether anything is changed at all."""
        return any(getattr(self, entry.name) != entry.default for entry in fields(self) if entry.name != "seed")

    def __call__(self, data: Data) -> Data:
        """The changed data set; mean and standard deviation are those of its training images, margins included, unless
        `normalise` says otherwise.

        Raises:
            ConfigError: If images have a side that `pool` does not divide, are smaller than `cut` and its margin, have
                no three channels for ImageNet's values, or are not in memory where more than `ANYWHERE` is wanted.
        """
        if not self:
            return data
        if self.fraction < 1 or self.validation:
            kept, held = self._rows(data.train.labels.cpu())
            test = _taken(data.train, held) if self.validation else data.test
            data = replace(data, train=_taken(data.train, kept), test=test)
        if self.label_noise:
            data = replace(data, train=_labelled(data.train, self.noisy(data.train.labels.cpu(), data.classes)))
        changed = [entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default]
        if set(changed) - {*ANYWHERE, "seed"}:
            train, test = self._changed(self._part(data.train), self._part(data.test), data.name)
            data = replace(data, train=train, test=test)
        if self.cut is not None:
            data = self._cut(data, self.cut)
        if isinstance(data.train, InMemory) and isinstance(data.test, InMemory):
            train, test = (_arrays((split.images.cpu(), split.labels.cpu())) for split in (data.train, data.test))
            built = build(data.name, train, test, data.classes, data.class_names, data.train.scale)
            data = replace(built, cut=data.cut)
        if self.normalise == "imagenet":
            if data.channels != 3:
                raise ConfigError(f"prepare.normalise='imagenet': {data.name} has {data.channels} channels, need 3.")
            train, test = (_with_statistics(split, *IMAGENET) for split in (data.train, data.test))
            data = replace(data, train=train, test=test)
        return replace(data, name=f"{data.name}, prepared")

    def _changed(self, train: InMemory, test: InMemory, name: str) -> tuple[InMemory, InMemory]:
        """What is done to pixels, all but squares; statistics are yet those of before."""
        learnt, measured = (self._pooled(split.images.cpu(), name) for split in (train, test))
        learnt, labels = (part.repeat_interleave(self.copies, 0) for part in (learnt, train.labels.cpu()))
        generator = torch.Generator().manual_seed(self.seed)
        if self.shift:
            learnt, measured = _shifted(learnt, generator), _shifted(measured, generator)
        if self.shuffle:
            order = self.pixel_order(*learnt.shape[-2:])
            learnt, measured = (part.flatten(2)[..., order].view_as(part) for part in (learnt, measured))
        return replace(train, images=learnt, labels=labels), replace(test, images=measured)

    def _cut(self, data: Data, cut: int) -> Data:
        """Squares from the middle; those of the training images with their margin."""
        wanted = cut if self.margin is None else cut + 2 * self.margin
        for split, side in ((data.train, wanted), (data.test, cut)):
            if side > min(split.shape[1:]):
                raise ConfigError(
                    f"prepare.cut={cut} with margin={self.margin}: {data.name} has {split.shape[1]}×{split.shape[2]} "
                    f"pixels, need {side} or more."
                )
        test = _middle(data.test, cut)
        if self.margin is not None:
            return replace(data, train=_middle(data.train, wanted), test=test, cut=cut if self.margin else None)
        if isinstance(data.train, Lazy):
            return replace(data, train=replace(data.train, cut=cut, roam=True), test=test)
        return replace(data, test=test, cut=cut)

    def pixel_order(self, height: int, width: int) -> Tensor:
        """Which pixel stands where once pixels are shuffled: `(height·width)`, numbers of the pixels before."""
        return torch.randperm(height * width, generator=torch.Generator().manual_seed(self.seed))

    def noisy(self, labels: Int[Tensor, " images"], classes: int) -> Int[Tensor, " images"]:
        """Labels of which `round(label_noise · images)` are replaced by a class drawn from all; the others stay."""
        generator = torch.Generator().manual_seed(self.seed)
        # All are drawn, whatever the share is: so a higher one replaces the same, and more.
        rows = torch.randperm(len(labels), generator=generator)
        drawn = torch.randint(classes, (len(labels),), generator=generator)
        rows = rows[: round(self.label_noise * len(labels))]
        return labels.index_copy(0, rows, drawn[rows])

    def _part(self, split: Split) -> InMemory:
        if not isinstance(split, InMemory):
            raise ConfigError(
                "prepare: images of this set are read from disk in each step, need a set in memory for more than "
                f"{', '.join(ANYWHERE)}."
            )
        return split

    def _rows(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which training images are kept and which are held out, of every class by its own count."""
        kept, held = [], []
        for label in labels.unique():
            rows = (labels == label).nonzero()[:, 0]
            rows = rows[: max(1, int(len(rows) * self.fraction + 1e-9))]
            cut = len(rows) - round(len(rows) * self.validation)
            kept.append(rows[:cut])
            held.append(rows[cut:])
        kept, held = torch.cat(kept).sort().values, torch.cat(held).sort().values
        if not len(kept) or (self.validation and not len(held)):
            raise ConfigError(f"prepare.validation={self.validation}: leaves {len(kept)} and {len(held)} images.")
        return kept, held

    def _pooled(self, images: Tensor, name: str) -> Tensor:
        if self.pool == 1:
            return images
        height, width = images.shape[-2:]
        if height % self.pool or width % self.pool:
            raise ConfigError(f"prepare.pool={self.pool}: {name} has {height}×{width} pixels, not a multiple.")
        means = torch.nn.functional.avg_pool2d(images.float(), self.pool)
        return means.round().to(images.dtype) if images.dtype == torch.uint8 else means


def _taken(split: Split, rows: Tensor) -> Split:
    if isinstance(split, InMemory):
        return replace(split, images=split.images.cpu()[rows], labels=split.labels.cpu()[rows])
    assert isinstance(split, Lazy)
    return replace(split, stored=split.stored.taken(rows.numpy()), labels=split.labels.cpu()[rows])


def _labelled(split: Split, labels: Tensor) -> Split:
    assert isinstance(split, InMemory | Lazy)
    return replace(split, labels=labels)


def _middle(split: Split, side: int) -> Split:
    if isinstance(split, Lazy):
        return replace(split, cut=side)
    assert isinstance(split, InMemory)
    top, left = ((have - side) // 2 for have in split.shape[1:])
    return replace(split, images=split.images[..., top : top + side, left : left + side])


def _with_statistics(split: Split, mean: tuple[float, ...], std: tuple[float, ...]) -> Split:
    assert isinstance(split, InMemory | Lazy)
    return replace(split, mean=mean, std=std)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved around by rows and columns of its own, in one gather."""
    count, _, height, width = images.shape
    down = torch.randint(height, (count, 1), generator=generator)
    right = torch.randint(width, (count, 1), generator=generator)
    rows = (torch.arange(height) - down) % height
    columns = (torch.arange(width) - right) % width
    return images[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _arrays(part: tuple[Tensor, Tensor]) -> Part:
    return np.ascontiguousarray(part[0].numpy()), part[1].numpy()
