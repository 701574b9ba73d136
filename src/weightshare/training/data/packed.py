"""Data sets in one `.npz`: images as an array, or as packed JPEG files.

| entry | what it holds |
|---|---|
| `images` | `(n, h, w)`, `(n, h, w, in)` or `(n, in, h, w)`: bytes, or floats in [0, 1] |
| `labels` | whole numbers from 0, `(n)` |
| `is_train` | truth values, `(n)`: which images are of the training part |
| `class_names` | texts, one for each class; may be missing |
| `layout` | `NHWC` or `NCHW`; needed only where the shape does not tell |
| `scale` | what bytes are divided by; 255 if missing |

or, in place of `images` and `labels`: `jpeg`, the bytes of all files one after the other; `offset`, `(n + 1)`, where
each starts and the last one ends; `label`, as `labels`; and `classes` may stand for `class_names`.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from weightshare.errors import ConfigError, FileError
from weightshare.training.data.archive import Entries, opened
from weightshare.training.data.build import CHUNK, build
from weightshare.training.data.decoding import decode_all, form_of
from weightshare.training.data.split import Data

CHANNELS = (1, 3)
"""Sizes by which the axis of channels is known."""


def packed(path: Path, size: int | None = None) -> Data:
    """Read a data set from an `.npz`; nothing in it is unpickled.

    Args:
        path: The file; the name of the set is this path.
        size: Side of the square that packed JPEG files are brought to; `None` where they have one size.

    Raises:
        ConfigError: If there is no such file; or `size` is another one than that of `images`, or is missing where JPEG
            files differ.
        FileError: If the file is damaged, or an entry is missing or wrong.
    """
    with opened(path) as entries:
        labels = _labels(entries)
        if len(labels) == 0:
            raise FileError(f"'{path}' has no images, need at least one of each part.")
        is_train = _is_train(entries, len(labels))
        names = _class_names(entries)
        if "jpeg" in entries and "images" not in entries:
            images, scale = _jpeg(entries, len(labels), size), None
        else:
            images, scale = _images(entries, len(labels)), _scale(entries)
            if size is not None and images.shape[2:] != (size, size):
                height, width = images.shape[2:]
                raise ConfigError(f"'{path}' holds images of {height}×{width}: size={size} is for files of images.")
    highest = int(labels.max())
    if names and highest >= len(names):
        raise FileError(f"'{path}': labels go up to {highest}, and there are {len(names)} class names.")
    train, test = ((_taken(images, rows), labels[rows]) for rows in (is_train.nonzero()[0], (~is_train).nonzero()[0]))
    return build(str(path), train, test, len(names) or highest + 1, names, scale if images.dtype == np.uint8 else None)


def _taken(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some images, one after the other in memory however they were stored; copied piece by piece, to need no more."""
    taken = np.empty((len(rows), *images.shape[1:]), images.dtype)
    for start in range(0, len(rows), CHUNK):
        taken[start : start + CHUNK] = images[rows[start : start + CHUNK]]
    return taken


def _labels(entries: Entries) -> np.ndarray:
    key = "label" if "jpeg" in entries and "labels" not in entries else "labels"
    labels = entries.need(key)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise entries.wrong(key, labels, "whole numbers (n)")
    if labels.min(initial=0) < 0:
        raise FileError(f"'{entries.path}': {key} go down to {labels.min()}, need 0 or more.")
    return labels.astype(np.int64)


def _is_train(entries: Entries, count: int) -> np.ndarray:
    is_train = entries.need("is_train")
    if is_train.shape != (count,) or is_train.dtype != np.bool_:
        raise entries.wrong("is_train", is_train, f"truth values ({count},), one for each label")
    return is_train


def _class_names(entries: Entries) -> tuple[str, ...]:
    for key in ("class_names", "classes"):
        if key in entries:
            names = entries.need(key)
            if names.ndim != 1 or (names.dtype.kind != "U" and len(names)):
                raise entries.wrong(key, names, "texts (classes)")
            return tuple(names.tolist())
    return ()


def _scale(entries: Entries) -> float | None:
    if "scale" not in entries:
        return None
    scale = entries.need("scale")
    if scale.shape != () or scale.dtype.kind not in "iuf" or not 0 < float(scale) < np.inf:
        raise entries.wrong("scale", scale, "one number above 0")
    return float(scale)


def _images(entries: Entries, count: int) -> np.ndarray:
    """Images as bytes or float32, channels first."""
    images = entries.need("images")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise entries.wrong("images", images, "uint8, or floats in [0, 1]")
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise entries.wrong("images", images, "(n, h, w), (n, h, w, in) or (n, in, h, w)")
    if len(images) != count:
        raise FileError(f"'{entries.path}': there are {len(images)} images and {count} labels, need one each.")
    if images.dtype != np.uint8:
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            if not (chunk.min() >= 0 and chunk.max() <= 1):  # not so for NaN either
                raise FileError(
                    f"'{entries.path}': images as floats go from {chunk.min()} to {chunk.max()}, need 0 to 1: they are "
                    "normalised when they are read. Divide them by their largest possible value, or store bytes."
                )
        images = images.astype(np.float32, copy=False)
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if _layout(entries, images) == "NHWC" else images


def _layout(entries: Entries, images: np.ndarray) -> str:
    if "layout" in entries:
        layout = str(entries.need("layout"))
        if layout not in ("NHWC", "NCHW"):
            raise FileError(f"'{entries.path}': layout is {layout!r}, need 'NHWC' or 'NCHW'.")
        return layout
    last, first = images.shape[3] in CHANNELS, images.shape[1] in CHANNELS
    if last == first:
        which = "both" if last else "neither"
        raise FileError(
            f"'{entries.path}': images are {images.shape}, and {which} of axes 1 and 3 can be the channels (1 or 3). "
            "Add the entry layout: 'NHWC' or 'NCHW'."
        )
    return "NHWC" if last else "NCHW"


def _jpeg(entries: Entries, count: int, size: int | None) -> np.ndarray:
    blob, offset = entries.need("jpeg"), entries.need("offset")
    if blob.ndim != 1 or blob.dtype != np.uint8:
        raise entries.wrong("jpeg", blob, "bytes (all files)")
    if offset.shape != (count + 1,) or offset.dtype.kind not in "iu":
        raise entries.wrong("offset", offset, f"whole numbers ({count + 1},), one more than labels")
    starts = offset.tolist()
    if starts[0] < 0 or starts[-1] > len(blob) or any(a > b for a, b in pairwise(starts)):
        raise FileError(f"'{entries.path}': offset must rise from 0 to at most {len(blob)}, the bytes of jpeg.")
    content = blob.tobytes()
    sources = [content[a:b] for a, b in pairwise(starts)]
    names = [f"{entries.path}: jpeg {row}" for row in range(count)]
    return decode_all(sources, form_of(sources, size, names), names)
