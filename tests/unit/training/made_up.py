"""Small files in the official formats, written from their descriptions; and their checksums in place of the real."""

from dataclasses import replace
import gzip
import hashlib
import io
from pathlib import Path
import struct
import tarfile

import numpy as np
import torch

from weightshare.training.data import official

TRAIN, TEST = 7, 3
NAMES = tuple(official.OFFICIAL)
CIFARS = {
    ("cifar10", 0): ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    ("cifar10", 1): ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ("cifar100", 0): ("cifar-100-binary", "cifar-100-binary.tar.gz"),
    ("cifar100", 1): ("cifar-100-python", "cifar-100-python.tar.gz"),
}
Arrays = tuple[np.ndarray, np.ndarray]


def pictures(count: int, shape: tuple[int, ...], classes: int, seed: int) -> Arrays:
    """Images, channels first, and labels."""
    numbers = np.random.default_rng(seed)
    return numbers.integers(0, 256, (count, *shape), np.uint8), numbers.integers(0, classes, count)


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def cifar_binary(images: np.ndarray, labels: np.ndarray, coarse: bool) -> bytes:
    """Records of one label, or a coarse and a fine one, and 3,072 pixels."""
    head = [np.full(len(labels), 211, np.uint8)] * coarse + [labels.astype(np.uint8)]
    return np.concatenate([np.stack(head, 1), images.reshape(len(images), -1)], axis=1).tobytes()


def cifar_python(images: np.ndarray, labels: np.ndarray, coarse: bool) -> bytes:
    """What Python 2 wrote with `cPickle.dump(batch, file, 2)`, opcode by opcode: Python 3 writes strings otherwise."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING

    def numbers(values: list[int]) -> bytes:
        return b"](" + b"".join(b"K" + bytes([value]) for value in values) + b"e"

    flat = images.reshape(len(images), -1)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01K" + bytes([len(flat)]) + b"M" + struct.pack("<H", flat.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", flat.size) + flat.tobytes() + b"tb"
    )
    names = b"](" + b"".join(text(b"image %d.png" % row) for row in range(len(flat))) + b"e"
    items = text(b"batch_label") + text(b"training batch 1 of 5") + text(b"filenames") + names
    if coarse:
        items += text(b"coarse_labels") + numbers([11] * len(labels))
    items += text(b"fine_labels" if coarse else b"labels") + numbers(labels.tolist()) + text(b"data") + array
    return b"\x80\x02}(" + items + b"u."


def files(name: str, edition: int = 0) -> tuple[dict[str, bytes], Arrays, Arrays]:
    """The files of one edition of a set, unpacked, and what they hold: training images and labels, and test ones."""
    chosen = official.OFFICIAL[name].editions[edition]
    classes = len(official.OFFICIAL[name].class_names)
    parts, contents = [], {}
    for names, count, seed in ((chosen.train, TRAIN, 2), (chosen.test, TEST, 3)):
        if chosen.format == "idx":
            images, labels = pictures(count, (1, 5, 11), classes, seed)
            contents |= {names[0].name: idx(images[:, 0]), names[1].name: idx(labels)}
        else:
            images, labels = pictures(count * len(names), (3, 32, 32), classes, seed)
            write = cifar_python if chosen.format.endswith("python") else cifar_binary
            for number, file in enumerate(names):
                rows = slice(number * count, (number + 1) * count)
                contents[file.name] = write(images[rows], labels[rows], name == "cifar100")
        parts.append((images, labels))
    return contents, parts[0], parts[1]


def publish(monkeypatch, name: str, contents: dict[str, bytes], edition: int = 0, url: str | None = None) -> None:
    """Put checksums of made-up files in the place of the official ones, with the same kind of checksum."""

    def known(file: official.File) -> official.File:
        kind = file.checksum.partition(":")[0]
        return official.File(file.name, f"{kind}:{hashlib.new(kind, contents[file.name]).hexdigest()}")

    old = official.OFFICIAL[name]
    chosen = old.editions[edition]
    parts = {"train": tuple(map(known, chosen.train)), "test": tuple(map(known, chosen.test))}
    editions = list(old.editions)
    editions[edition] = replace(chosen, url=url or chosen.url, **parts)
    monkeypatch.setitem(official.OFFICIAL, name, replace(old, editions=tuple(editions)))


def write(folder: Path, contents: dict[str, bytes], packed: bool = False) -> Path:
    """Write files, each by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def tar(contents: dict[str, bytes], folder: str) -> bytes:
    """A tar.gz with the files in a folder, and a text beside them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"readme.html": b"made up", **contents}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def check_same(data, train: Arrays, test: Arrays) -> None:
    """Whether a data set has these images and labels, bit for bit."""
    for split, (images, labels) in ((data.train, train), (data.test, test)):
        got, got_labels = next(split.batches([torch.arange(len(split))]))
        assert got.dtype == torch.float32
        assert torch.equal((got * 255).round().to(torch.uint8), torch.from_numpy(images))
        assert torch.equal(got_labels, torch.from_numpy(labels))
