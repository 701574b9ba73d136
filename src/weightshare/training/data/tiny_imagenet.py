"""TinyImageNet: 100,000 training and 10,000 validation images of 64×64 in 200 classes, read from its zip or its folder.

It is published by Stanford's course CS231n. The MD5 of the zip is the one that its users pass around, such as loaders
built on torchvision's `ImageFolder`; the course publishes none. It finds damage; it would not stop somebody who forges
a zip on purpose, in which nothing is ever run. Nothing is unpacked: images are decoded from the zip into memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import hashlib
from pathlib import Path
import zipfile
import zlib

import numpy as np

from weightshare.errors import ConfigError, FileError
from weightshare.files.opening import opened
from weightshare.training.data.build import build
from weightshare.training.data.decoding import decode_all, form_of
from weightshare.training.data.download import download
from weightshare.training.data.folder import ANNOTATIONS, image_folder, parse_annotations
from weightshare.training.data.split import Data

FOLDER = "tiny-imagenet-200"
ARCHIVE = f"{FOLDER}.zip"
URL = f"http://cs231n.stanford.edu/{ARCHIVE}"
CHECKSUM = "90528d7ca1a48142e341f4ef8d21d0de"
"""MD5 of the zip, 248,100,043 bytes. Tests put that of a small made-up one here."""

CLASSES = 200
"""Tests put a small number here."""

LARGEST = 2**20
"""Bytes that one file in the zip may have."""


def tiny_imagenet(home: Path) -> Data:
    """TinyImageNet, measured on its validation part: the published test part has no labels.

    Args:
        home: The folder of data sets. In it, or in its folder `tiny-imagenet`, is looked for the unpacked folder, then
            for the zip, which is else downloaded.

    Raises:
        ConfigError: If it is not there and cannot be downloaded, or has other than 200 classes.
        FileError: If files of it are damaged.
    """
    folders = [home / "tiny-imagenet" / FOLDER, home / FOLDER]
    archives = [folder.with_name(ARCHIVE) for folder in folders]
    if folder := next((folder for folder in folders if folder.is_dir()), None):
        data = image_folder(folder)
        if data.classes != CLASSES:
            raise ConfigError(f"data='tiny-imagenet': '{folder}' has {data.classes:,} classes, need {CLASSES:,}.")
        return replace(data, name="tiny-imagenet")
    archive = next((archive for archive in archives if archive.is_file()), None)
    if archive is None:
        archive = archives[0]
        try:
            download(URL, archive, lambda got: _checked(got, str(archive)))
        except ConfigError as error:
            looked = ", ".join(f"'{path}'" for path in (*folders, *archives))
            raise ConfigError(
                f"data='tiny-imagenet' is not there, and {error}\nLooked for {looked}; it is published at {URL}.\n"
                f"Put the zip into '{archive.parent}', or name another folder: WEIGHTSHARE_DATA, or data_dir."
            ) from error
    return _from_zip(archive)


def _checked(path: Path, where: str) -> None:
    """Whether it is the official file."""
    with opened(path) as (file, size):
        digest = hashlib.new("md5", usedforsecurity=False)
        while chunk := file.read(LARGEST):
            digest.update(chunk)
    got = digest.hexdigest()
    if got != CHECKSUM:
        raise FileError(
            f"'{where}' is damaged or not the official file: its content has the md5 {got}, need {CHECKSUM} ({size:,} "
            "bytes were read). Remove it, to have it downloaded again, or replace it."
        )


def _from_zip(path: Path) -> Data:
    """Train and validation images in the order in which `image_folder` has those of the unpacked folder."""
    _checked(path, str(path))
    with _archive(path) as archive:
        files = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))
        train = [name for name in files if name.startswith(f"{FOLDER}/train/")]
        labels = [name.split("/")[2] for name in train]
        classes = tuple(sorted(set(labels)))
        annotations = f"{FOLDER}/val/{ANNOTATIONS}"
        text = _read(archive, annotations).decode(errors="replace")
        held = parse_annotations(text, f"{path}: {annotations}")
        if len(classes) != CLASSES or set(held.values()) - set(classes):
            others = len(set(held.values()) - set(classes))
            raise FileError(
                f"'{path}' has {len(classes):,} classes to learn from, need {CLASSES:,}, and {others:,} others to be "
                "measured on, need none. It is another archive; replace it."
            )
        names = train + [f"{FOLDER}/val/images/{name}" for name in held]
        sources = [_read(archive, name) for name in names]
    told = [f"{path}: {name}" for name in names]
    images = decode_all(sources, form_of(sources, None, told), told)
    number = {name: label for label, name in enumerate(classes)}
    numbers = np.array([number[name] for name in (*labels, *held.values())], dtype=np.int64)
    parts = (images[: len(train)], numbers[: len(train)]), (images[len(train) :], numbers[len(train) :])
    return build("tiny-imagenet", *parts, CLASSES, classes)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with opened(path) as (file, _):
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
            raise FileError(f"Cannot read '{path}': {error}. It is damaged; replace it.") from error


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise FileError(f"'{archive.filename}: {name}' has more than {LARGEST:,} bytes: it is not the official file.")
    return content
