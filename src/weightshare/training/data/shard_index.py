"""Where the images of WebDataset shards lie, and their labels: an index that is made once and kept beside the shards.

A sample is two members of one archive with one key, which is the path up to the first dot of the file's name:
`KEY.jpg` (or `jpeg`, `png`, `webp`) and `KEY.cls`, a number as text, or `KEY.json` with the number under "label". Other
members, `KEY.mask.png` too, are of no use here; where both labels are there, `cls` counts.

Images are then read where they lie, in any order, so that a shuffled epoch is one over all images and not over
neighbours, is the same each time, and goes on in the middle.
"""

from collections.abc import Sequence
import os
from pathlib import Path

import numpy as np

from weightshare.errors import ConfigError, FileError
from weightshare.files.atomic import replacing
from weightshare.files.opening import opened as opened_file
from weightshare.files.opening import parse_json
from weightshare.training.data.archive import opened
from weightshare.training.data.listed import Listed
from weightshare.training.data.naming import named
from weightshare.training.data.stored import Members
from weightshare.training.data.tar_members import members

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")

HIGHEST = 10**9
"""No label is so high."""

LONGEST = 2**20
"""Bytes that a label's member may have."""

NUMBERS = ("archive", "offset", "size", "label")
KEYS = (*NUMBERS, "names")
"""Arrays of an index with one entry for each image; the numbers are int64, the names bytes."""

Span = tuple[int, int]
"""Offset and size."""


def index(shards: Sequence[Path], cache: Path) -> Listed:
    """The images of shards, in the order of the shards and of the members in each.

    Args:
        shards: Uncompressed tar archives, one or more.
        cache: Where the index is kept, an `.npz`; it is used as long as the shards have their names, sizes and times of
            change. Where it cannot be written it is made again each time.

    Raises:
        FileError: If an archive is damaged, if images or labels lack their twin, if a label is no whole number, or if a
            name is there twice: how many of each, and the first of them.
    """
    names = np.array([os.fsencode(shard.name) for shard in shards], dtype=np.bytes_)
    stamps = np.array([(shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards], dtype=np.int64)
    arrays = _kept(cache, names, stamps)
    if arrays is None:
        arrays = _made(shards)
        try:
            with replacing(cache) as temporary, open(temporary, "wb") as file:
                np.savez(file, shards=names, stamps=stamps, **arrays)  # type: ignore[arg-type]  # each is an entry
        except FileError:
            pass  # a folder that cannot be written, or a full disk: what was there is as it was
    stored = Members(tuple(shards), arrays["archive"], arrays["offset"], arrays["size"], arrays["names"])
    return Listed(stored, arrays["label"])


def _kept(cache: Path, names: np.ndarray, stamps: np.ndarray) -> dict[str, np.ndarray] | None:
    """The index of these very shards, if it was kept and is whole."""
    try:
        with opened(cache) as entries:
            if not np.array_equal(entries.need("shards"), names) or not np.array_equal(entries.need("stamps"), stamps):
                return None
            arrays = {key: entries.need(key) for key in KEYS}
    except (ConfigError, FileError):
        return None
    count = len(arrays["names"]) if arrays["names"].ndim == 1 and arrays["names"].dtype.kind == "S" else -1
    if any(arrays[key].shape != (count,) or arrays[key].dtype != np.int64 for key in NUMBERS):
        return None
    good = (arrays["archive"] < len(names)).all() and all((arrays[key] >= 0).all() for key in NUMBERS)
    return arrays if good else None


def _made(shards: Sequence[Path]) -> dict[str, np.ndarray]:
    """The arrays of an index, from the shards themselves."""
    found = _Found()
    for number, shard in enumerate(shards):
        found.read(number, shard)
    found.refuse(shards[0].parent)
    columns = [list(column) for column in zip(*found.rows, strict=True)] or [[] for _ in KEYS]
    kinds = (*(np.int64 for _ in NUMBERS), np.bytes_)
    return {key: np.array(column, kind) for key, column, kind in zip(KEYS, columns, kinds, strict=True)}


class _Found:
    """What shards hold, and what is wrong with it."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int, bytes]] = []
        self.counts = {"members": 0, "images": 0, "labels": 0}
        self.wrong: dict[str, list[str]] = {}

    def read(self, number: int, shard: Path) -> None:
        """Add one shard."""
        images: dict[str, tuple[str, Span]] = {}
        labels: dict[str, dict[str, Span]] = {}
        more: dict[str, str] = {}
        for name, offset, size in members(shard):
            folder, _, file = name.rpartition("/")
            key, _, kind = file.partition(".")
            kind, key = kind.lower(), f"{folder}/{key}"
            if file.startswith("."):
                continue
            if kind not in IMAGES + LABELS:
                if kind.endswith(tuple(f".{ending}" for ending in IMAGES)):
                    more.setdefault(key, name)
                continue
            self.counts["members"] += 1
            if offset < 0:
                self._add("members are links or folders", shard, name)
            elif key in images if kind in IMAGES else kind in labels.get(key, {}):
                self._add("members have a key that is there before", shard, name)
            elif kind in IMAGES:
                images[key] = name, (offset, size)
            else:
                labels.setdefault(key, {})[kind] = offset, size
        for key in more.keys() - images.keys():
            self._add("members are images with a second dot in the name, beside none without", shard, more[key])
        self.counts["members"] += len(more)
        self.counts["images"] += len(images)
        self.counts["labels"] += len(labels)
        for key in labels.keys() - images.keys():
            self._add(f"labels have no image ({', '.join(f'KEY.{kind}' for kind in IMAGES)})", shard, key.lstrip("/"))
        with opened_file(shard) as (file, _):
            for key, (name, (offset, size)) in images.items():
                if key not in labels:
                    self._add("images have no label (KEY.cls or KEY.json)", shard, name)
                    continue
                kind = "cls" if "cls" in labels[key] else "json"
                at, length = labels[key][kind]
                file.seek(at)
                label = _label(kind, file.read(min(length, LONGEST)))
                if label is None:
                    needed = 'a number as text in KEY.cls, or under "label" in KEY.json'
                    self._add(f"labels are no whole number from 0 ({needed})", shard, name)
                    continue
                self.rows.append((number, offset, size, label, name.encode(errors="surrogateescape")))

    def refuse(self, folder: Path) -> None:
        """Raise what is wrong, of all shards."""
        if self.wrong:
            told = "; ".join(
                f"{len(names):,} of {self.counts[what.split()[0]]:,} {what}: {named(sorted(names))}"
                for what, names in self.wrong.items()
            )
            raise FileError(f"The shards in '{folder}' cannot be used: {told}. Write them again, or remove these.")

    def _add(self, what: str, shard: Path, name: str) -> None:
        self.wrong.setdefault(what, []).append(f"'{shard.name}: {name}'")


def _label(kind: str, content: bytes) -> int | None:
    """The number that a label's member holds."""
    if kind == "cls":
        text = content.strip()
        return int(text) if text.isdigit() and len(text) < len(str(HIGHEST)) else None
    try:
        found = parse_json(content.decode())
    except ValueError:
        return None
    label = found.get("label") if isinstance(found, dict) else None
    return label if type(label) is int and 0 <= label < HIGHEST else None
