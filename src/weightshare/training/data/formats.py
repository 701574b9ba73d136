"""The official formats: from the bytes of files to images and labels."""

from collections.abc import Sequence
import math

import numpy as np

from weightshare.errors import FileError
from weightshare.training.data.build import Part
from weightshare.training.data.official import Format
from weightshare.training.data.pickled import pickled_batch

SIDE = 32
PIXELS = 3 * SIDE * SIDE
UNSIGNED_BYTES = 8
"""The type that an idx file notes in its third byte."""


def read_part(format: Format, files: Sequence[tuple[str, bytes]]) -> Part:
    """Images and labels of one part of a set.

    Args:
        format: How the files are written.
        files: Name and content of each, in order.

    Returns:
        Images as bytes `(n, in, h, w)` and labels `(n)`.

    Raises:
        FileError: If a file does not have its format, or images and labels are not as many.
    """
    if format == "idx":
        (images_name, images), (labels_name, labels) = files
        return idx(images, 3, images_name)[:, None], idx(labels, 1, labels_name)
    read = {
        "cifar10-binary": lambda content, name: records(content, 1, name),
        "cifar100-binary": lambda content, name: records(content, 2, name),
        "cifar10-python": lambda content, name: pickled_batch(content, "labels", PIXELS, name),
        "cifar100-python": lambda content, name: pickled_batch(content, "fine_labels", PIXELS, name),
    }[format]
    images, labels = zip(*(read(content, name) for name, content in files), strict=True)
    return np.concatenate(images).reshape(-1, 3, SIDE, SIDE), np.concatenate(labels)


def idx(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """The array of bytes in an idx file: 0, 0, type, number of dimensions, each dimension in four bytes, the values.

    Example:
        >>> idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), 1, "two labels")
        array([7, 9], dtype=uint8)
    """
    head = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]) or len(content) < head:
        needed = f"0, 0, {UNSIGNED_BYTES}, {dimensions}"
        raise FileError(
            f"'{name}' is no idx file of {dimensions} dimensions: starts {list(content[:4])}, need {needed}."
        )
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).tolist()
    if len(content) - head != math.prod(shape):
        raise FileError(f"'{name}' has {len(content) - head:,} values, need {math.prod(shape):,} for {shape}.")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def records(content: bytes, labels: int, name: str) -> Part:
    """Flat images and labels of a binary batch of CIFAR: records of labels and pixels, the last label the finest."""
    length = labels + PIXELS
    if not content or len(content) % length:
        raise FileError(f"'{name}' has {len(content):,} bytes, need a multiple of {length:,}, one or more.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, length)
    return rows[:, labels:], rows[:, labels - 1]
