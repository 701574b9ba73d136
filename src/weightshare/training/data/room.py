"""Disks that are full: said with what is needed and what is free."""

from collections.abc import Iterator
from contextlib import contextmanager
import errno
from pathlib import Path
import shutil

from weightshare.errors import FileError

FULL = (errno.ENOSPC, errno.EDQUOT)


def free(path: Path) -> tuple[int, Path]:
    """Bytes that are free where a file is to be written, and the folder there that exists already."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return shutil.disk_usage(folder).free, folder


def check_room(path: Path, needed: int | None) -> None:
    """Refuse to begin to write what has no room.

    Args:
        path: The file.
        needed: Its bytes, if they are known.

    Raises:
        FileError: If fewer are free.
    """
    if needed is not None and needed > free(path)[0]:
        raise _full(path, needed, "")


@contextmanager
def telling_room(path: Path, needed: int | None, most: str = "") -> Iterator[None]:
    """Around `replacing`: if the disk becomes full, say what is needed and what is free.

    Args:
        path: The file that is written.
        needed: Its bytes, if they are known.
        most: Put before them, if it may be less: `up to `.

    Raises:
        FileError: Instead of the one of `replacing`, which has removed what was half written by then.
    """
    try:
        yield
    except FileError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            raise _full(path, needed, most) from error
        raise


def _full(path: Path, needed: int | None, most: str) -> FileError:
    there, folder = free(path)
    wanted = "an unknown number of" if needed is None else f"{most}{needed:,}"
    return FileError(
        f"There is no space left for '{path}': it needs {wanted} bytes, and {there:,} are free in '{folder}'. Nothing "
        "half written is left. Free some, or write to another folder."
    )
