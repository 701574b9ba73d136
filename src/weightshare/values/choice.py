"""Which weights the values axis means where nobody says: those of Linear and Conv layers, and why others stay out."""

from torch import nn

from weightshare._typing import Where
from weightshare.errors import SpecError
from weightshare.surgery.sites import Site, describe, plain, select, sites

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Subclasses too, such as the output projection of an attention."""


def holder(site: Site) -> nn.Module | None:
    """The module that holds a site's first path; none for a parameter of the root, which a site does not know."""
    return dict(site.modules).get(site.path.rpartition(".")[0])


def not_a_layer(site: Site) -> str:
    """Why a site is not meant by `where=None`, or nothing: it is the weight of a Linear or Conv layer."""
    module = holder(site)
    if site.path != "weight" and (not isinstance(module, LAYERS) or not site.path.endswith(".weight")):
        kind = "the model itself" if module is None else f"a {type(module).__name__}"
        return f"no weight of a Linear or Conv layer, but of {kind}: name it in where= if you mean it"
    return ""


def is_layer(site: Site) -> bool:
    """Whether `where=None` means a site: a weight of two or more dimensions of a Linear or Conv layer."""
    return site.tensor.ndim >= 2 and not not_a_layer(site)


def trained_weights(model: nn.Module, where: Where, what: str) -> tuple[Site, ...]:
    """The sites that a pattern means for what moves scalars in training.

    Args:
        model: Any module.
        where: By the rule of `plan`; `None` is every trainable weight that `is_layer` says yes to.
        what: Who asks, for messages.

    Raises:
        NoMatch: If the pattern matches nothing.
        SpecError: If there is no such weight, or the pattern names one that is frozen.
    """
    found = sites(plain(model))
    if where is None:
        chosen = tuple(
            site
            for site in found
            if site.tensor.requires_grad and is_layer(site) and isinstance(layer_of(model, site), LAYERS)
        )
        if not chosen:
            raise SpecError(f"{what}: {type(model).__name__} has no trainable weight of a Linear or Conv layer.")
        return chosen
    chosen = select(found, where)
    frozen = [site.path for site in chosen if not site.tensor.requires_grad]
    if frozen:
        raise SpecError(
            f"{what}: '{frozen[0]}' is frozen: no step changes it. Leave it out of where={describe(where)}."
        )
    return chosen


def layer_of(model: nn.Module, site: Site) -> nn.Module:
    """The module that holds a parameter, by its first path; also where that is the model itself."""
    return plain(model).get_submodule(site.path.rpartition(".")[0])
