"""How alike the blocks of a model are, for a first look: by all matrices of a block, and role by role.

Where in the grid: `depth.measure` compares every number of a group; here a part of the numbers of large weights is
drawn, so that a model of any size is looked at in seconds and little memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor, nn

from weightshare.depth.measure import Similarity
from weightshare.depth.nearest import gram
from weightshare.sharing import Group
from weightshare.surgery import edit
from weightshare.surgery.blocks import Place, block_path, places
from weightshare.surgery.sites import Site

MOST_NUMBERS = 2**18
"""Of one weight; cosines are then known to about 1/√2¹⁸ = 0.002."""
CHANCE = 5.0
"""Cosines of independent random numbers are this many times `1/√numbers` at most, in any pair of a model."""


@dataclass(frozen=True)
class Alike:
    """How alike the blocks of one list are.

    Args:
        blocks: Path of the list.
        whole: Cosines of all matrices of two blocks together.
        roles: Cosines of the matrices of each role, the largest role first, with its name.
        numbers: How many numbers of a block they are computed from.
        by_chance: Whether no two blocks are more alike than independent random numbers are, as before any training.
    """

    blocks: str
    whole: Similarity
    roles: tuple[tuple[str, Similarity], ...]
    numbers: int
    by_chance: bool

    @property
    def pairs(self) -> Tensor:
        """The cosine of each pair of blocks, once."""
        rows, columns = torch.triu_indices(*self.whole.values.shape, offset=1)
        return self.whole.values[rows, columns]

    @property
    def neighbours(self) -> float:
        """The mean cosine of blocks that follow each other."""
        return self.whole.values.diagonal(1).nanmean().item()

    @property
    def closest(self) -> tuple[str, str, float]:
        """The two blocks that are most alike, and their cosine; NaN if there is none."""
        values = self.whole.values.nan_to_num(nan=-math.inf).fill_diagonal_(-math.inf)
        row, column = divmod(int(values.argmax()), len(values))
        low, high = sorted((row, column))
        return self.whole.rows[low], self.whole.rows[high], self.whole.values[low, high].item()


def alike(model: nn.Module, groups: Sequence[Group], model_sites: Sequence[Site]) -> list[Alike]:
    """Compare the blocks of every list of equal blocks, by cosines of their matrices.

    Args:
        model: Any module, not changed. Weights on the meta device have no numbers, so their groups are left out.
        groups: Those of a plan of `Tie`.
        model_sites: Every site of the model.

    Returns:
        One for each list of blocks that has matrices or kernels; vectors and norms, which start equal, do not count.

    Example:
        >>> from weightshare.depth.tie import Tie
        >>> from weightshare.planning import make_plan
        >>> from weightshare.surgery.sites import sites
        >>> net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
        >>> _ = net[0].weight.data.copy_(torch.eye(2)), net[1].weight.data.copy_(torch.eye(2))
        >>> _ = net[2].weight.data.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        >>> (found,) = alike(net, make_plan(net, Tie(rate=1), None).groups, sites(net))
        >>> found.closest, found.neighbours
        (('0', '1', 1.0), 0.5)
    """
    found = places(model_sites)
    lists: dict[str, list[tuple[Group, list[int]]]] = {}
    for group in groups:
        at = [place for path in group.items if isinstance(place := found[path], Place)]
        if sum(length > 1 for length in group.shape) > 1 and not edit.parameter_at(model, group.items[0]).is_meta:
            lists.setdefault(at[0].before, []).append((group, [place.index for place in at]))
    return [_of_list(model, before, members) for before, members in lists.items()]


def _of_list(model: nn.Module, before: str, members: Sequence[tuple[Group, list[int]]]) -> Alike:
    indices = sorted({index for _, row in members for index in row})
    inner, left, right = (torch.zeros(len(indices), len(indices), dtype=torch.float64) for _ in range(3))
    roles, numbers, chance = [], 0, True
    for group, row in sorted(members, key=lambda member: -member[0].numel):
        drawn = [_drawn(edit.parameter_at(model, path).detach()) for path in group.items]
        found = gram(drawn)
        found = (found.real if found.is_complex() else found).cpu()
        size = found.diagonal()
        at = torch.tensor([indices.index(index) for index in row])
        inner[at[:, None], at] += found
        left[at[:, None], at] += size[:, None].expand_as(found)
        right[at[:, None], at] += size.expand_as(found)
        cosines = found / (size[:, None] * size).sqrt()  # NaN where a weight is all zeros
        apart = cosines[~torch.eye(len(row), dtype=torch.bool)]
        numbers += drawn[0].numel()
        chance &= not bool((apart.abs() > CHANCE / math.sqrt(drawn[0].numel())).any())
        roles.append((group.name, _named(before, row, cosines)))
    return Alike(before, _named(before, indices, inner / (left * right).sqrt()), tuple(roles), numbers, chance)


def _drawn(tensor: Tensor) -> Tensor:
    """The numbers of a weight, or of a large one the same random part of them for every layer."""
    flat = tensor.reshape(-1)
    if len(flat) <= MOST_NUMBERS:
        return flat
    generator = torch.Generator().manual_seed(0)  # the places are one draw for all weights of a size
    return flat[torch.randint(len(flat), (MOST_NUMBERS,), generator=generator, device="cpu").to(flat.device)]


def _named(before: str, indices: Sequence[int], cosines: Tensor) -> Similarity:
    names = tuple(block_path(before, index) for index in indices)
    return Similarity("cosine", names, names, cosines.clamp(-1.0, 1.0))
