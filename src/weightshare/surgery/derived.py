"""Derived tensors: attributes of a module that are not stored in it, but made by someone else whenever they are read.

Torch's parametrizations make a tensor from one that the same module stores. Here the module stores nothing: several
layers may read what one bank makes for all of them at once. A module with such attributes has a class of its own, below
its old one, with a property for each; so `isinstance` holds, and all code that reads `layer.weight` reads the made one.
Copies and pickles of a whole model keep their readers at their own bank, since a source is an ordinary attribute.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

HOLDER = "weightshare_banks"
"""What a module is called that holds what derived tensors are made from."""
SOURCES = "_weightshare_sources"
DERIVED = "_weightshare_derived"


class Source(ABC):
    """What a derived tensor is read from."""

    place: int = 0
    """Where among the parameters of its module the stored one was."""

    @abstractmethod
    def tensor(self) -> Tensor:
        """The tensor, made now or kept from a moment ago."""


def sources(module: nn.Module) -> dict[str, Source]:
    """The derived tensors of a module, by name; none for most."""
    return module.__dict__.get(SOURCES, {})


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before it got derived tensors."""
    kind = type(module)
    return kind.__bases__[0] if DERIVED in vars(kind) else kind


def reread(module: nn.Module, made: dict[str, Source]) -> None:
    """Give a module exactly these derived tensors; with none, its plain class again."""
    base = plain_class(module)
    if made:
        object.__setattr__(module, SOURCES, made)
        module.__class__ = _class(base, tuple(made))  # pyright: ignore[reportAttributeAccessIssue]
    else:
        module.__dict__.pop(SOURCES, None)
        module.__class__ = base  # pyright: ignore[reportAttributeAccessIssue]


def remember(module: nn.Module) -> Callable[[], None]:
    """A function that gives a module the parameters and the derived tensors of now again."""
    before, kind, made = dict(module._parameters), type(module), module.__dict__.get(SOURCES)

    def restore() -> None:
        module.__class__ = kind
        module.__dict__.pop(SOURCES, None)
        if made is not None:
            object.__setattr__(module, SOURCES, made)
        module._parameters.clear()
        module._parameters.update(before)

    return restore


def _class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    entries: dict[str, Any] = {name: _property(name) for name in names}
    entries[DERIVED] = names
    entries["__reduce_ex__"] = _reduce
    entries |= {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (base,), entries)


def _property(name: str) -> property:
    def read(module: Any) -> Tensor:
        return module._weightshare_sources[name].tensor()

    return property(read)


def _reduce(module: Any, protocol: Any) -> Any:
    """How copies and pickles make it again: from its plain class, which can be imported."""
    made = nn.Module.__reduce_ex__(module, protocol)
    return (_empty, (plain_class(module), getattr(type(module), DERIVED)), *made[2:])


def _empty(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    kind = _class(base, names)
    return kind.__new__(kind)
