"""From arrays to `Data`: the statistics of the training part, and the checks that every source shares."""

from collections.abc import Iterator

from jaxtyping import Int64
import numpy as np
import torch
from torch import Tensor

from weightshare.errors import FileError
from weightshare.training.data.split import Data, InMemory

Part = tuple[np.ndarray, np.ndarray]
"""Images `(n, in, h, w)`, bytes or float32 in [0, 1], and labels `(n)`."""

CHUNK = 4096
"""Images whose float64 copy is made at a time."""


def build(
    name: str, train: Part, test: Part, classes: int, class_names: tuple[str, ...] = (), scale: float | None = None
) -> Data:
    """Make the data set of two parts in memory, on the CPU.

    Args:
        name: As in the configuration; messages start with it.
        train: What the mean and the standard deviation are of.
        test: What networks are measured on.
        classes: Number of classes; every label must be below it.
        class_names: One for each class, or none.
        scale: What stands for 1; `None` is 255 for bytes and 1 for floats.

    Raises:
        FileError: If a part is empty, or a label is no class.

    Example:
        >>> part = np.full((3, 1, 2, 2), 51, np.uint8), np.array([0, 1, 1])
        >>> data = build("made up", part, part, classes=2)
        >>> data.train.mean, data.train.std, data.example.shape
        ((0.2,), (1.0,), torch.Size([1, 1, 2, 2]))
    """
    for part, (images, labels) in (("training", train), ("test", test)):
        if len(images) == 0:
            raise FileError(f"{name}: there are no {part} images, need at least one.")
        if len(images) != len(labels):
            raise FileError(f"{name}: {len(images)} {part} images have {len(labels)} labels, need one each.")
        if labels.min() < 0 or labels.max() >= classes:
            got = f"{labels.min()} to {labels.max()}"
            raise FileError(f"{name}: labels of the {part} part go from {got}, need 0 to {classes - 1}.")
    if scale is None:
        scale = 255.0 if train[0].dtype == np.uint8 else 1.0
    highest = max(int(train[0].max()), int(test[0].max())) if train[0].dtype == np.uint8 else 0
    if highest > scale:
        raise FileError(f"{name}: bytes go up to {highest}, which the scale {scale} would put above 1: need {highest}.")
    if not class_names and classes > len(train[0]) + len(test[0]):
        raise FileError(
            f"{name}: labels go up to {classes - 1}, which is more than there are images. Number the classes from 0."
        )
    mean, std = statistics(train[0], scale)

    def split(part: Part) -> InMemory:
        return InMemory(_tensor(part[0]), _tensor(part[1].astype(np.int64)), scale, mean, std)

    return Data(name, split(train), split(test), classes, class_names)


def statistics(images: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (of a sample: divided by n - 1) of each channel, of images divided by `scale`.

    A channel that never varies gets the deviation 1, as it must not be divided by 0.
    """
    sums = _byte_sums if images.dtype == np.uint8 else _float_sums
    means, stds = [], []
    for channel in range(images.shape[1]):
        values = images[:, channel]
        first, total, squares = sums(values)
        count = values.size
        means.append((first + total / count) / scale)
        variance = max(0, squares * count - total**2) / (count * max(1, count - 1))
        stds.append(variance**0.5 / scale or 1.0)
    return tuple(means), tuple(stds)


def _byte_sums(values: np.ndarray) -> tuple[int, int, int]:
    """0, the sum, and the sum of squares: whole numbers, so that nothing is rounded."""
    counts = sum((_counts(_tensor(chunk)) for chunk in _chunks(values)), torch.zeros(256, dtype=torch.int64))
    table = list(enumerate(counts.tolist()))
    return 0, sum(value * count for value, count in table), sum(value**2 * count for value, count in table)


def _float_sums(values: np.ndarray) -> tuple[float, float, float]:
    """The first value, and the sums of what the others are above it, and of its square."""
    first = float(values.flat[0])
    total = squares = 0.0
    for chunk in _chunks(values):
        above = chunk.astype(np.float64) - first
        total, squares = total + float(above.sum()), squares + float((above**2).sum())
    return first, total, squares


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def _counts(values: Tensor) -> Int64[Tensor, " 256"]:
    return torch.bincount(values.flatten(), minlength=256)


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of its own memory where the array's cannot be written, which torch would warn of."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
