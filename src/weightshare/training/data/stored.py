"""Images where they lie, read by their row: files of a folder, or stretches of larger files.

What a worker gets is a few arrays, whatever number of images they are for: a million Python strings would be copied
into every one of them.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
import os
from pathlib import Path
from typing import Any, final

from jaxtyping import Int
import numpy as np


@final
@dataclass(frozen=True)
class Member:
    """A stretch of a file that is an image itself.

    Args:
        path: Of the file.
        offset: Where the image starts in it, in bytes.
        size: Bytes of the image.
        name: Of the image within the file.
    """

    path: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """Its bytes; fewer, if the file has become shorter.

        Raises:
            OSError: If the file cannot be read.
        """
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            content = file.read(self.size)
            while len(content) < self.size and (more := file.read(self.size - len(content))):
                content += more
            return content

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


Source = Path | bytes | Member
"""What an image is decoded from; content has its name beside it."""


class Stored(Sequence[Source]):
    """Images of one part of a set, by row."""

    @abstractmethod
    def taken(self, rows: Int[np.ndarray, " rows"]) -> "Stored":
        """Those of some rows, in their order."""

    @abstractmethod
    def at(self, row: int) -> Source:
        """That of one row, from 0."""

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return self.taken(np.arange(len(self))[row])
        return self.at(range(len(self))[row])

    def __iter__(self) -> Iterator[Source]:
        return map(self.at, range(len(self)))


@final
@dataclass(frozen=True, eq=False)
class Files(Stored):
    """Files, each an image.

    Args:
        root: The folder that their names start from.
        names: As the file system has them (`os.fsencode`).

    Example:
        >>> Files.of(Path("set"), ["train/ant/0.png", "train/bee/1.png"])[1].as_posix()
        'set/train/bee/1.png'
    """

    root: Path
    names: np.ndarray

    @classmethod
    def of(cls, root: Path, names: Sequence[str]) -> "Files":
        """From names as texts."""
        return cls(root, np.array([os.fsencode(name) for name in names], dtype=np.bytes_))

    def __len__(self) -> int:
        return len(self.names)

    def taken(self, rows: Int[np.ndarray, " rows"]) -> "Files":
        return replace(self, names=self.names[rows])

    def at(self, row: int) -> Path:
        return self.root / os.fsdecode(self.names[row])


@final
@dataclass(frozen=True, eq=False)
class Members(Stored):
    """Members of uncompressed archives, each an image.

    Args:
        archives: The files.
        archive: Which of them each image is in, `(n)`.
        offset: Where it starts there, `(n)`.
        size: Bytes that it has, `(n)`.
        names: Within its archive, UTF-8, `(n)`.
    """

    archives: tuple[Path, ...]
    archive: Int[np.ndarray, " n"]
    offset: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def taken(self, rows: Int[np.ndarray, " rows"]) -> "Members":
        arrays = {key: getattr(self, key)[rows] for key in ("archive", "offset", "size", "names")}
        return replace(self, **arrays)

    def at(self, row: int) -> Member:
        name = self.names[row].decode(errors="replace")
        return Member(self.archives[self.archive[row]], int(self.offset[row]), int(self.size[row]), name)


@final
@dataclass(frozen=True, eq=False)
class Joined(Sequence[Source]):
    """The images of one part, then those of another."""

    first: Stored
    second: Stored

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, row: Any) -> Any:
        assert isinstance(row, int)
        row = range(len(self))[row]
        return self.first.at(row) if row < len(self.first) else self.second.at(row - len(self.first))
