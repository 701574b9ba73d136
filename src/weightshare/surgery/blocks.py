"""Repeated blocks: which of a network's parameters play the same role in which layer.

A path such as `stages.0.blocks.3.conv.weight` may hold several indices. The *block index* is the outermost one whose
child has a sibling of the same structure: equal relative names, equal shapes, and modules of equal type around each
parameter. Here that is `3` where every stage differs from the others, so the path reads as
`before="stages.0.blocks"`, `index=3`, `after="conv.weight"`.

Children of an `nn.Sequential` may have names that end in a number, `encoder_layer_0`, `encoder_layer_1`: those whose
names begin alike are one list, `before="encoder.layers.encoder_layer_*"`. Elsewhere such names, `fc1` and `fc2` or
`norm1` and `norm2`, are different roles of one block.

Where some children of a container are alike and one differs (a first block with an extra table), that one is an
outlier: it has no block index, and what it holds is not searched for smaller "blocks", which would be parts of one.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
import re

from torch import nn

from weightshare.surgery.derived import HOLDER
from weightshare.surgery.sites import Site

NAMED = re.compile(r"(.*[^0-9])(0|[1-9][0-9]*)", re.DOTALL)
"""A name that ends in a number, as `encoder_layer_3` does."""


@dataclass(frozen=True)
class Place:
    """Where a site stands in a repeated block.

    Args:
        before: Path of the list of blocks: of its container (`""` is the model itself), or with `*` for the number at
            the end of the names of blocks.
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
        return join(block_path(self.before, "*"), self.after)

    @property
    def block(self) -> str:
        """Path of the block."""
        return block_path(self.before, self.index)


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
    named = sequences(all_sites)
    for site in all_sites:
        modules = dict(site.modules)
        for name in site.names:
            module_type = type(modules.get(name.rpartition(".")[0])).__qualname__
            for before, index, after in numbered(name, named):
                contents[before, index].append((after, site.shape, module_type))
    kinds = {child: tuple(sorted(content)) for child, content in contents.items()}
    occurs = Counter((before, kind) for (before, _), kind in kinds.items())
    repeating = {before for (before, _), times in occurs.items() if times > 1}
    return {site.path: _outermost(site.path, kinds, occurs, repeating, named) for site in all_sites}


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


def _outermost(path: str, kinds: dict, occurs: Counter, repeating: set[str], named: set[str]) -> Place | str:
    for before, index, after in numbered(path, named):
        kind = kinds[before, index]
        if occurs[before, kind] > 1:
            return Place(before, index, after, kind)
        if before in repeating:
            block = block_path(before, index)
            return f"block '{block}' differs from its siblings in parameter names, shapes or module types"
    return "in no repeated block: no sibling has the same parameter names and shapes"


def join(*parts: str) -> str:
    """A path out of parts, of which some may be empty: the model itself.

    Example:
        >>> join("", "3", "fc1.weight")
        '3.fc1.weight'
    """
    return ".".join(part for part in parts if part)


def block_path(before: str, index: int | str) -> str:
    """The path of a block out of those of its list and its number.

    Example:
        >>> block_path("blocks", 3), block_path("", 3), block_path("encoder.layer_*", 3)
        ('blocks.3', '3', 'encoder.layer_3')
    """
    return before[:-1] + str(index) if before.endswith("*") else join(before, str(index))


def blocks_glob(before: str) -> str:
    """A glob for all that a list of blocks holds.

    Example:
        >>> blocks_glob("blocks"), blocks_glob(""), blocks_glob("encoder.layer_*")
        ('blocks.*', '*', 'encoder.layer_*')
    """
    return block_path(before, "*")


def sequences(all_sites: Iterable[Site]) -> set[str]:
    """The paths of every `nn.Sequential` above a parameter: their children run one after the other, so are layers."""
    above = (pair for site in all_sites for pair in (("", site.root), *site.modules))
    return {path for path, module in above if isinstance(module, nn.Sequential)}


def numbered(path: str, named: Collection[str] = ()) -> list[tuple[str, int, str]]:
    """Every `(before, index, after)` reading of a path, outermost index first.

    What derived tensors are made from is no part of a block, even where it lies in one, as it does in a container.

    Args:
        path: Of a parameter or a module.
        named: Paths of containers, from `sequences`, whose children are numbered where their names end in a number.

    Example:
        >>> numbered("layers.layer_3.conv1.weight", {"layers"})
        [('layers.layer_*', 3, 'conv1.weight')]
    """
    parts, found = path.split("."), []
    for at, part in enumerate(parts):
        before, after = ".".join(parts[:at]), ".".join(parts[at + 1 :])
        if HOLDER in parts[at + 1 :]:
            continue
        if part.isdecimal():
            found.append((before, int(part), after))
        elif before in named and (name := NAMED.fullmatch(part)):
            found.append((join(before, f"{name[1]}*"), int(name[2]), after))
    return found
