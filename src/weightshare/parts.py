"""Parts: frozen dataclasses that a plan can write as JSON and read back, without running what a file says."""

from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from weightshare.errors import FileError


class Part(ABC):  # noqa: B024 - its children are abstract
    """A frozen dataclass that a plan can write as JSON: `{"ClassName": {field: value}}`.

    Reading looks the name up among the classes that are imported, so a file can never make Python import or run
    anything, and a class of your own is readable once its module is imported.
    """

    def __repr__(self) -> str:
        """The call that makes it, without the fields that have their default."""
        assert is_dataclass(self)
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self._name()}({', '.join(f'{name}={value!r}' for name, value in given)})"

    def _name(self) -> str:
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        assert is_dataclass(self)
        return {type(self).__name__: {field.name: _plain(getattr(self, field.name)) for field in fields(self)}}

    @staticmethod
    def from_dict(data: object) -> "Part":
        if not isinstance(data, Mapping) or len(data) != 1:
            raise FileError(f"A spec in a plan needs the form {{name: fields}}, got {data!r}.")
        ((name, values),) = data.items()
        known: dict[str, Any] = {}
        for cls in _subclasses(Part):
            if is_dataclass(cls):
                known.setdefault(cls.__name__, cls)  # the first one, so that a later namesake does not take its place
        if name not in known or not isinstance(values, Mapping):
            raise FileError(
                f"The plan needs {name!r}, which is not among {sorted(known)}. Import the module that has it."
            )
        allowed = {field.name for field in fields(known[name])}
        if not set(values) <= allowed:
            raise FileError(f"{name} in the plan has fields {sorted(values)}, this version knows {sorted(allowed)}.")
        return known[name](**{key: _unplain(value) for key, value in values.items()})


def _subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Part) else list(value) if isinstance(value, tuple) else value


def _unplain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Part.from_dict(value)
    return tuple(value) if isinstance(value, list) else value
