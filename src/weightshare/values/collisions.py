"""The paper's three algorithms for the proximal map, by name: for fidelity and for comparison; train with `prox`.

In the grid: three other ways through `prox_pairwise`'s door, to the same answer. Each sorts the weights, moves every
particle to where it would stand alone after unit time, and merges what has passed its neighbour; they differ in which
merges happen at once.

| algorithm | merges | depth |
|---|---|---|
| `end_collisions` | one pair at a time | `O(d)` |
| `imminent_collisions` | every run of neighbours that passed one another; repeat | `O(d)` at worst; a few, random |
| `search_collisions` | two solved halves, at a place found by binary search | `O(log³ d)` |

The last two are plain torch on whole tensors, so they run on any device that has float64.

Source: Shakerinava 2023, the algorithms of the same names.
"""

import torch
from torch import Tensor

from weightshare.values import check


def end_collisions(w: Tensor, step: float) -> Tensor:
    """The proximal map, one merge at a time.

    Args:
        w: Float tensor of any shape; one problem.
        step: Finite, at least 0.

    Returns:
        What `prox_pairwise` returns, without gradient.

    Raises:
        SpecError: As `prox_pairwise`.

    Source: Shakerinava 2023, end collisions.
    Differs: Merges from the least weight on, on the processor; it may look for the next merge nowhere else.

    Example:
        >>> end_collisions(torch.tensor([0.0, 3.0, 1.0]), step=1.5)
        tensor([1.2500, 1.5000, 1.2500])
    """
    ends, order = _alone(w, step, "end_collisions")
    sums: list[float] = []
    sizes: list[int] = []
    for end in ends.tolist():
        total, size = end, 1
        while sums and sums[-1] / sizes[-1] >= total / size:
            total, size = total + sums.pop(), size + sizes.pop()
        sums.append(total)
        sizes.append(size)
    means = torch.tensor(sums, dtype=torch.float64, device=ends.device) / torch.tensor(sizes, device=ends.device)
    return _back(means.repeat_interleave(torch.tensor(sizes, device=ends.device, dtype=torch.int64)), order, w)


def imminent_collisions(w: Tensor, step: float) -> Tensor:
    """The proximal map by rounds: in each, every run of neighbours that have passed one another becomes one.

    Args:
        w: As for `end_collisions`.
        step: As for `end_collisions`.

    Returns:
        What `prox_pairwise` returns, without gradient.

    Raises:
        SpecError: As `prox_pairwise`.

    Source: Shakerinava 2023, imminent collisions.
    Differs: nothing known.

    Example:
        >>> imminent_collisions(torch.tensor([0.0, 3.0, 1.0]), step=1.5)
        tensor([1.2500, 1.5000, 1.2500])
    """
    return imminent_rounds(w, step)[0]


def imminent_rounds(w: Tensor, step: float) -> tuple[Tensor, int]:
    """`imminent_collisions`, and how many rounds of merging it took."""
    means, order = _alone(w, step, "imminent_collisions")
    sums, sizes, rounds = means, torch.ones_like(means), 0
    member = torch.arange(len(means), device=means.device)
    while bool((means[:-1] >= means[1:]).any()):
        apart = means[:-1] < means[1:]
        block = torch.cat([apart.new_zeros(1), apart]).cumsum(0)
        count = int(block[-1]) + 1
        sums = torch.zeros(count, dtype=sums.dtype, device=sums.device).index_add_(0, block, sums)
        sizes = torch.zeros(count, dtype=sizes.dtype, device=sizes.device).index_add_(0, block, sizes)
        member, means, rounds = block[member], sums / sizes, rounds + 1
    return _back(means[member], order, w), rounds


def search_collisions(w: Tensor, step: float) -> Tensor:
    """The proximal map by halves: solve both, then find by binary search which clusters meet across the middle.

    At most one cluster crosses the middle. It takes in clusters of the left half, from the greatest down, while they
    are not below it, and for each choice of them clusters of the right half while those are not above it; both are
    conditions that hold up to some cluster and not after, which is what a binary search finds. All pairs of halves of
    one size are done at once.

    Args:
        w: As for `end_collisions`.
        step: As for `end_collisions`.

    Returns:
        What `prox_pairwise` returns, without gradient.

    Raises:
        SpecError: As `prox_pairwise`.

    Source: Shakerinava 2023, search collisions.
    Differs: Searches over particles instead of clusters, with the cluster of each kept at hand.

    Example:
        >>> search_collisions(torch.tensor([0.0, 3.0, 1.0]), step=1.5)
        tensor([1.2500, 1.5000, 1.2500])
    """
    ends, order = _alone(w, step, "search_collisions")
    d, device = len(ends), ends.device
    middle = ends.mean() if d else ends.new_zeros(())
    sums = torch.cat([ends.new_zeros(1), (ends - middle).cumsum(0)])
    index = torch.arange(d, device=device)
    first, last = index.clone(), index + 1  # each particle's cluster is first .. last - 1
    half = 1
    while half < d:
        low = torch.arange(0, d - half, 2 * half, device=device)
        mid, high = low + half, (low + 2 * half).clamp(max=d)
        start, stop = _across(sums, first, last, low, mid, high)
        pair = index // (2 * half)
        inside = pair < len(low)
        pair = pair.clamp(max=len(low) - 1)
        inside &= (index >= start[pair]) & (index < stop[pair])
        first = torch.where(inside, start[pair], first)
        last = torch.where(inside, stop[pair], last)
        half *= 2
    means = (sums[last] - sums[first]) / (last - first) + middle
    return _back(means, order, w)


def _across(sums: Tensor, first: Tensor, last: Tensor, low: Tensor, mid: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where the cluster across each `mid` starts and stops; `mid` twice where there is none."""

    def mean(start: Tensor, stop: Tensor) -> Tensor:
        return (sums[stop] - sums[start]) / (stop - start).clamp(min=1)

    def reach(start: Tensor) -> Tensor:
        """How far right a cluster from `start <= mid` goes: up to the first that is above all before it."""
        least, most = mid.clone(), high.clone()
        while bool((least < most).any()):
            probe = torch.minimum((least + most) // 2, high - 1)
            at = first[probe]  # take in the cluster of `probe`, if it is not above the clusters before it
            takes = (least < most) & ((at == start) | (mean(at, last[probe]) <= mean(start, at)))
            least, most = torch.where(takes, last[probe], least), torch.where(takes, most, torch.minimum(most, at))
        return least

    least, most = low.clone(), mid.clone()  # the start lies in least .. most
    while bool((least < most).any()):
        probe = torch.maximum((least + most - 1) // 2, low)
        begin, stop = first[probe], last[probe]
        takes = (least < most) & (mean(begin, stop) >= mean(stop, reach(stop)))
        least, most = torch.where(takes, least, torch.maximum(least, stop)), torch.where(takes, begin, most)
    return most, torch.where(most < mid, reach(most), mid)


def _alone(w: Tensor, step: float, what: str) -> tuple[Tensor, Tensor]:
    """Where each particle would stand after unit time if it met no other, in float64 and by place; and their order."""
    step = check.strength(step, f"{what}'s step")
    flat = check.tensor(w, what).detach().reshape(-1).double()
    places, order = torch.sort(flat)
    check.finite(places, check.bounds(w, 0, what), what)
    d = len(places)
    ranks = torch.arange(d, device=flat.device, dtype=torch.float64)
    return places + step * (d - 1 - 2 * ranks) / max(d - 1, 1), order


def _back(places: Tensor, order: Tensor, w: Tensor) -> Tensor:
    return torch.empty_like(places).index_copy_(0, order, places).to(w.dtype).view(w.shape)
