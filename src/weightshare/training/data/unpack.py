"""The content of packed files, in memory, checked before anything is read from it.

No path in an archive is ever written to, and nothing larger than `LARGEST` is taken out of one.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
import gzip
import hashlib
import io
from pathlib import Path, PurePosixPath
import tarfile
import zlib

from weightshare.errors import FileError
from weightshare.files.opening import opened

LARGEST = 2**28
"""Bytes that one file may have when it is unpacked: the largest official one has 154 million."""
DAMAGE = (OSError, EOFError, zlib.error)


def checked(content: bytes, checksum: str, where: str) -> bytes:
    """The content itself, if it has its checksum.

    Args:
        content: What was read.
        checksum: `algorithm:hex`.
        where: Name of the file, for the message.

    Raises:
        FileError: If it has another one.

    Example:
        >>> checked(b"", "md5:d41d8cd98f00b204e9800998ecf8427e", "an empty file")
        b''
    """
    algorithm, _, needed = checksum.partition(":")
    got = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if got != needed:
        raise FileError(
            f"'{where}' is damaged or not the official file: its content has the {algorithm} {got}, need {needed} "
            f"({len(content):,} bytes were read). Remove it, to have it downloaded again, or replace it."
        )
    return content


def read_file(path: Path, where: str | None = None) -> bytes:
    """The content of a file, unpacked if it is a gzip file.

    Args:
        path: The file; what it is packed as is seen from its first bytes, so its name may be a temporary one.
        where: Name for messages, if it is another one.

    Raises:
        FileError: If it cannot be read, is cut, or is too large.
    """
    where = where or str(path)
    try:
        with _opened(path) as read:
            return _limited(read, where)
    except DAMAGE as error:
        raise _unreadable(where, error) from error


def read_tar(path: Path, names: Iterable[str], where: str | None = None) -> dict[str, bytes]:
    """The content of some members of a tar archive, whatever folder they are in.

    Args:
        path: The archive, packed or not.
        names: Of the members, without folders.
        where: Name for messages, if it is another one.

    Raises:
        FileError: If it cannot be read, is cut, or lacks one of them.
    """
    where, wanted = where or str(path), set(names)
    found: dict[str, bytes] = {}
    try:
        # As a stream: it never goes back, as an archive made for that could make a reader do for ever.
        with _opened(path) as read, tarfile.open(fileobj=_Bounded(read, where), mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in wanted - found.keys() and member.isfile() and (file := archive.extractfile(member)):
                    found[name] = _limited(file.read, f"{where}: {member.name}")
    except FileError:
        raise
    except (*DAMAGE, tarfile.TarError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise _unreadable(where, error) from error
    if missing := sorted(wanted - found.keys()):
        raise FileError(f"'{where}' lacks {', '.join(missing)}. It is another archive, or damaged; replace it.")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[int], bytes]]:
    """Reads bytes of a regular file, unpacked if it is a gzip file."""
    with opened(path) as (file, _):
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file).read if packed else file.read


class _Bounded(io.RawIOBase):
    """A stream that ends with an error after `2 * LARGEST` bytes, whatever an archive says that it holds."""

    def __init__(self, read: Callable[[int], bytes], where: str) -> None:
        super().__init__()
        self._read, self.where, self.left = read, where, 2 * LARGEST

    def read(self, size: int = -1) -> bytes:
        content = self._read(size)
        self.left -= len(content)
        if self.left < 0:
            raise FileError(f"'{self.where}' has more than {2 * LARGEST:,} bytes when unpacked: replace it.")
        return content


def _limited(read: Callable[[int], bytes], where: str) -> bytes:
    content = read(LARGEST + 1)
    if len(content) > LARGEST:
        raise FileError(f"'{where}' has more than {LARGEST:,} bytes when unpacked: it is not the official file.")
    return content


def _unreadable(where: str, error: Exception) -> FileError:
    return FileError(f"Cannot read '{where}': {error}. It is cut or damaged; remove it, to have it downloaded again.")
