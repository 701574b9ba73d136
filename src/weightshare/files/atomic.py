"""Writing a file so that, whatever happens, its name holds either the old content or the new one, whole."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import json
import os
from pathlib import Path
from typing import Any

from weightshare.errors import FileError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file beside its final name, then move it there in one step.

    Args:
        path: The final name. Missing folders above it are made.

    Yields:
        A path to write to. When the body ends it is flushed to disk and renamed; when it raises, it is removed.

    Raises:
        FileError: If the folder cannot be written or the disk is full; the file at `path` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if os.name == "posix":  # the new name itself is only safe once the folder is on disk
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise FileError(f"Cannot write '{path}': {error.strerror or error}. What was there is unchanged.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in one step; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON in one step; see `replacing`."""
    write_text(path, json.dumps(data, indent=1, sort_keys=False) + "\n")
