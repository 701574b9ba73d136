"""What a plan of `Tie` warns of: sharing that can be done and seldom is what one wants."""

from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from weightshare._table import run_text
from weightshare.sharing import Group
from weightshare.surgery.blocks import Place, join, lists_inside, places
from weightshare.surgery.sites import Site


def of_batch_norm(groups: Sequence[Group], model_sites: Sequence[Site]) -> list[str]:
    """Say that layers share the scale and shift of batch norm, why that fails, and how to leave them out.

    Args:
        groups: Of a plan.
        model_sites: Every site of the model.

    Returns:
        One note, or none.

    Source: Lin 2022, supplement, table 2.
    """
    holders = {site.path: site.holder for site in model_sites}
    shared = [
        group.name
        for group in groups
        if any(_is_batch_norm(holders[path]) for path in group.items) and group.assignment.slots < len(group.items)
    ]
    if not shared:
        return []
    norms = list(dict.fromkeys(name.rpartition(".")[0] for name in shared))
    globs = ", ".join(repr(f"!{norm}") for norm in norms[:2]) + (", ..." if len(norms) > 2 else "")
    return [
        f"Batch norm is shared ({run_text(shared, 6)}): activations of one layer have other means and variances than "
        "those of the next, and one scale and shift has to serve them all; SPIN's network diverged with it (Lin 2022, "
        "supplement, table 2). The running statistics are buffers: they stay each layer's own. To leave batch norm "
        f"out, end the list of patterns with {globs}."
    ]


def of_stages(groups: Sequence[Group], model_sites: Sequence[Site]) -> list[str]:
    """Say that the blocks which share hold lists of blocks themselves: whole stages, or an encoder and a decoder.

    Args:
        groups: Of a plan.
        model_sites: Every site of the model.

    Returns:
        One note for each list of such blocks.
    """
    found = places(model_sites)
    notes = dict[tuple[str, str], str]()
    for group in groups:
        tied = next((readers for readers in group.assignment.readers if len(readers) > 1), ())
        blocks = [place for reader in tied if isinstance(place := found[group.items[reader]], Place)]
        for inner in lists_inside(blocks[0]) if blocks else ():
            if inner == "" or blocks[0].after.startswith(f"{inner}."):
                notes.setdefault((blocks[0].before, inner), _tied_stages(blocks, inner))
    return list(notes.values())


def of_dtypes(groups: Sequence[Group]) -> list[str]:
    """Say that layers of one role share in several groups, since their weights differ in dtype.

    Args:
        groups: Of a plan.

    Returns:
        One note, or none.
    """
    roles = defaultdict[str, dict[str, Group]](dict)
    for group in groups:
        roles[group.name][group.dtype] = group
    mixed = {name: kinds for name, kinds in roles.items() if len(kinds) > 1}
    if not mixed:
        return []
    name, kinds = next(iter(mixed.items()))
    parts = " and ".join(f"{dtype} in {run_text(group.items, 4)}" for dtype, group in kinds.items())
    more = f", and {len(mixed) - 1} more roles so" if len(mixed) > 1 else ""
    return [
        f"'{name}' is {parts}{more}: layers of different dtype never share one slot, so each dtype shares for itself. "
        "Convert the model to one dtype first if they are to share."
    ]


def of_rate(rate: float | None, groups: Sequence[Group]) -> list[str]:
    """Say what a rate that is no whole number came to: slots are whole, so layers are dealt out unevenly.

    Args:
        rate: Of the spec.
        groups: Of a plan.

    Returns:
        One note, or none.
    """
    if rate is None or isinstance(rate, int):
        return []
    reached = dict.fromkeys((len(group.items), group.assignment.slots) for group in groups)
    parts = [f"{layers} layers read {slots} slots, {layers / slots:.3g} a slot" for layers, slots in reached]
    return [f"rate={rate:.4g} is no whole number, and slots are: {'; '.join(parts)}."]


def _tied_stages(blocks: Sequence[Place], inner: str) -> str:
    one, other = (block.block for block in blocks[:2])
    layer = blocks[0].after.removeprefix(f"{inner}.").partition(".")[0]
    return (
        f"'{one}' and '{other}' hold lists of blocks themselves, as stages do, or an encoder and a decoder. The plan "
        f"ties '{join(one, inner, layer)}' with '{join(other, inner, layer)}', and no two layers of one list. To share "
        f"inside each, plan each as a model of its own: plan(model.get_submodule('{one}'), ...)."
    )


def _is_batch_norm(module: nn.Module) -> bool:
    """By class, or by what makes it one: libraries have batch norms of their own."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or "running_mean" in dict(
        module.named_buffers(recurse=False)
    )
