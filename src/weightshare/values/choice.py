"""Which weights the values axis means where nobody says: those of Linear and Conv layers, and why others stay out."""

from torch import nn

from weightshare.surgery.sites import Site

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
