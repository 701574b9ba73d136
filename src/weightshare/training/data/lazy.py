"""A split whose images stay on disk until a batch needs them: for sets that do not fit into memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
import os
from typing import final
from zlib import crc32

from jaxtyping import Int
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from weightshare.errors import FileError
from weightshare.training.data.pictures import decode
from weightshare.training.data.split import Batch, Split
from weightshare.training.data.stored import Stored

Place = tuple[int, float, float]
"""A row, and where in the free room a cut is, down and to the right: 0 at one end, 1 at the other."""


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


@final
@dataclass(frozen=True, eq=False)
class Lazy(Split):
    """A split that decodes images when a batch asks for them, in processes beside the training.

    Args:
        stored: The images where they lie.
        labels: See `Split`, as for the rest.
        mean: See `Split`.
        std: See `Split`.
        form: The shape that every image is brought to: `(in, h, w)`, `in` 1 or 3.
        workers: Processes that decode; 0 decodes in the one that trains.
        cut: Side of the square that is cut out of each image once it has that form, or nothing.
        roam: Whether the square comes from anywhere in the whole picture, scaled as for the form, instead of from its
            middle. The place follows from the rows of a batch, so the same batch has the same squares, and another
            epoch, with other batches, others.
    """

    stored: Stored
    labels: Int[Tensor, " images"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    form: tuple[int, int, int]
    workers: int = field(default_factory=_workers)
    scale: float = 255.0
    cut: int | None = None
    roam: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.form if self.cut is None else (self.form[0], self.cut, self.cut)

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        order = list(rows)
        loader = DataLoader(
            _Pictures(self.stored, self.form, self.cut),
            batch_sampler=[self._places(batch) for batch in order],  # type: ignore[arg-type]
            num_workers=min(self.workers, len(order) - 1) if order else 0,  # none for a single batch
            collate_fn=_stacked,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # a loader draws a seed: not from the generator that training uses
        )
        for batch, images in zip(order, loader, strict=True):
            if isinstance(images, FileError):
                raise images
            images = images.view(-1, *self.shape).to(self.device, non_blocking=True)
            yield images.float() / self.scale, self.labels[batch.to(self.device, non_blocking=True)]

    def _places(self, rows: Tensor) -> list[Place]:
        """Which images a batch is of, and where in the picture each cut is."""
        places = torch.full((2, len(rows)), 0.5)
        if self.roam:
            generator = torch.Generator().manual_seed(crc32(rows.numpy().tobytes()))
            places = torch.rand(2, len(rows), generator=generator)
        return list(zip(rows.tolist(), *places.tolist(), strict=True))

    def to(self, device: torch.device | str) -> "Lazy":
        return replace(self, labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class _Pictures(Dataset):
    """What a worker holds; see `Lazy`."""

    stored: Stored
    form: tuple[int, int, int]
    cut: int | None

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, place: Place) -> np.ndarray | FileError:
        (row, down, right), (channels, height, width) = place, self.form
        source = self.stored.at(row)
        try:
            if self.cut is None:
                return decode(source, channels, (height, width))
            return decode(source, channels, (height, width), cut=(self.cut, down, right))
        except FileError as error:  # as a value: what is raised in a worker arrives wrapped in its traceback
            return error


def _stacked(images: list[np.ndarray | FileError]) -> Tensor | FileError:
    arrays = []
    for image in images:
        if isinstance(image, FileError):
            return image
        arrays.append(torch.from_numpy(image))
    return torch.stack(arrays) if arrays else torch.empty(0, dtype=torch.uint8)
