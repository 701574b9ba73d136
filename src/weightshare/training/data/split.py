"""One part of a data set, and a set of two parts: what every source of images is turned into.

Images stay as they are stored, one byte a value, until a batch is asked for: a set takes a quarter of the memory that
it would take as floats.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import final

from jaxtyping import Float, Int
import torch
from torch import Tensor

Batch = tuple[Float[Tensor, "batch in h w"], Int[Tensor, " batch"]]


class Split(ABC):
    """One part of a data set.

    Attributes:
        labels: Classes from 0, int64, on the device of the split.
        scale: What a stored value is divided by to lie in [0, 1]: 255 for bytes, 1 for floats.
        mean: Of each channel over the training part, in [0, 1].
        std: Likewise; 1 for a channel that never varies.
    """

    labels: Int[Tensor, " images"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Of one image: `(in, h, w)`."""

    @abstractmethod
    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        """Give one batch for each tensor of row numbers, in their order.

        Args:
            rows: Row numbers from 0, int64, on the CPU.

        Yields:
            Images as float32 in [0, 1], not normalised, because augmentation comes between; and labels. Both on the
            device of the split. The same rows give the same batches, and no random number is drawn.

        Raises:
            FileError: If an image that is read only now cannot be.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> "Split":
        """The same split, giving its batches on a device."""

    @property
    def device(self) -> torch.device:
        """Where batches come out."""
        return self.labels.device

    def normalised(self, images: Float[Tensor, "*batch in h w"]) -> Float[Tensor, "*batch in h w"]:
        """Images in [0, 1], less the mean and divided by the standard deviation of their channel."""
        mean, std = (images.new_tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return (images - mean).div_(std)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> Batch:
        """A few images as the network sees them, normalised, and their labels."""
        images, labels = next(iter(self.batches([torch.arange(len(self))[rows]])))
        return self.normalised(images), labels


@final
@dataclass(frozen=True, eq=False)
class InMemory(Split):
    """A split whose images are all stored in one tensor, on the device.

    Args:
        images: As stored: bytes, or float32.
        labels: See `Split`, as for the rest.

    Example:
        >>> images = torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2)
        >>> split = InMemory(images, torch.tensor([0, 1, 0]), scale=255.0, mean=(0.0,), std=(0.5,))
        >>> [(batch.shape[0], labels.tolist()) for batch, labels in split.batches([torch.tensor([2, 1])])]
        [(2, [0, 1])]
        >>> split[:2][0].shape
        torch.Size([2, 1, 2, 2])
    """

    images: Tensor
    labels: Int[Tensor, " images"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        for batch in rows:
            here = batch.to(self.device, non_blocking=True)
            yield self.images[here].float().div_(self.scale), self.labels[here]  # of a copy, made by the index

    def to(self, device: torch.device | str) -> "InMemory":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@final
@dataclass(frozen=True, eq=False)
class Data:
    """A data set with its split.

    Args:
        name: As in the configuration.
        train: What the network learns from.
        test: What it is measured on.
        classes: Number of classes.
        class_names: One for each class, or none.
        cut: Side of the square that training cuts at random out of each training image; nothing where they are whole.
    """

    name: str
    train: Split
    test: Split
    classes: int
    class_names: tuple[str, ...] = ()
    cut: int | None = None

    @property
    def channels(self) -> int:
        return self.train.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what a network sees in training."""
        return self.train.shape[1:] if self.cut is None else (self.cut, self.cut)

    @property
    def example(self) -> Float[Tensor, "one in h w"]:
        """One normalised test image, to count MACs with."""
        return self.test[:1][0]

    def to(self, device: torch.device | str) -> "Data":
        """The same data, giving its batches on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))
