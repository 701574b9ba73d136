"""Parsers of data sets: archives, their index, packed files, folders of images."""

import io

import numpy as np

from tests.robustness.parsers import Parser, text_of
from tests.unit.training.made_up_folder import fill
from tests.unit.training.made_up_npz import GOOD, jpegs
from tests.unit.training.made_up_shards import encoded, fill_shards
from weightshare.training.data import load_data
from weightshare.training.data.folder import parse_annotations


class Shards(Parser):
    """A WebDataset shard beside others."""

    form = "bytes"

    def seeds(self) -> list[bytes]:
        fill_shards(self.folder / "set")
        fill_shards(self.folder / "other", label="json")
        return [(self.folder / name / "train-0000.tar").read_bytes() for name in ("set", "other")]

    def read(self, content: bytes) -> None:
        self.written(content, "set/train-0000.tar")
        load_data(str(self.folder / "set"))


class ShardIndexes(Parser):
    """The index that is kept beside shards."""

    form = "bytes"
    kept = "set/.weightshare-train.npz"

    def seeds(self) -> list[bytes]:
        fill_shards(self.folder / "set")
        load_data(str(self.folder / "set"))
        return [(self.folder / self.kept).read_bytes()]

    def read(self, content: bytes) -> None:
        self.written(content, self.kept)
        load_data(str(self.folder / "set"))


class PackedSets(Parser):
    """A data set in one `.npz`."""

    form = "bytes"

    def seeds(self) -> list[bytes]:
        named = {"class_names": np.array(["a", "b", "c", "d"]), "layout": np.array("NHWC"), "scale": np.array(255.0)}
        return [_npz(**GOOD), _npz(**GOOD, **named), _npz(**jpegs())]

    def read(self, content: bytes) -> None:
        load_data(str(self.written(content, "x.npz")))


class Arrays(Parser):
    """The header of the labels in such a file, with checksums that are right."""

    form = "text"

    def seeds(self) -> list[bytes]:
        self.held = {name: _npy(array) for name, array in GOOD.items()}
        return [_parts(self.held["labels"])[0]]

    def read(self, content: bytes) -> None:
        import zipfile

        header = content[:60_000]
        start = self.held["labels"][:8] + len(header).to_bytes(2, "little") + header
        with zipfile.ZipFile(self.folder / "y.npz", "w") as file:
            for name, array in self.held.items():
                file.writestr(f"{name}.npy", start + _parts(array)[1] if name == "labels" else array)
        load_data(str(self.folder / "y.npz"))


class Images(Parser):
    """An image in a folder of images."""

    form = "bytes"

    def seeds(self) -> list[bytes]:
        fill(self.folder / "set")
        image = np.arange(105, dtype=np.uint8).reshape(5, 7, 3)
        return [encoded(image, form) for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")]

    def read(self, content: bytes) -> None:
        self.written(content, "set/train/ant/0.png")
        load_data(str(self.folder / "set"))


class Lists(Parser):
    """The list of classes of TinyImageNet's validation part, and that of shards' classes."""

    form = "text"

    def seeds(self) -> list[bytes]:
        fill_shards(self.folder / "set")
        return [b"0.png\tant\t0\t0\t1\t1\n1.png\tcow\t0\t0\t1\t1\n", b"ant\nbee\ncow\n"]

    def read(self, content: bytes) -> None:
        self.written(content, "set/classes.txt")
        load_data(str(self.folder / "set"))
        parse_annotations(text_of(content), "here")


class AnnotatedFolders(Parser):
    """A folder whose validation images have a list of classes."""

    form = "text"

    def seeds(self) -> list[bytes]:
        fill(self.folder / "set")
        fill(self.folder / "set", {"val": {"images": 3}})
        return [b"0.png\tant\t0\t0\t1\t1\n1.png\tcow\t0\t0\t1\t1\n"]

    def read(self, content: bytes) -> None:
        self.written(content, "set/val/val_annotations.txt")
        load_data(str(self.folder / "set"))


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Header and numbers of an array as numpy writes it."""
    end = 10 + int.from_bytes(content[8:10], "little")
    return content[10:end], content[end:]


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


PARSERS: dict[str, type[Parser]] = {
    "shards of images": Shards,
    "indexes of shards": ShardIndexes,
    "packed data sets": PackedSets,
    "arrays of packed data sets": Arrays,
    "images": Images,
    "lists of classes": Lists,
    "lists of images": AnnotatedFolders,
}
