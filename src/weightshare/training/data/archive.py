"""The entries of an `.npz`, with an error that names the file and the entry for whatever is wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
from typing import final

import numpy as np

from weightshare.errors import ConfigError, FileError


@final
class Entries:
    """An open `.npz`.

    Args:
        path: The file, for messages.
        file: What numpy opened.
    """

    def __init__(self, path: Path, file: np.lib.npyio.NpzFile) -> None:
        self.path = path
        self._file = file

    def __contains__(self, key: str) -> bool:
        return key in self._file.files

    def need(self, key: str) -> np.ndarray:
        """An entry.

        Raises:
            FileError: If it is missing, damaged, or holds Python objects, which would have to be unpickled.
        """
        if key not in self:
            there = ", ".join(self._file.files) or "nothing"
            raise FileError(f"'{self.path}' has no entry {key!r}, only {there}. Add it.")
        try:
            return self._file[key]
        except Exception as error:  # numpy, zipfile and what unpacks raise what they like of a file that is damaged
            raise FileError(f"Cannot read the entry {key!r} of '{self.path}': {error}.") from error

    def wrong(self, key: str, got: np.ndarray, needed: str) -> FileError:
        """The error for an entry of a wrong shape or type."""
        return FileError(f"'{self.path}': {key} is {got.dtype} {got.shape}, need {needed}.")


@contextmanager
def opened(path: Path) -> Iterator[Entries]:
    """Open an `.npz`, and close it again.

    Raises:
        ConfigError: If there is no such file.
        FileError: If it is none.
    """
    if not os.path.isfile(path):  # which is false, too, of a name that no file can have
        raise ConfigError(f"data='{path}': there is no such file.")
    try:
        raw = open(path, "rb")  # noqa: SIM115  # numpy would leave it open where it fails
    except OSError as error:
        raise FileError(f"Cannot read '{path}': {error}.") from error
    with raw:
        try:
            file = np.load(raw, allow_pickle=False)
        except Exception as error:  # see `Entries.need`
            raise FileError(f"Cannot read '{path}': {error}. It is damaged or no .npz.") from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FileError(f"'{path}' holds one array, need an .npz with the entries images, labels and is_train.")
        with file:
            yield Entries(path, file)
