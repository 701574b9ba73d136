"""Layers in order, as layer-wise learning rates need them: which parameter stands how deep in a network."""

from collections import defaultdict
import re
from typing import Any

from torch import nn

from weightshare.surgery.blocks import Place, block_path, in_norm, join, numbered, places, sequences
from weightshare.surgery.derived import HOLDER, sources
from weightshare.surgery.sites import plain, sites

WITH_THE_LAYER_BEFORE = 99999  # timm's suffix of what belongs to the layer before
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layer_numbers(model: nn.Module) -> dict[str, list[int]]:
    """Number the layers of a network from its input on.

    A model of timm says itself, by `group_matcher()`, which parameter belongs to which layer. Of others the stem, all
    that comes before the first block, is layer 0; blocks follow in order, over all stages; what stands between two
    blocks belongs to the next one; a norm after the last block belongs to it, and all that follows is the head. Blocks
    are what repeats, or numbered children of one class.

    Args:
        model: Any module.

    Returns:
        For each parameter, by its first path, the layer of every path that reaches it, and for each derived weight its
        own; empty if there are no blocks. What derived weights are made from is in no layer, and not listed.

    Example:
        >>> blocks = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        >>> net = nn.ModuleDict({"stem": nn.Linear(2, 3), "blocks": blocks, "norm": nn.LayerNorm(3)})
        >>> net["head"] = nn.Linear(3, 5)
        >>> [layers for path, layers in layer_numbers(net).items() if path.endswith("weight")]
        [[0], [1], [2], [2], [3]]
    """
    model = plain(model)
    names = _names_as_read(model)
    matcher: Any = getattr(type(model), "group_matcher", None)
    numbers = _as_timm(names, matcher(model, coarse=False)) if callable(matcher) else _by_blocks(model, names)
    if not numbers:
        return {}
    stored = [site for site in sites(model) if site.path in numbers]
    known = {name for site in stored for name in site.names}
    found = {site.path: [numbers[name] for name in site.names] for site in stored}
    return found | {name: [numbers[name]] for name in names if name not in known}


def _names_as_read(model: nn.Module) -> list[str]:
    """The paths of all weights as layers read them, in the order of the model: derived ones, not what makes them."""
    names = []
    for path, module in model.named_modules(remove_duplicate=False):
        if HOLDER not in path.split("."):
            own = [name for name, tensor in module._parameters.items() if tensor is not None]
            names += [join(path, name) for name in (*own, *sources(module))]
    return names


def _as_timm(names: list[str], matcher: Any) -> dict[str, int]:
    """By timm's protocol: patterns in order, each with the numbers it captures, or a function; the rest comes last."""

    def place(name: str) -> tuple[float, ...]:
        if callable(matcher):
            found: Any = matcher(name)
            return tuple(found) if isinstance(found, tuple | list) else (found,)
        for ordinal, entries in enumerate(matcher.values()):
            for pattern, suffix in [(entries, None)] if isinstance(entries, str) else entries or ():
                found = re.match(pattern, name)
                if found:
                    captured = (float(part) for part in found.groups() if part is not None)
                    return (float(ordinal), *captured, *map(float, suffix or ()))
        return (float("inf"),)

    stands = {name: place(name) for name in names}
    layers: dict[tuple[float, ...], int] = {}
    layer = -1
    for at in sorted(set(stands.values())):
        layer += layer < 0 or at[-1] != WITH_THE_LAYER_BEFORE
        layers[at] = layer
    return {name: layers[at] for name, at in stands.items()}


def _by_blocks(model: nn.Module, names: list[str]) -> dict[str, int]:
    named = sequences(sites(model))
    containers = _containers(model, names, named)
    # The outermost container decides, so that a block unlike its siblings is a layer too.
    stands = [
        next(((before, index) for before, index, _ in numbered(name, named) if before in containers), None)
        for name in names
    ]
    appeared: dict[str, int] = {}
    for block in stands:
        if block is not None:
            appeared.setdefault(block[0], len(appeared))
    blocks = sorted({block for block in stands if block is not None}, key=lambda block: (appeared[block[0]], block[1]))
    layers = {block: number for number, block in enumerate(blocks, 1)}
    if not layers:
        return {}
    norms = {name for site in sites(model) if in_norm(site) for name in site.names}
    first = next(at for at, block in enumerate(stands) if block is not None)
    last = max(at for at, block in enumerate(stands) if block is not None)
    numbers, following, before_head = {}, None, True
    for name in names[last + 1 :]:
        before_head = before_head and name in norms and not re.search(r"(^|\.)(fc_|head)", name)
        numbers[name] = len(layers) + (not before_head)
    for at in range(last, -1, -1):
        following = stands[at] or following
        assert following is not None
        numbers[names[at]] = 0 if at < first else layers[following]
    return numbers


def _containers(model: nn.Module, names: list[str], named: set[str]) -> set[str]:
    """Paths of what holds blocks: repeated ones, or else children of one class that hold no such list themselves."""
    found = {place.before for place in places(sites(model)).values() if isinstance(place, Place)}
    modules = dict(model.named_modules(remove_duplicate=False))
    children: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name in names:
        for before, index, _ in numbered(name, named):
            child = modules.get(block_path(before, index))  # none: an entry of a ParameterList
            if child is not None and not isinstance(child, LISTS):
                children[before, type(child).__qualname__].add(index)
    alike = {before for (before, _), indices in children.items() if len(indices) > 1}
    everything = found | alike
    return found | {
        before
        for before in alike
        if not any(other != before and other.startswith(f"{before}." if before else "") for other in everything)
    }
