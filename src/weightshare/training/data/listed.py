"""From images that lie on disk, each with its label, to `Data`: decoded at once where they fit, else batch by batch."""

from dataclasses import dataclass, replace
from typing import final

from jaxtyping import Int
import numpy as np
import torch

from weightshare.errors import FileError
from weightshare.training.data.build import Part, build, statistics
from weightshare.training.data.decoding import check_all, decode_all, form_of
from weightshare.training.data.lazy import Lazy
from weightshare.training.data.split import Data
from weightshare.training.data.stored import Joined, Stored

IN_MEMORY = 4 * 2**30
"""Bytes up to which a set is decoded into memory: 4 GiB is 349,525 images of 64×64 in colour."""

SAMPLE = 2000
"""Images of the training part that give the mean and the standard deviation where they are not all in memory."""


@final
@dataclass(frozen=True, eq=False)
class Listed:
    """Images of one part on disk, and their labels."""

    stored: Stored
    labels: Int[np.ndarray, " images"]


def from_disk(name: str, train: Listed, test: Listed, class_names: tuple[str, ...], size: int | None = None) -> Data:
    """Make the data set of two parts on disk.

    Images are grey if all are, else RGB. They are decoded into memory if their bytes then are no more than `IN_MEMORY`,
    else batch by batch (`Lazy`), with the statistics of `SAMPLE` images at equal distances in the list.

    Args:
        name: As in the configuration; messages start with it.
        train: What the network learns from.
        test: What it is measured on. It need not have every class; see `without`.
        class_names: One for each class; every label must be below their number.
        size: Side of the square that images are brought to: the shorter side is scaled, the middle cut out. `None`
            where they have one size.

    Raises:
        ConfigError: If sizes differ and none is given.
        FileError: If a part is empty, or an image cannot be read; all are then read, to say how many cannot.
    """
    for part, listed in (("training", train), ("test", test)):
        if not len(listed.stored):
            raise FileError(f"{name}: there are no {part} images, need at least one.")
    both = Joined(train.stored, test.stored)
    shape = form_of(both, size)
    if len(both) * shape[0] * shape[1] * shape[2] <= IN_MEMORY:
        images = decode_all(both, shape)
        parts = (images[: len(train.stored)], train.labels), (images[len(train.stored) :], test.labels)
        return build(name, *parts, len(class_names), class_names)
    rows = np.unique(np.linspace(0, len(train.stored) - 1, SAMPLE).round().astype(int))
    try:
        mean, std = statistics(decode_all(train.stored.taken(rows), shape), 255.0)
    except FileError:
        check_all(both)  # of all there are, not of the sample
        raise

    def split(part: Listed) -> Lazy:
        return Lazy(part.stored, torch.from_numpy(part.labels), mean, std, shape)

    return Data(name, split(train), split(test), len(class_names), class_names)


def decoded(data: Data) -> Data:
    """The same set with all images in memory, whatever its size, and the statistics of all of them."""
    if not isinstance(data.train, Lazy) or not isinstance(data.test, Lazy):
        return data
    images = decode_all(Joined(data.train.stored, data.test.stored), data.train.form)
    count = len(data.train)

    def part(split: Lazy, rows: slice) -> Part:
        return images[rows], split.labels.cpu().numpy()

    parts = part(data.train, slice(count)), part(data.test, slice(count, None))
    return replace(build(data.name, *parts, data.classes, data.class_names), cut=data.cut)


def check(data: Data) -> None:
    """Decode every image that has not been decoded yet, and keep none.

    Raises:
        FileError: If some cannot be read: how many of how many, and the first of them.
    """
    if isinstance(data.train, Lazy) and isinstance(data.test, Lazy):
        check_all(Joined(data.train.stored, data.test.stored))


def without(data: Data) -> tuple[str, ...]:
    """Classes of which the test part has no image: their accuracy is measured on nothing."""
    there = set(data.test.labels.cpu().tolist())
    names = data.class_names or tuple(map(str, range(data.classes)))
    return tuple(name for label, name in enumerate(names) if label not in there)
