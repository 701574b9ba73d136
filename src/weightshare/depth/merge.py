"""Which layers to merge, as a problem on a few small matrices: agglomerative clustering with a price for each merge.

What it costs to replace layers by their mean is known for every set of layers once `⟨W_j, W_k⟩` is known for every two
of them, in the inner product of each layer's inputs. With `T_i[j, k] = tr(W_j G_i W_kᵀ) / tr(W_i G_i W_iᵀ)`, `G_i` the
Gram matrix of the inputs of layer `i`, the change of its outputs relative to their size is

    e_i(c) = T_i[i, i] - 2 mean_j T_i[i, j] + mean_jk T_i[j, k]        j, k in the cluster c of i

and `Σ_i e_i` is the cost. Where nothing is known of the inputs `G_i` is the identity. So no weight is fitted again
while clusters are tried.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from jaxtyping import Float
import torch
from torch import Tensor

Cluster = frozenset[int]
"""Blocks that read one slot, by their place in the list of blocks."""


@dataclass(frozen=True, eq=False)
class Role:
    """Tensors of one size in some blocks of a list, all of which share in the same way.

    Args:
        members: Which blocks, by their place in the list of blocks.
        numbers: Stored for each slot.
        products: `T`, weighted: `(members, members, members)` float64.
    """

    members: tuple[int, ...]
    numbers: int
    products: Float[Tensor, "n n n"]

    def cost(self, cluster: Cluster) -> float:
        """What merging a cluster costs."""
        at = torch.tensor([place for place, member in enumerate(self.members) if member in cluster])
        if len(at) < 2:
            return 0.0
        inside = self.products[at][:, at][:, :, at]
        own = torch.arange(len(at))
        errors = inside[own, own, own] - 2 * inside[own, own].mean(1) + inside.mean((1, 2))
        return errors.clamp_min(0).sum().item()

    def slots(self, clusters: Sequence[Cluster]) -> int:
        """How many slots clusters leave."""
        return sum(not cluster.isdisjoint(self.members) for cluster in clusters)


@dataclass(frozen=True, eq=False)
class BlockList:
    """A list of blocks that share among themselves.

    Args:
        path: Of the list.
        indices: Of the blocks, in order.
        roles: What they share.
    """

    path: str
    indices: tuple[int, ...]
    roles: tuple[Role, ...]

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
