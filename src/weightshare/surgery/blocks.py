"""Repeated blocks: which of a network's parameters play the same role in which layer.

A path such as `stages.0.blocks.3.conv.weight` may hold several indices. The *block index* is the outermost one whose
child has a sibling of the same structure: equal relative names, equal shapes, and modules of equal type around each
parameter. Here that is `3` where every stage differs from the others, so the path reads as
`before="stages.0.blocks"`, `index=3`, `after="conv.weight"`.

Where some children of a container are alike and one differs (a first block with an extra table), that one is an
outlier: it has no block index, and what it holds is not searched for smaller "blocks", which would be parts of one.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from weightshare.surgery.sites import Site


@dataclass(frozen=True)
class Place:
    """Where a site stands in a repeated block.

    Args:
        before: Path of the container of blocks (`""` is the model itself).
        index: Number of the block inside it.
        after: Path of the parameter inside its block (`""` if the "block" is the parameter: a `ParameterList`).
        kind: Structure of the block; blocks are interchangeable when it is equal.
    """

    before: str
    index: int
    after: str
    kind: tuple[tuple[str, tuple[int, ...], str], ...]

    @property
    def role(self) -> str:
        """The path with `*` in place of the block index."""
        return ".".join(part for part in (self.before, "*", self.after) if part)


def places(all_sites: Sequence[Site]) -> dict[str, Place | str]:
    """Find the repeated block of every site.

    Args:
        all_sites: From `surgery.sites(model)`: all of them, since a block is known by all that it holds.

    Returns:
        For each site's `path` its `Place`, or the reason why it lies in no repeated block.

    Example:
        >>> from torch import nn
        >>> from weightshare.surgery.sites import sites
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3))
        >>> found = places(sites(net))
        >>> found["1.weight"].role, found["0.weight"]
        ('*.weight', "block '0' differs from its siblings in parameter names, shapes or module types")
    """
    contents = defaultdict[tuple[str, int], list[tuple[str, tuple[int, ...], str]]](list)
    for site in all_sites:
        modules = dict(site.modules)
        for name in site.names:
            module_type = type(modules.get(name.rpartition(".")[0])).__qualname__
            for before, index, after in _splits(name):
                contents[before, index].append((after, site.shape, module_type))
    kinds = {child: tuple(sorted(content)) for child, content in contents.items()}
    occurs = Counter((before, kind) for (before, _), kind in kinds.items())
    repeating = {before for (before, _), times in occurs.items() if times > 1}
    return {site.path: _outermost(site.path, kinds, occurs, repeating) for site in all_sites}


def layer_numbers(all_sites: Sequence[Site]) -> dict[str, list[int]]:
    """Number the layers of a network as layer-wise learning rates need them, in the order of registration.

    The stem, all that comes before the first block, is layer 0; blocks follow, over all stages, and every child of a
    list that holds blocks counts as one; what stands between two blocks belongs to the next one. A module `norm` after
    the last block belongs to it, and all that follows is the head.

    Args:
        all_sites: From `surgery.sites(model)`.

    Returns:
        For each site's `path` the layer of every name that reaches it.

    Example:
        >>> from torch import nn
        >>> from weightshare.surgery.sites import sites
        >>> blocks = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        >>> net = nn.ModuleDict({"stem": nn.Linear(2, 3), "blocks": blocks, "norm": nn.LayerNorm(3)})
        >>> net["head"] = nn.Linear(3, 5)
        >>> [layers for path, layers in layer_numbers(sites(net)).items() if path.endswith("weight")]
        [[0], [1], [2], [2], [3]]
    """
    containers = {place.before for place in places(all_sites).values() if isinstance(place, Place)}

    def block_of(name: str) -> tuple[str, int] | None:
        # The outermost container decides, so that a block unlike its siblings is a layer too.
        return next(((before, index) for before, index, _ in _splits(name) if before in containers), None)

    stands = [[block_of(name) for name in site.names] for site in all_sites]
    blocks = [block for of_site in stands for block in of_site if block is not None]
    appeared = {before: number for number, before in reversed(list(enumerate(before for before, _ in blocks)))}
    numbers = {
        block: 1 + number
        for number, block in enumerate(sorted(set(blocks), key=lambda block: (appeared[block[0]], block[1])))
    }
    elsewhere = [0] * len(all_sites)  # the layer of a name in no block, by where its site stands
    following = None
    for at in reversed(range(len(all_sites))):
        following = next((block for block in stands[at] if block is not None), following)
        elsewhere[at] = len(numbers) + 1 if following is None else numbers[following]
    seen = False
    for at, site in enumerate(all_sites):
        if any(stands[at]):
            seen = True
        elif not seen:
            elsewhere[at] = 0
        elif elsewhere[at] > len(numbers):
            # By its name, as timm does: other norms there, such as `fc_norm`, come with the head.
            if not site.path.startswith("norm"):
                break
            elsewhere[at] = len(numbers)
    return {
        site.path: [elsewhere[at] if block is None else numbers[block] for block in stands[at]]
        for at, site in enumerate(all_sites)
    }


def in_norm(site: Site) -> bool:
    """Whether a norm layer holds it; by the class's name, since libraries have dozens of norms of their own."""
    modules = dict(site.modules)
    return any("Norm" in type(modules.get(name.rpartition(".")[0])).__name__ for name in site.names)


def _outermost(path: str, kinds: dict, occurs: Counter, repeating: set[str]) -> Place | str:
    for before, index, after in _splits(path):
        kind = kinds[before, index]
        if occurs[before, kind] > 1:
            return Place(before, index, after, kind)
        if before in repeating:
            block = f"{before}.{index}" if before else str(index)
            return f"block '{block}' differs from its siblings in parameter names, shapes or module types"
    return "in no repeated block: no sibling has the same parameter names and shapes"


def _splits(path: str) -> list[tuple[str, int, str]]:
    """Every `(before, index, after)` reading of a path, outermost index first."""
    parts = path.split(".")
    return [
        (".".join(parts[:at]), int(part), ".".join(parts[at + 1 :]))
        for at, part in enumerate(parts)
        if part.isdecimal()
    ]
