"""Tensors that torch's parametrizations make of stored ones: which there are, and who put them there."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def parametrization(owner: nn.Module, name: str) -> Any:
    """What makes a parametrized tensor of a module: torch's list, of the class `ParametrizationList`."""
    return owner.get_submodule(f"parametrizations.{name}")


def foreign_parametrizations(owner: nn.Module) -> list[str]:
    """Names of a module's parametrized tensors that `Transaction.decode` has not made, or not alone."""
    held: Any = getattr(owner, "parametrizations", {}) if parametrize.is_parametrized(owner) else {}
    return [name for name, chain in held.items() if len(chain) != 1 or not hasattr(chain, "place")]


def own_class(module: nn.Module, without: str = "") -> None:
    """Give a parametrized module a class that no copy of it shares, without one of its properties."""
    kind = type(module)
    entries = {name: entry for name, entry in vars(kind).items() if name not in ("__dict__", "__weakref__", without)}
    module.__class__ = type(kind.__name__, kind.__bases__, entries)  # pyright: ignore[reportAttributeAccessIssue]
