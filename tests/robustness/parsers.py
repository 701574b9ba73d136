"""All that reads what somebody else may have written: for each parser inputs that it takes, made by the library itself.

An input is refused with an error of ours, and leaves what it would have changed as it was; or it is taken.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.robustness.mutations import Form


class Parser(ABC):
    """One parser; abstract.

    Args:
        folder: An empty one, to write files into.
    """

    form: Form = "json"
    """What its inputs are made of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Valid inputs."""

    @abstractmethod
    def read(self, content: bytes) -> None:
        """Parse an input and use what was read, as the library does.

        Raises:
            SharingError: If it is refused. Nothing else is ever raised.
        """

    def state(self) -> object:
        """What a refused input must not change, to the last bit."""
        return None

    def written(self, content: bytes, name: str = "input") -> Path:
        """A file with that content."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def text_of(content: bytes) -> str:
    """Bytes as text that may hold what no file does: lone surrogates."""
    return content.decode("utf-8", "surrogateescape")


MODULES = ("file_parsers", "text_parsers", "data_parsers")


def parsers() -> Mapping[str, type[Parser]]:
    """Every parser by its name."""
    found: dict[str, Any] = {}
    for name in MODULES:
        found |= import_module(f"tests.robustness.{name}").PARSERS
    return found
