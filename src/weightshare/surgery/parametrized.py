"""Tensors that torch's parametrizations make of stored ones: which there are, and who put them there."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from weightshare.surgery.sites import Site


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


def buffered(site: Site) -> str:
    """Why a parametrized weight would not be shared though its parameter is: the parametrization keeps more."""
    parent, _, own_name = site.path.rpartition(".")
    owner = dict(site.modules).get(parent)
    if owner is not None and own_name.endswith("_orig"):  # the old spectral_norm, and pruning
        beside = f"{own_name.removesuffix('_orig')}_"
        names = [name for name, _ in owner.named_buffers(recurse=False) if name.startswith(beside)]
        if names:
            return f"its weight is made from a buffer too ({names[0]}), so one parameter would not be one weight"
    for _, module in site.modules:
        if isinstance(module, ParametrizationList):
            names = [name for name, _ in module.named_buffers()]
            if names:
                return f"its parametrization keeps a buffer too ({names[0]}), so one parameter would not be one weight"
    return ""
