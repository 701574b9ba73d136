"""Which weights mixtures are for, and which of them may read templates of one shape."""

from collections.abc import Sequence

from torch import nn

from weightshare.errors import AlreadyShared, SpecError
from weightshare.surgery.blocks import in_norm
from weightshare.surgery.derived import HOLDER
from weightshare.surgery.parametrized import buffered
from weightshare.surgery.quantised import ADVICE, beside_quantised, quantised
from weightshare.surgery.sites import Site


def vector(site: Site) -> str:
    """Why a site is no weight that mixtures are for, or nothing; no mistake of the pattern's."""
    if sum(length > 1 for length in site.shape) < 2:
        return "a vector: templates are for matrices and kernels"
    return "part of a norm layer: templates are for matrices and kernels" if in_norm(site) else ""


def refused(site: Site, explicit: bool) -> str:
    """Why a weight cannot be read from a bank, or nothing; an error where the pattern names it."""
    if site.aliases and explicit:
        raise AlreadyShared(
            f"Cannot make a mixture of '{site.path}': it is already one parameter with '{site.aliases[0]}'. Leave it "
            "out of the pattern, or give it a parameter of its own first (unshare_ does, where a plan tied it)."
        )
    recurrent = isinstance(site.holder, nn.RNNBase)
    table = isinstance(site.holder, nn.Embedding | nn.EmbeddingBag)
    banked = HOLDER in site.path.split(".") and (not explicit or site.path.endswith(".coefficients"))
    for reason, advice in (
        (quantised(site.tensor), ADVICE),
        ("stored by a plan that makes weights of it already" if banked else "", "Leave it out of the pattern"),
        ("an embedding, whose rows are looked up" if table else "", "Tie it"),
        (buffered(site), "Leave it out of the pattern"),
        (
            "recurrent layers keep a second list of their weights, which a bank never reaches" if recurrent else "",
            "Tie it",
        ),
    ):
        if reason and explicit:
            raise SpecError(f"Cannot make a mixture of '{site.path}': {reason}. {advice}.")
        if reason:
            return reason
    if site.aliases:
        return f"already one parameter with '{site.aliases[0]}'"
    return "" if explicit else beside_quantised(site)


def common_name(paths: Sequence[str]) -> str:
    """Paths as one, with `*` for the parts that differ.

    Example:
        >>> common_name(["layer1.1.conv1.weight", "layer1.1.conv2.weight", "layer1.2.conv1.weight"])
        'layer1.*.*.weight'
    """
    parts = [path.split(".") for path in paths]
    if len({len(one) for one in parts}) > 1:
        lead = next(at for at, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1)
        return ".".join([*parts[0][:lead], "*", parts[0][-1]])
    return ".".join(names[0] if len(set(names)) == 1 else "*" for names in zip(*parts, strict=True))
