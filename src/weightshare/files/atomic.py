"""Writing a file so that, whatever happens, its name holds either the old content or the new one, whole."""

from collections.abc import Iterator
from contextlib import contextmanager
import errno
import json
import os
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import Any

from weightshare.errors import FileError
from weightshare.files.opening import parse_json, read_text


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file beside its final name, then move it there in one step.

    Args:
        path: The final name; a link is followed. Missing folders above it are made. The new file has the mode of the
            old one, or the usual one. Of several writers at once the last one stays, whole.

    Yields:
        A path to write to. When the body ends it is flushed to disk and renamed; when it raises, it is removed.

    Raises:
        FileError: If there is a folder or a device at `path`, if the folder cannot be written, or if the disk is full;
            what is at `path` is then as it was. If only the folder cannot be flushed, the new file is there.
    """
    path = _target(path)
    # A folder of its own for each writer: what writes may lay files of its own beside the one that it is given.
    folder = path.with_name(f".{path.name}.{token_hex(8)}.tmp")
    temporary = folder / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = (path if path.exists() else temporary).stat().st_mode & 0o7777
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"Cannot write '{path}': {error.strerror or error}. What was there is unchanged.") from error
    finally:
        rmtree(folder, ignore_errors=True)
    _sync_folder(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in a folder where nobody else writes now."""
    for left in folder.glob(".*.tmp"):
        if left.is_dir() and not left.is_symlink():
            rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in one step; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON in one step; see `replacing`."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileError: If it is missing, cut or no JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise FileError(f"Cannot read '{path}': {error}. It is cut or damaged.") from error


def _target(path: str | Path) -> Path:
    try:
        resolved = Path(path).resolve()
        if resolved.exists() and not resolved.is_file():
            raise FileError(f"Cannot write '{path}': there is a folder or a device of that name.")
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"Cannot write to {path!r}: {error}. Give the name of a file.") from error
    return resolved


def _sync_folder(path: Path) -> None:
    """The new name itself is only safe once the folder is on disk."""
    if os.name != "posix":
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):  # of file systems and folders that cannot
            raise FileError(
                f"'{path}' is written, but not safe from a power cut yet: {error.strerror}. Write it again."
            ) from error
