"""WebDataset shards: `train-*.tar` and `val-*.tar` in one folder, or `*.tar` in the folders `train` and `val`.

What a shard holds, and how it is read: `shard_index`. The classes have numbers; a file `classes.txt` beside the shards
may name them, one in each line.
"""

from pathlib import Path
import re

import numpy as np

from weightshare.errors import ConfigError, FileError
from weightshare.files.opening import read_text
from weightshare.training.data.listed import Listed, from_disk
from weightshare.training.data.naming import FIRST, named
from weightshare.training.data.shard_index import index
from weightshare.training.data.split import Data

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
"""Words of a shard's name, or the name of its folder, by its part."""

NAMES = "classes.txt"

MOST = 2**20
"""Classes without a name that a set may have: ImageNet-21k has 21,841."""


def has_shards(root: Path) -> bool:
    """Whether a folder is one of shards: archives lie where they may, and no folders of classes beside them."""
    if any(_tars(root / part) for words in PARTS.values() for part in words):
        return True
    return not (root / "train").is_dir() and bool(_tars(root))


def shard_folder(root: Path, size: int | None = None) -> Data:
    """Read a folder of shards.

    Args:
        root: The folder; the name of the set is this path.
        size: Side of the square that images are brought to; see `listed.from_disk`.

    Raises:
        ConfigError: If a part has no shards, a shard is of no part, or sizes of images differ and none is given.
        FileError: If a shard is damaged, its samples are not whole, labels are out of range, training images of a class
            are missing, or images cannot be read: how many, and the first of them.
    """
    shards = _by_part(root)
    train, test = (index(shards[part], root / f".weightshare-{part}.npz") for part in PARTS)
    for part, listed in zip(PARTS, (train, test), strict=True):
        if not len(listed.labels):
            raise FileError(f"'{root}': the shards of {part} have no images, need at least one.")
    names = _class_names(root, int(train.labels.max()) + 1)
    for part, listed in zip(PARTS, (train, test), strict=True):
        _check_range(root, part, listed, len(names))
    _check_whole(root, train.labels, len(names))
    return from_disk(str(root), train, test, names, size)


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))


def _by_part(root: Path) -> dict[str, list[Path]]:
    """The shards of each part; every archive in the folder is of one."""
    found = {part: [path for word in words for path in _tars(root / word)] for part, words in PARTS.items()}
    other = []
    for path in _tars(root):
        told = set(re.split(r"[-_.]", path.stem.lower()))
        parts = [part for part, words in PARTS.items() if told & set(words)]
        (found[parts[0]] if len(parts) == 1 else other).append(path)
    if other:
        raise ConfigError(
            f"{len(other):,} archives in '{root}' are of no part: {named(path.name for path in other)}. Need train or "
            "val in the name, as in train-0000.tar, or remove them."
        )
    for part, paths in found.items():
        if not paths:
            raise ConfigError(f"'{root}' has no shards of {part}: need {part}-*.tar, or {part}/*.tar, uncompressed.")
    return found


def _class_names(root: Path, count: int) -> tuple[str, ...]:
    """As the list names them, or their numbers."""
    if not (root / NAMES).exists():
        if count > MOST:
            raise FileError(f"'{root}': training labels go up to {count - 1:,}, need numbers from 0 without a hole.")
        return tuple(map(str, range(count)))
    names = tuple(read_text(root / NAMES).splitlines())
    if not names or not all(names) or len(set(names)) < len(names):
        raise FileError(f"'{root / NAMES}' is damaged: need one class in each line, none twice.")
    return names


def _check_range(root: Path, part: str, listed: Listed, classes: int) -> None:
    wrong = (listed.labels >= classes).nonzero()[0]
    if len(wrong):
        told = named((f"'{listed.stored[row]}' has {listed.labels[row]}" for row in wrong[:FIRST]), len(wrong))
        source = NAMES if (root / NAMES).exists() else "train"
        raise FileError(
            f"'{root}': {len(wrong):,} of {len(listed.labels):,} labels of {part} are out of range: {told}. Need 0 to "
            f"{classes - 1}, as {source} has them."
        )


def _check_whole(root: Path, labels: np.ndarray, classes: int) -> None:
    if missing := sorted(set(range(classes)) - set(np.unique(labels).tolist())):
        raise FileError(
            f"'{root}': {len(missing):,} of {classes:,} classes have no training images: {named(missing)}. Number the "
            "classes from 0, without a hole, or add the missing shards."
        )
