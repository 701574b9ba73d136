"""Which layers to merge, as a problem on a few small matrices: agglomerative clustering with a price for each merge.

What becomes of layers that are replaced by their mean is known for every set of layers once `⟨W_j, W_k⟩` is known for
every two of them, in the inner product of each layer's inputs: `T_i[j, k] = tr(W_j G_i W_kᵀ) / tr(W_i G_i W_iᵀ)`, with
`G_i` the Gram matrix of the inputs of layer `i`, or the identity where nothing is known of them. With means over the
cluster `c` of `i`, the error of its outputs, relative to their size, and the share of them that is left are

    e_i = T_i[i, i] - 2 mean_j T_i[i, j] + mean_jk T_i[j, k]
    κ_i = (mean_j T_i[i, j])² / (T_i[i, i] mean_jk T_i[j, k])

and `Σ_i e_i / κ_i` is the cost, noise by signal, a mean over a block's roles by how many numbers each has. Of `r`
layers that have nothing in common `e = 1 - 1/r` and `κ = 1/r`, so each costs `r - 1`; the error alone would saturate,
and one slot would swallow all layers. Blocks count alike, however many numbers they store: what is lost in a small
block is lost for the network. No weight is fitted again while clusters are tried.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from jaxtyping import Float
import torch
from torch import Tensor

Cluster = frozenset[int]
"""Blocks that read one slot, by their place in the list of blocks."""


LEAST_LEFT = 0.05
"""Below this share of the outputs a layer counts as lost: its cost grows no further than its error does."""


@dataclass(frozen=True, eq=False)
class Roles:
    """Tensors in the same blocks of a list, which therefore share in the same way.

    Args:
        members: Which blocks, by their place in the list of blocks.
        numbers: What a slot of all of them stores.
        shares: What the cost of each role counts: its part of a block's numbers.
        products: `T` of each role, float64.
        influence: What the cost of each member counts.
    """

    members: tuple[int, ...]
    numbers: int
    shares: Float[Tensor, " roles"]
    products: Float[Tensor, "roles n n n"]
    influence: Float[Tensor, " n"]

    def cost(self, cluster: Cluster) -> float:
        """What merging a cluster costs."""
        at = torch.tensor([place for place, member in enumerate(self.members) if member in cluster])
        if len(at) < 2:
            return 0.0
        inside = self.products[:, at][:, :, at][:, :, :, at]
        row = torch.arange(len(at))
        own, shared, merged = inside[:, row, row, row], inside[:, row, row].mean(2), inside.mean((2, 3))
        error = (own - 2 * shared + merged).clamp_min(0)
        kept = shared.clamp_min(0).square() / (own * merged).clamp_min(torch.finfo(own.dtype).tiny)
        costs = error / kept.clamp(LEAST_LEFT, 1.0) * self.influence[at]
        return (costs.sum(1) @ self.shares).item()

    def slots(self, clusters: Sequence[Cluster]) -> int:
        """How many slots clusters leave."""
        return sum(not cluster.isdisjoint(self.members) for cluster in clusters)


@dataclass(frozen=True, eq=False)
class BlockList:
    """A list of blocks that share among themselves.

    Args:
        path: Of the list.
        indices: Of the blocks, in order.
        roles: What they share, sorted by the blocks that have it.
    """

    path: str
    indices: tuple[int, ...]
    roles: tuple[Roles, ...]

    @property
    def apart(self) -> list[Cluster]:
        """Each block for itself."""
        return [frozenset([place]) for place in range(len(self.indices))]

    def cost(self, clusters: Sequence[Cluster]) -> float:
        return sum(role.cost(cluster) for role in self.roles for cluster in clusters)

    def stored(self, clusters: Sequence[Cluster]) -> int:
        """Numbers that all roles store."""
        return sum(role.numbers * role.slots(clusters) for role in self.roles)

    def labels(self, clusters: Sequence[Cluster]) -> list[int]:
        """The slot of each block, numbered as the blocks come."""
        ordered = sorted(clusters, key=min)
        return [
            next(slot for slot, cluster in enumerate(ordered) if place in cluster) for place in range(len(self.indices))
        ]

    def clusters(self, labels: Sequence[int]) -> list[Cluster]:
        """The clusters of blocks with equal labels."""
        return [frozenset(p for p, label in enumerate(labels) if label == slot) for slot in sorted(set(labels))]


Clustering = Mapping[str, Sequence[Cluster]]
"""The clusters of each list of blocks, by its path."""


def stored(lists: Sequence[BlockList], clusters: Clustering) -> int:
    """Numbers that all lists of blocks store together."""
    return sum(one.stored(clusters[one.path]) for one in lists)


def cost(lists: Sequence[BlockList], clusters: Clustering) -> float:
    """What all merges cost together."""
    return sum(one.cost(clusters[one.path]) for one in lists)


def agglomerate(lists: Sequence[BlockList], most: int, runs: bool = False) -> dict[str, list[Cluster]]:
    """Merge the two slots that cost least for each number that it saves, until no more than `most` numbers are stored.

    Then blocks are moved from one slot to another, one at a time, as long as that lowers the cost and stores no more
    than the limit.

    Args:
        lists: All lists of blocks.
        most: What they may store together; at least what they store with one slot for each role.
        runs: Whether only neighbours merge, so that every slot is read by a run of blocks, and none is moved.

    Returns:
        The clusters of each list, by its path.
    """
    found = {one.path: one.apart for one in lists}
    prices: dict[tuple[str, Cluster, Cluster], tuple[float, int]] = {}
    while stored(lists, found) > most:
        best: tuple[float, str, Cluster, Cluster] | None = None
        for one in lists:
            ordered = sorted(found[one.path], key=min)
            for left, right in pairwise(ordered) if runs else combinations(ordered, 2):
                key = (one.path, left, right)
                if key not in prices:
                    prices[key] = _price(one, left, right)
                extra, saved = prices[key]
                if saved and (best is None or extra / saved < best[0]):
                    best = (extra / saved, *key)
        assert best is not None, "the limit is below what can be reached"
        _, path, left, right = best
        found[path] = [cluster for cluster in found[path] if cluster not in (left, right)] + [left | right]
    while not runs and (moved := _moved(lists, found, most)) is not None:
        found = moved
    return found


def _price(one: BlockList, left: Cluster, right: Cluster) -> tuple[float, int]:
    """What merging two clusters costs, and how many numbers it saves."""
    union = left | right
    extra = sum(role.cost(union) - role.cost(left) - role.cost(right) for role in one.roles)
    return extra, one.stored([left, right]) - one.stored([union])


def _moved(lists: Sequence[BlockList], found: Clustering, most: int) -> dict[str, list[Cluster]] | None:
    """The clusters after the move of one block that lowers the cost most; nothing if none does."""
    best, gain = None, 1e-9 * cost(lists, found)
    spare = most - stored(lists, found)
    for one in lists:
        before = found[one.path]
        for place, source, target in _moves(before):
            after = [source - {place}, target | {place}]
            less = one.cost([source, target]) - one.cost(after)
            if less > gain and one.stored(after) - one.stored([source, target]) <= spare:
                kept = [cluster for cluster in before if cluster not in (source, target)]
                best, gain = {**{path: list(rows) for path, rows in found.items()}, one.path: kept + after}, less
    return best


def _moves(clusters: Sequence[Cluster]) -> Iterator[tuple[int, Cluster, Cluster]]:
    for source in clusters:
        for place in sorted(source) if len(source) > 1 else ():
            for target in clusters:
                if target != source:
                    yield place, source, target
