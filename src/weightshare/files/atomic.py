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
        path: The final name; a link is followed. Missing folders above it are made. The new file has the mode of the
            old one, or the usual one.

    Yields:
        A path to write to. When the body ends it is flushed to disk and renamed; when it raises, it is removed.

    Raises:
        FileError: If there is a folder or a device at `path`, if the folder cannot be written, or if the disk is full;
            what is at `path` is then as it was.
    """
    path = _target(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())
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
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileError: If it is missing, cut or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"Cannot read '{path}': {error}. It is missing or damaged.") from error


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


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask
