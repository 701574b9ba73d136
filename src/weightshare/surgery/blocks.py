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

from weightshare.surgery.derived import HOLDER
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
        return join(self.before, "*", self.after)


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
            for before, index, after in numbered(name):
                contents[before, index].append((after, site.shape, module_type))
    kinds = {child: tuple(sorted(content)) for child, content in contents.items()}
    occurs = Counter((before, kind) for (before, _), kind in kinds.items())
    repeating = {before for (before, _), times in occurs.items() if times > 1}
    return {site.path: _outermost(site.path, kinds, occurs, repeating) for site in all_sites}


def lists_inside(place: Place) -> tuple[str, ...]:
    """Paths, inside a block, of lists of blocks that it holds itself: it is a stage, an encoder or a decoder.

    Two bare layers alike, as the ends of a small perceptron, make no list; two alike of several layers do, or three.

    Example:
        >>> from torch import nn
        >>> from weightshare.surgery.sites import sites
        >>> stage = lambda: nn.ModuleDict({"layers": nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))})
        >>> lists_inside(places(sites(nn.ModuleList([stage(), stage()])))["0.layers.0.weight"])
        ('layers',)
    """
    contents = defaultdict[tuple[str, int], list[tuple[str, tuple[int, ...], str]]](list)
    for name, shape, module_type in place.kind:
        for before, index, after in numbered(name):
            contents[before, index].append((after, shape, module_type))
    alike = Counter((before, tuple(sorted(content))) for (before, _), content in contents.items())
    found = {
        before
        for (before, content), times in alike.items()
        if times > 2 or (times == 2 and len({name.rpartition(".")[0] for name, _, _ in content}) > 1)
    }
    return tuple(sorted(before for before in found if not any(_below(before, other) for other in found)))


def _below(path: str, other: str) -> bool:
    """Whether a path lies inside another one."""
    return path != other and (not other or path.startswith(f"{other}."))


def in_norm(site: Site) -> bool:
    """Whether a norm layer holds it; by the class's name, since libraries have dozens of norms of their own."""
    modules = dict(site.modules)
    return any("Norm" in type(modules.get(name.rpartition(".")[0])).__name__ for name in site.names)


def _outermost(path: str, kinds: dict, occurs: Counter, repeating: set[str]) -> Place | str:
    for before, index, after in numbered(path):
        kind = kinds[before, index]
        if occurs[before, kind] > 1:
            return Place(before, index, after, kind)
        if before in repeating:
            block = f"{before}.{index}" if before else str(index)
            return f"block '{block}' differs from its siblings in parameter names, shapes or module types"
    return "in no repeated block: no sibling has the same parameter names and shapes"


def join(*parts: str) -> str:
    """A path out of parts, of which some may be empty: the model itself.

    Example:
        >>> join("", "3", "fc1.weight")
        '3.fc1.weight'
    """
    return ".".join(part for part in parts if part)


def numbered(path: str) -> list[tuple[str, int, str]]:
    """Every `(before, index, after)` reading of a path, outermost index first.

    What derived tensors are made from is no part of a block, even where it lies in one, as it does in a container.
    """
    parts = path.split(".")
    return [
        (".".join(parts[:at]), int(part), ".".join(parts[at + 1 :]))
        for at, part in enumerate(parts)
        if part.isdecimal() and HOLDER not in parts[at + 1 :]
    ]
