"""Where the files of a tar archive lie in it: headers are read, contents are passed over.

The format has no table of contents, so this is done once, from the start to the end.
"""

from collections.abc import Iterator
from pathlib import Path
import tarfile
from typing import BinaryIO

from weightshare.errors import FileError
from weightshare.files.opening import opened

BLOCK = 512
TAIL = 2**16
"""Bytes that are read at a time of what follows the end mark, which must be nothing but zeros."""

Place = tuple[str, int, int]
"""Name, offset in bytes, size in bytes; the offset is -1 for a link, a folder or a device."""


def members(path: Path) -> Iterator[Place]:
    """What an uncompressed archive holds, in its order.

    Args:
        path: The archive.

    Raises:
        FileError: If it cannot be read, is compressed, cut, or damaged; only at the end is that known.
    """
    with opened(path) as (file, size):
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    plain = member.isreg() and not member.issparse()
                    yield member.name, member.offset_data if plain else -1, member.size
                    archive.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                end = archive.offset  # type: ignore[attr-defined]
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise _unreadable(path, str(error)) from error
        _check_end(path, file, end, size)


def _check_end(path: Path, file: BinaryIO, end: int, size: int) -> None:
    """Where tarfile stops there may be damage, of which it says nothing."""
    file.seek(end)
    if len(block := file.read(BLOCK)) < BLOCK:
        raise _unreadable(path, f"it ends after {size:,} bytes without an end mark")
    if any(block):
        raise _unreadable(path, f"what follows byte {end:,} is no header")
    while rest := file.read(TAIL):
        if any(rest):
            raise _unreadable(path, f"more follows its end mark at byte {end:,}")


def _unreadable(path: Path, reason: str) -> FileError:
    return FileError(
        f"Cannot read '{path}' as an uncompressed tar archive: {reason}. It is cut, damaged or compressed; replace it, "
        "or unpack it with gunzip."
    )
