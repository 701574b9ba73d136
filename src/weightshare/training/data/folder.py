"""Folders of images: `train/<class>/...` and `test/<class>/...`, or `val` in place of `test`.

TinyImageNet as it is published has the images of `val` in one folder, and a list of their classes; that is read, too.
"""

from collections.abc import Sequence
import os
from pathlib import Path

import numpy as np

from weightshare.errors import ConfigError, FileError
from weightshare.files.opening import read_text
from weightshare.training.data.listed import Listed, from_disk
from weightshare.training.data.naming import named
from weightshare.training.data.split import Data
from weightshare.training.data.stored import Files

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
"""Of files that are images, in capitals or not; other files are none."""

ANNOTATIONS = "val_annotations.txt"
"""In `val`: name of a file in `val/images`, class and four numbers in each line, with tabs between them."""


def image_folder(root: Path, size: int | None = None) -> Data:
    """Read a folder of images.

    A class is a folder in `train`, with its name; classes are numbered in the order of their names. Images may lie in
    folders below. What is done with them then: `listed.from_disk`.

    Where `val` has the list `ANNOTATIONS`, its images are the test part, whether or not there is a folder `test`:
    TinyImageNet's has no labels.

    Args:
        root: The folder; the name of the set is this path.
        size: Side of the square that images are brought to; see `listed.from_disk`.

    Raises:
        ConfigError: If a folder is missing, classes are empty, the test part has others than the training part, or
            sizes differ and none is given.
        FileError: If images cannot be read, or the list of classes.
    """
    train_folder = root / "train"
    annotated = (root / "val" / ANNOTATIONS).is_file()
    test_folder = root / "test" if (root / "test").is_dir() and not annotated else root / "val"
    for folder, name in ((train_folder, "train"), (test_folder, "test or val")):
        if not folder.is_dir():
            raise ConfigError(f"data='{root}': need the folder {name} in it, with one folder for each class.")
    classes = _classes(train_folder)
    annotations = read_annotations(test_folder / ANNOTATIONS) if annotated else {}
    tested = sorted(set(annotations.values())) if annotated else _classes(test_folder)
    if extra := sorted(set(tested) - set(classes)):
        raise ConfigError(
            f"{len(extra):,} of {len(tested):,} classes of '{test_folder}' are not in '{train_folder}': "
            f"{named(extra)}. Add them there, or remove them here."
        )
    train = _listed(train_folder, classes, classes, root)
    if annotated:
        names = [os.path.join("val", "images", file) for file in annotations]
        labels = np.array([classes.index(name) for name in annotations.values()], dtype=np.int64)
        test = Listed(Files.of(root, names), labels)
    else:
        test = _listed(test_folder, tested, classes, root)
    return from_disk(str(root), train, test, classes, size)


def read_annotations(path: Path) -> dict[str, str]:
    """The class of each file that a list names, in the order of the list.

    Raises:
        FileError: If it cannot be read, or is no such list.
    """
    return parse_annotations(read_text(path), str(path))


def parse_annotations(text: str, where: str) -> dict[str, str]:
    """What `read_annotations` does with a text that is named so."""
    rows = [line.split("\t") for line in text.splitlines() if line]
    if not rows or not all(len(row) >= 2 and row[0] and row[1] for row in rows):
        raise FileError(f"'{where}' is damaged: need a file, a tab and a class in each line.")
    return {row[0]: row[1] for row in rows}


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not classes:
        raise ConfigError(f"'{folder}' has no folders in it, need one for each class.")
    return classes


def _listed(folder: Path, there: Sequence[str], classes: Sequence[str], root: Path) -> Listed:
    """The images of the classes that are there; their labels are places among all classes."""
    found = {name: _images(folder / name, root) for name in there}
    if empty := [name for name, images in found.items() if not images]:
        raise ConfigError(
            f"{len(empty):,} of {len(there):,} classes of '{folder}' have no images: {named(empty)}. "
            f"Need files that end in {', '.join(ENDINGS)}."
        )
    number = {name: label for label, name in enumerate(classes)}
    labels = np.repeat([number[name] for name in found], [len(images) for images in found.values()])
    return Listed(Files.of(root, [image for images in found.values() for image in images]), labels.astype(np.int64))


def _images(folder: Path, root: Path) -> list[str]:
    """The files that are images, in folders below too, as paths from the folder of the set."""
    return sorted(
        os.path.relpath(os.path.join(where, file), root)
        for where, _, files in os.walk(folder)
        for file in files
        if file.lower().endswith(ENDINGS) and not file.startswith(".") and os.path.isfile(os.path.join(where, file))
    )
