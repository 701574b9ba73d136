"""Which weights the values axis means where nobody says: those of Linear and Conv layers, and why others stay out.

A layer is one by torch's class, or by the name of its class, since libraries have linear layers and convolutions of
their own: transformers' `Conv1D`, in GPT-2, is a linear layer that stores its weight as `(in, out)`. An attention of
torch holds the linear maps of its queries, keys and values itself.
"""

import re

from torch import nn

from weightshare._typing import Where
from weightshare.errors import SpecError
from weightshare.surgery.sites import Site, describe, plain, select, sites

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Subclasses too, such as the output projection of an attention."""
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""What `nn.MultiheadAttention` calls the weights of its input's maps: all in one, or each by itself."""
NAMED_SO = re.compile(r"Linear$|Conv[1-3][dD]$")
"""What libraries call layers of their own that are none of torch's classes."""


def not_a_layer(site: Site) -> str:
    """Why a site is not meant by `where=None`, or nothing: it is the weight of a Linear or Conv layer."""
    if _is_weight(site):
        return ""
    return (
        f"no weight of a Linear or Conv layer, but of a {type(site.holder).__name__}: name it in where= if you mean it"
    )


def stored_by_inputs(module: nn.Module | None) -> bool:
    """Whether a linear layer stores its weight as `(in, out)`, as transformers' `Conv1D` does."""
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)


def _is_weight(site: Site) -> bool:
    module, last = site.holder, site.path.rpartition(".")[2]
    if isinstance(module, nn.MultiheadAttention):
        return last in ATTENTION
    if last != "weight" or isinstance(module, LAYERS):
        return last == "weight"
    names = [kind.__name__ for kind in type(module).__mro__]
    # What is called linear and has more than a matrix has one for each token, or each expert.
    several = site.tensor.ndim > 2 and any(name.endswith("Linear") for name in names)
    return not several and any(NAMED_SO.search(name) for name in names)


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
        chosen = tuple(site for site in found if site.tensor.requires_grad and is_layer(site))
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
