"""Reading files that someone else may have written: regular files alone, never more of one than was allowed.

A pipe would block for ever and a device never end; JSON may name one key twice, so that two readers see two files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import stat
from typing import Any, BinaryIO

from weightshare.errors import FileError

LARGEST_TEXT = 2**28
"""Bytes that a text file of ours may have: the longest history of a run is a thousand times shorter."""


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file.

    Args:
        path: Its name; a link is followed.

    Yields:
        The open file, and its size in bytes.

    Raises:
        FileError: If there is none, if it is a folder, a pipe or a device, or if it may not or cannot be read.
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe is not waited for
        file = os.fdopen(os.open(path, flags), "rb") if isinstance(path, str | Path) else None
    except IsADirectoryError as error:
        raise _no_file(path) from error
    except FileNotFoundError as error:
        raise FileError(f"There is no file '{path}'.") from error
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read '{path}': {getattr(error, 'strerror', None) or error}.") from error
    if file is None:
        raise FileError(f"Cannot read {path!r}: it is a {type(path).__name__}. Give the name of a file.")
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _no_file(path)
        try:
            yield file, found.st_size
        except OSError as error:
            raise FileError(f"Cannot read '{path}': {error.strerror or error}.") from error


def read_text(path: str | Path, largest: int = LARGEST_TEXT) -> str:
    """The text of a regular file.

    Args:
        path: Its name.
        largest: Bytes that it may have.

    Raises:
        FileError: If it cannot be read, is larger, or is no UTF-8.
    """
    with opened(path) as (file, _):
        content = file.read(largest + 1)  # what is there now, whatever size was said
    if len(content) > largest:
        raise FileError(f"'{path}' has more than {largest:,} bytes, which none of ours has.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"'{path}' is no text: {error}. It is damaged or of another kind.") from error


def parse_json(text: str) -> Any:
    """JSON as its standard has it: no key twice in one object, and no NaN or Infinity.

    Raises:
        ValueError: If the text is none, or is nested too deeply for Python.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key, later in zip(sorted(names), sorted(names)[1:], strict=False) if key == later)
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _no_file(path: str | Path) -> FileError:
    return FileError(f"Cannot read '{path}': there is a folder or a device of that name, need a file.")
