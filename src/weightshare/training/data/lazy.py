"""A split whose images stay on disk until a batch needs them: for folders that do not fit into memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
import os
from pathlib import Path
from typing import final

from jaxtyping import Int
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from weightshare.errors import FileError
from weightshare.training.data.pictures import decode
from weightshare.training.data.split import Batch, Split


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


@final
@dataclass(frozen=True, eq=False)
class Lazy(Split):
    """A split that decodes files when a batch asks for them, in processes beside the training.

    Args:
        root: The folder that the names of the files start from.
        files: Their names, encoded as the file system has them (`os.fsencode`): one array, because a million Python
            strings would be copied into every worker.
        labels: See `Split`, as for the rest.
        mean: See `Split`.
        std: See `Split`.
        form: The shape that every image is brought to: `(in, h, w)`, `in` 1 or 3.
        workers: Processes that decode; 0 decodes in the one that trains.
    """

    root: Path
    files: np.ndarray
    labels: Int[Tensor, " images"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    form: tuple[int, int, int]
    workers: int = field(default_factory=_workers)
    scale: float = 255.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.form

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        order = list(rows)
        loader = DataLoader(
            _Files(self.root, self.files, self.form),
            batch_sampler=[batch.tolist() for batch in order],  # type: ignore[arg-type]
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

    def to(self, device: torch.device | str) -> "Lazy":
        return replace(self, labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class _Files(Dataset):
    """What a worker holds; see `Lazy`."""

    root: Path
    files: np.ndarray
    form: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> np.ndarray | FileError:
        channels, height, width = self.form
        try:
            return decode(self.root / os.fsdecode(self.files[row]), channels, (height, width))
        except FileError as error:  # as a value: what is raised in a worker arrives wrapped in its traceback
            return error


def _stacked(images: list[np.ndarray | FileError]) -> Tensor | FileError:
    arrays = []
    for image in images:
        if isinstance(image, FileError):
            return image
        arrays.append(torch.from_numpy(image))
    return torch.stack(arrays) if arrays else torch.empty(0, dtype=torch.uint8)
