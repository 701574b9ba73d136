"""The proximal map of the pairwise penalty without sorting: a few passes over memory, and a bound on the error.

Weights fall into bins over their range; the bins' counts and sums are all that the isotonic problem sees, with a bin's
weights at its mean; each weight reads its answer. In the grid: the cheap form of `prox`, for every step of training.

**Why the bound holds.** The exact map `P` is monotone (`w ≤ w'` gives `P(w) ≤ P(w')`) and `P(w + c) = P(w) + c`. Let
every weight of a bin be at most `up` above and `down` below the bin's mean, and `U`, `D` the greatest of those over
bins. Moving all weights to their bin's mean gives answers `y` with `y − D ≤ P(w) ≤ y + U`. So

- a bin that **collapses** (all its weights read `y`) errs by at most `max(U, D)`, which is at most one bin width;
- a bin that met no other may **keep its places**: its weights move by its mean velocity. With `η` the spread of
  velocities within the bin and `y₋`, `y₊` the answers of its neighbours, `P(w_i) ≥ min(z_i − η, y₊ − D)` and
  `P(w_i) ≤ max(z_i + η, y₋ + U)`, by the max-min form of isotonic regression, so that it errs by at most
  `max(η, y + up − y₊ + D, y₋ + U − y + down)`. It keeps its places where this is at most one bin
  width, and else collapses.

The mean of the weights is kept; their order is kept within a bin, and across bins to one bin width. A bin that holds
over 1/256 of the weights is split once more, between its least and greatest weight, so that a far outlier spoils
nothing. Counts and places are whole numbers: the result does not depend on threads, nor on how a tensor is cut over
processes.
"""

from collections.abc import Callable
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.kernels import on
from weightshare.kernels.plain import UNIT, Grid
from weightshare.values import check

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class NoBins(SpecError):
    """The range of the weights is too small or too large to be cut."""


HEAVY = 256  # a bin over 1/256 of the weights is split
_MOST = 1 << 20


def prox_pairwise_binned(
    w: Tensor,
    step: float,
    bins: int = 65536,
    *,
    l1: float = 0.0,
    rewind: float = 0.0,
    group: "ProcessGroup | None" = None,
    out: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Pull weights together without sorting them, and say how far that is from exact at most.

    Weights that did not meet others keep their distances within a bin, so they do not become equal where the exact map
    leaves them apart. `O(n + bins)`.

    Args:
        w: Float tensor of any shape, on any device; one problem. Half types are computed in float32.
        step: Strength times learning rate; finite, at least 0.
        bins: Into how many parts the range of the weights is cut, from 2 to 2**20.
        l1: Threshold of a soft threshold that follows, at least 0: strength of `‖w‖₁` times learning rate.
        rewind: ρ from 0 to 1: each cluster goes only `1 − ρ` of its way, but to 0 where the threshold puts it.
        group: `w` is this process's part of the weights of a group of processes, which all make this call: two
            reductions, and two more if a bin is split. A part may be empty. Of a sharded `DTensor` pass `.to_local()`
            and `.device_mesh.get_group()`.
        out: Where to write the answer: a contiguous tensor like `w`, or `w` itself; autograd
            does not record it, as it does not an optimizer's step. By default a new tensor.

    Returns:
        A tensor like `w`, without gradient, and the bound: no weight is further from the exact answer (of all parts).
        It is at most the width of a bin, and rounding; with `l1` at most two widths. With `rewind` it is larger by
        `2ρ(step + l1)`, since whether two clusters meet, or one goes to 0, is then no continuous question.

    Raises:
        SpecError: If `w` is no dense float tensor, or holds NaN or infinity; if an argument is out of its range.

    Source: the problem is that of Shakerinava 2023, rewinding too; the method is ours.
    Differs: From `prox_pairwise` by at most the bound.

    Example:
        >>> z, bound = prox_pairwise_binned(torch.tensor([0.0, 3.0, 1.0]), step=1.5)
        >>> bool((z - torch.tensor([1.25, 1.5, 1.25])).abs().max() <= bound), bound < 1e-5
        (True, True)
    """
    what = "prox_pairwise_binned"
    step, l1 = check.strength(step, f"{what}'s step"), check.strength(l1, f"{what}'s l1")
    rewind = check.strength(rewind, f"{what}'s rewind")
    if rewind > 1:
        raise SpecError(f"{what}: rewind goes from 0 to 1, got {rewind}.")
    w = check.tensor(w, what).detach()
    if isinstance(bins, bool) or not isinstance(bins, int) or not 2 <= bins <= _MOST:
        raise SpecError(f"{what} needs from 2 to {_MOST} bins, got {bins!r}.")
    if out is not None and (out.shape, out.dtype, out.device) != (w.shape, w.dtype, w.device):
        raise SpecError(f"{what}: out has to be like w: {tuple(w.shape)}, {w.dtype}, {w.device}.")
    if out is not None and not out.is_contiguous():
        raise SpecError(f"{what}: out has to be contiguous.")
    flat = w.reshape(-1).contiguous()
    flat = flat.to(flat.device if flat.device.type in ("cpu", "cuda") else "cpu", check.width(w.dtype))
    low, high = _range(flat, group, what)
    if low >= high or not (step or l1):  # no weight at all has an infinite range
        ended = flat
        if l1 and flat.numel():
            ended = flat.new_full(flat.shape, _ways(np.array([low]), np.array([low]), l1, rewind)[0])
        bound = 2 * abs(low) * torch.finfo(w.dtype).eps if ended is not flat else 0.0
        return _filled(w, out, lambda answer: answer.copy_(ended), flat), bound
    scale = (bins << UNIT) / (high - low)
    if not math.isfinite(scale) or not scale:
        raise NoBins(f"{what}: from {low} to {high} is no range that can be cut into bins. Call prox_pairwise.")
    nothing = torch.empty(0, dtype=torch.float64, device=flat.device)
    grid = Grid(low, scale, bins, nothing.int(), nothing, nothing, 1)
    kernels = on(flat.device)
    found = _over(group, kernels.count(flat, grid), "SUM")
    grid, found = _split(flat, grid, found, group)
    table, bound = _solved(grid, found.cpu().numpy(), step, l1, rewind)
    rounded = torch.from_numpy(table.astype(np.float64 if flat.dtype == torch.float64 else np.float32)).to(flat.device)
    most = max(abs(low), abs(high))
    bound += most * (2 * torch.finfo(w.dtype).eps + grid.leaves * torch.finfo(torch.float64).eps)
    bound += torch.finfo(w.dtype).tiny  # numbers below it are rounded more coarsely
    return _filled(w, out, lambda answer: kernels.read(flat, grid, rounded, answer), flat), bound


def _filled(w: Tensor, out: Tensor | None, fill: Callable[[Tensor], Any], flat: Tensor) -> Tensor:
    """`out`, or a new tensor like `w`, filled by a function that writes to a tensor like `flat`."""
    target = torch.empty(w.shape, dtype=w.dtype, device=w.device) if out is None else out.detach()
    if (target.dtype, target.device) == (flat.dtype, flat.device):
        fill(target.view(-1))
        torch.autograd.graph.increment_version(target)  # kernels write behind autograd's back
    else:
        answer = torch.empty_like(flat)
        fill(answer)
        target.copy_(answer.view(w.shape))
    return target if out is None else out


def _range(flat: Tensor, group: "ProcessGroup | None", what: str) -> tuple[float, float]:
    """The least and the greatest weight of all processes."""
    ends = torch.full((3,), -torch.inf, dtype=torch.float64, device=flat.device)
    if flat.numel():
        low, high = on(flat.device).span(flat)
        ends[0], ends[1] = -low, high
    if not bool((ends < torch.inf).all()):  # also where one is NaN
        ends = torch.full_like(ends, torch.inf)
    low, high, bad = _over(group, ends, "MAX").tolist()
    if bad == math.inf:
        raise SpecError(f"{what}: {check.NOT_FINITE}")
    return -low, high


def _over(group: "ProcessGroup | None", numbers: Tensor, how: str) -> Tensor:
    """The sum or the maximum over a group of processes."""
    if group is not None:
        import torch.distributed as dist

        dist.all_reduce(numbers, getattr(dist.ReduceOp, how), group=group)
    return numbers


def _split(flat: Tensor, grid: Grid, found: Tensor, group: "ProcessGroup | None") -> tuple[Grid, Tensor]:
    """Split the bins that hold too many weights, between the least and the greatest of these; count these again."""
    counts = found[:, 0].cpu().numpy()
    heavy = torch.from_numpy((counts > max(1, counts.sum() // HEAVY)).nonzero()[0]).to(flat.device)
    if not len(heavy):
        return grid, found
    kernels = on(flat.device)
    child = torch.full((grid.bins,), -1, dtype=torch.int32, device=flat.device)
    child[heavy] = torch.arange(len(heavy), dtype=torch.int32, device=flat.device)
    ends = _over(group, kernels.extremes(flat, grid._replace(child=child), len(heavy)), "MAX")
    lows, spans = -ends[:, 0], ends.sum(1)
    parts = max(2, grid.bins // len(heavy)) if bool(spans.any()) else 1
    scales = torch.where(spans > 0, (parts << UNIT) / spans, 0.0).nan_to_num(posinf=0.0)
    grid = grid._replace(child=child, lows=lows, scales=scales, parts=parts)
    if parts == 1:
        again = torch.stack([found[heavy, 0], torch.zeros_like(heavy)], 1)
    else:
        again = _over(group, kernels.count(flat, grid), "SUM")
    found[heavy] = 0
    return grid, torch.cat([found, again])


def _ways(old: np.ndarray, new: np.ndarray, l1: float, rewind: float) -> np.ndarray:
    """Where clusters end that go from `old` to `new`, with a soft threshold and rewinding."""
    soft = np.sign(new) * np.maximum(np.abs(new) - l1, 0.0)
    if not rewind:
        return soft
    back = old + (1 - rewind) * (soft - old)
    return np.where(soft == 0, 0.0, back) if l1 else back


def _solved(
    grid: Grid, found: np.ndarray, step: float, l1: float = 0.0, rewind: float = 0.0
) -> tuple[np.ndarray, float]:
    """What each leaf's weights are multiplied by and moved by, (leaves, 2), and the bound without rounding.

    In numpy: these arrays are too short for torch's threads.
    """
    leaf, low, width = _leaves(grid, found[:, 0])
    count = found[leaf, 0].astype(np.float64)
    inside = width * (found[leaf, 1] / (count * 2.0**UNIT))
    means = low + inside
    up = np.minimum(width - inside, (count - 1) * inside)
    down = np.minimum(inside, (count - 1) * (width - inside))
    pool = on(torch.device("cpu")).pool
    ends, values = pool(*map(torch.from_numpy, (means, count)), torch.tensor([0, len(leaf)]), step)
    sizes = np.diff(ends.numpy(), prepend=0)
    beyond = np.concatenate([[-np.inf], values.numpy(), [np.inf]])
    before, y, after, alone = (
        np.repeat(column, sizes) for column in (beyond[:-2], beyond[1:-1], beyond[2:], sizes == 1)
    )
    most_up, most_down = up.max(), down.max()
    eta = step * (count - 1) / (count.sum() - 1)
    error = np.maximum(eta, np.maximum(y + up - after + most_down, before + most_up - y + down))
    widest = np.where(count > 1, width, 0.0).max()
    keeps = alone & (error <= widest)
    bound = np.where(keeps, error, max(most_up, most_down)).max() + width.max() * 2.0 ** (2 - UNIT)
    if l1 or rewind:
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        old = np.add.reduceat(means * count, starts) / np.add.reduceat(count, starts)
        y = _ways(np.repeat(old, sizes), y, l1, rewind)
        keeps &= (y != 0) | (l1 == 0)  # what the threshold takes goes to 0 exactly
        bound += (widest if l1 else 0.0) + 2 * rewind * (step + l1)
    table = np.zeros((len(found), 2))
    table[leaf, 0] = keeps
    table[leaf, 1] = y - np.where(keeps, means, 0.0)
    return table, float(bound)


def _leaves(grid: Grid, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leaves that hold weights, in order of their weights; where each begins; how wide it is."""
    leaf = counts.nonzero()[0]
    width = np.full(len(leaf), 2.0**UNIT / grid.scale)
    low = grid.low + leaf * width
    if not grid.child.numel():
        return leaf, low, width
    split = leaf >= grid.bins
    child, part = np.divmod(leaf[split] - grid.bins, grid.parts)
    scale = grid.scales.cpu().numpy()[child]
    width[split] = np.divide(2.0**UNIT, scale, out=np.zeros_like(scale), where=scale > 0)
    low[split] = grid.lows.cpu().numpy()[child] + part * width[split]
    order = np.argsort(low, kind="stable")
    return leaf[order], low[order], width[order]
