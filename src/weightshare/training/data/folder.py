"""Folders of images: `train/<class>/...` and `test/<class>/...`, or `val` in place of `test`.

TinyImageNet as it is published has the images of `val` in one folder, and a list of their classes; that is read, too.
"""

from collections.abc import Sequence
import os
from pathlib import Path

import numpy as np
import torch

from weightshare.errors import ConfigError, FileError
from weightshare.files.opening import read_text
from weightshare.training.data.build import build, statistics
from weightshare.training.data.lazy import Lazy
from weightshare.training.data.pictures import decode_all, form_of
from weightshare.training.data.split import Data

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
"""Of files that are images, in capitals or not; other files are none."""

IN_MEMORY = 4 * 2**30
"""Bytes up to which a folder is decoded into memory: 4 GiB is 349,525 images of 64×64 in colour."""

SAMPLE = 2000
"""Images of the training part that give the mean and the standard deviation where they are not all in memory."""

ANNOTATIONS = "val_annotations.txt"
"""In `val`: name of a file in `val/images`, class and four numbers in each line, with tabs between them."""

Listing = tuple[list[str], np.ndarray]
"""Names of files from the folder, and their labels."""


def image_folder(root: Path, size: int | None = None, in_memory: bool | None = None) -> Data:
    """Read a folder of images.

    A class is a folder in `train`, with its name; classes are numbered in the order of their names. Images may lie in
    folders below. They are grey if all are, else RGB. They are decoded into memory if their bytes then are no more than
    `IN_MEMORY`, else batch by batch (`Lazy`), with the statistics of `SAMPLE` images at equal distances in the list.

    Where `val` has the list `ANNOTATIONS`, its images are the test part, whether or not there is a folder `test`:
    TinyImageNet's has no labels.

    Args:
        root: The folder; the name of the set is this path.
        size: Side of the square that images are brought to: the shorter side is scaled, the middle cut out. `None`
            where they have one size.
        in_memory: Whether to decode now; `None` decides by size.

    Raises:
        ConfigError: If a folder is missing or empty, classes of the parts differ, or sizes differ and none is given.
        FileError: If an image cannot be read, or the list of classes.
    """
    train_folder = root / "train"
    annotated = (root / "val" / ANNOTATIONS).is_file()
    test_folder = root / "test" if (root / "test").is_dir() and not annotated else root / "val"
    for folder, name in ((train_folder, "train"), (test_folder, "test or val")):
        if not folder.is_dir():
            raise ConfigError(f"data='{root}': need the folder {name} in it, with one folder for each class.")
    classes = _classes(train_folder)
    named = _annotated(test_folder / ANNOTATIONS) if annotated else {}
    if extra := sorted(set(named.values() if annotated else _classes(test_folder)) - set(classes)):
        raise ConfigError(f"'{test_folder}' has classes that '{train_folder}' does not have: {', '.join(extra)}.")
    train = _listed(train_folder, classes, root)
    if annotated:
        test = list(named), np.array([classes.index(name) for name in named.values()], dtype=np.int64)
    else:
        test = _listed(test_folder, classes, root)
    files = [root / name for name in train[0] + test[0]]
    shape = form_of(files, size)
    if in_memory is None:
        in_memory = len(files) * shape[0] * shape[1] * shape[2] <= IN_MEMORY
    if not in_memory:
        return _lazy(root, train, test, shape, classes)
    images = decode_all(files, shape=shape)
    parts = (images[: len(train[0])], train[1]), (images[len(train[0]) :], test[1])
    return build(str(root), *parts, len(classes), classes)


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not classes:
        raise ConfigError(f"'{folder}' has no folders in it, need one for each class.")
    return classes


def _annotated(path: Path) -> dict[str, str]:
    """The class of each file that a list names, by the file's name from the folder of the set."""
    rows = [line.split("\t") for line in read_text(path).splitlines() if line]
    if not rows or not all(len(row) >= 2 and row[0] and row[1] for row in rows):
        raise FileError(f"'{path}' is damaged: need a file, a tab and a class in each line.")
    return {os.path.join("val", "images", row[0]): row[1] for row in rows}


def _listed(folder: Path, classes: Sequence[str], root: Path) -> Listing:
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue  # the test part need not have every class
        found = sorted(
            os.path.relpath(os.path.join(where, file), root)
            for where, _, files in os.walk(folder / name)
            for file in files
            if file.lower().endswith(ENDINGS) and not file.startswith(".") and os.path.isfile(os.path.join(where, file))
        )
        if not found:
            raise ConfigError(f"'{folder / name}' has no images, need files that end in {', '.join(ENDINGS)}.")
        names += found
        labels += [label] * len(found)
    return names, np.array(labels, dtype=np.int64)


def _lazy(root: Path, train: Listing, test: Listing, shape: tuple[int, int, int], classes: tuple[str, ...]) -> Data:
    rows = np.unique(np.linspace(0, len(train[0]) - 1, SAMPLE).round().astype(int))
    sample = decode_all([root / train[0][row] for row in rows], shape=shape)
    mean, std = statistics(sample, 255.0)

    def split(listing: Listing) -> Lazy:
        files = np.array([os.fsencode(name) for name in listing[0]])
        return Lazy(root, files, torch.from_numpy(listing[1]), mean, std, shape)

    return Data(str(root), split(train), split(test), len(classes), classes)
