"""Sorting, pooling and counting in plain torch: any device, nothing to install, and the twin that tests compare with.

`pool` merges whole runs of colliding neighbours at once, which is fast on all but built worst cases; after `ROUNDS`
rounds what is left is finished one by one.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROUNDS = 64
UNIT = 30  # places inside a bin are counted in 2**-30 of its width: sums of whole numbers do not depend on their order
PIECE = 1 << 22  # numbers that are looked at at once, to bound the memory that takes


class Grid(NamedTuple):
    """Bins of equal width, some of which are split once more.

    Bin b holds what is `b · 2**UNIT` or more `scale`ths above `low`; the last one also what would come after. Bin b is
    split if `child[b] >= 0`: then part p of child k has number `bins + k · parts + p`.
    """

    low: float
    scale: float
    bins: int
    child: Tensor  # (bins) of int32, or of no number where nothing is split
    lows: Tensor  # (children) of float64
    scales: Tensor  # (children) of float64; 0 where all numbers of a child are equal
    parts: int

    @property
    def leaves(self) -> int:
        return self.bins + self.parts * self.lows.numel()


def sort(flat: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Each segment in ascending order, and where each value was; ties in any order.

    Args:
        flat: (n), float32 or float64.
        bounds: As for `pool`.

    Returns:
        The values, (n), and their indices in `flat`, (n) of int32 or int64. What is not finite comes first or last.
    """
    if flat.device.type == "cpu":  # numpy's sort is several times faster than torch's there
        order = torch.empty(flat.numel(), dtype=torch.int64)
        for row, at, start in zip(rows(flat, bounds), rows(order, bounds), bounds.tolist(), strict=False):
            at.copy_(torch.from_numpy(np.argsort(row.numpy(), axis=-1)))
            at += start + row.shape[-1] * torch.arange(row.shape[0])[:, None]
        return flat[order], order
    values, order = torch.empty_like(flat), torch.empty_like(flat, dtype=torch.int64)
    for row, into, at, start in zip(
        rows(flat, bounds), rows(values, bounds), rows(order, bounds), bounds.tolist(), strict=False
    ):
        torch.sort(row, dim=-1, out=(into, at))
        at += start + row.shape[-1] * torch.arange(row.shape[0], device=flat.device)[:, None]
    return values, order


def by_label(flat: Tensor, labels: Tensor, count: int) -> Tensor:
    """The sum of the numbers of each label.

    Summed in rows first: one long sum would round more, and on a GPU all threads would wait for few numbers.

    Args:
        flat: (n), float32 or float64.
        labels: (n), integers from 0 to `count` − 1.
        count: How many labels there are.

    Returns:
        (count), like `flat`.
    """
    rows = max(1, min(4096, len(flat) // (8 * count)))
    row = torch.arange(len(flat), dtype=torch.int32, device=flat.device) % rows
    sums = flat.new_zeros(rows * count).index_add(0, row * count + labels, flat)
    return sums.view(rows, count).sum(0)


def take(values: Tensor, labels: Tensor) -> Tensor:
    """The value of each label.

    Args:
        values: (count), of any dtype.
        labels: (n), integers from 0 to `count` − 1.

    Returns:
        (n), like `values`.
    """
    return values.index_select(0, labels.int())  # uint8 would be a mask: int32 is the least that torch selects by


def rows(flat: Tensor, bounds: Tensor) -> list[Tensor]:
    """The segments as views, each one row; a single view of all rows where all are of one size."""
    sizes = bounds.diff().tolist()
    if len(set(sizes)) == 1:
        return [flat.view(len(sizes), sizes[0])]
    return [part[None] for part in flat.split(sizes)]


def pool(places: Tensor, masses: Tensor | None, bounds: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Let sorted sticky particles move for unit time: isotonic regression of place plus velocity, per segment.

    Args:
        places: (n), sorted within each segment.
        masses: (n) of float64, or `None` for ones.
        bounds: (segments + 1) of int64, ascending from 0 to n: particles `bounds[k]` to `bounds[k+1]` are segment k.
        step: Velocities are `step (mass above − mass below) / (total mass − 1)`.

    Returns:
        `ends` and `values`, one per block in order: a block's particles end before `ends` and stand at `values`, in
        float64. Blocks do not cross segments; within a segment values ascend strictly.
    """
    n, device = places.numel(), places.device
    if not n:
        return bounds.new_zeros(0).to(device), places.new_zeros(0, dtype=torch.float64)
    bounds = bounds.to(device)
    sizes = bounds.diff()
    segment = torch.repeat_interleave(torch.arange(sizes.numel(), device=device), sizes, output_size=n)
    mass = torch.ones(n, dtype=torch.float64, device=device) if masses is None else masses
    total = torch.zeros(sizes.numel(), dtype=torch.float64, device=device).index_add_(0, segment, mass)
    pace = torch.where(sizes > 1, step / (total - 1), 0.0)
    sums = places.double() * mass
    below = mass.cumsum(0) - mass
    ends = torch.arange(1, n + 1, device=device)
    below -= torch.repeat_interleave(below[bounds[:-1].clamp(max=n - 1)], sizes, output_size=n)
    stands = places.double()  # not sums / mass, which may differ in the last bit
    for turn in range(ROUNDS):
        values = stands + pace[segment] * (total[segment] - 2 * below - mass)
        meet = stands[:-1] == stands[1:] if not turn else values[:-1] >= values[1:]  # equal places meet at once
        hits = meet & (segment[:-1] == segment[1:])
        first = torch.cat([hits.new_ones(1), ~hits])
        block = first.cumsum(0) - 1
        if turn and bool(first.all()):
            return ends, values
        count = int(block[-1]) + 1
        sums = sums.new_zeros(count).index_add_(0, block, sums)
        mass = mass.new_zeros(count).index_add_(0, block, mass)
        last = torch.cat([~hits, hits.new_ones(1)])
        stands = torch.where(last[first], stands[first], sums / mass) if turn else stands[first]
        below, segment, ends = below[first], segment[first], ends[last]
    return _one_by_one(sums, mass, below, segment, ends, pace, total)


def _one_by_one(
    sums: Tensor, mass: Tensor, below: Tensor, segment: Tensor, ends: Tensor, pace: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """Pool what is left with a stack; linear in the number of blocks whatever they are."""
    paces, totals = pace.tolist(), total.tolist()
    stack: list[tuple[float, float, float, float, int, int]] = []
    for s, m, b, k, end in zip(*(column.tolist() for column in (sums, mass, below, segment, ends)), strict=True):
        value = s / m + paces[k] * (totals[k] - 2 * b - m)
        while stack and stack[-1][4] == k and stack[-1][0] >= value:
            _, s0, m0, b, _, _ = stack.pop()
            s, m = s + s0, m + m0
            value = s / m + paces[k] * (totals[k] - 2 * b - m)
        stack.append((value, s, m, b, k, end))
    final = torch.tensor([entry[5] for entry in stack], dtype=torch.int64, device=sums.device)
    return final, torch.tensor([entry[0] for entry in stack], dtype=torch.float64, device=sums.device)


def spread(ends: Tensor, values: Tensor, order: Tensor, out: Tensor, labels: Tensor | None) -> None:
    """Give every particle the value of its block, and its block's number: `out[order[i]] = values[block of i]`.

    Args:
        ends: As `pool` returns them.
        values: As `pool` returns them.
        order: (n) of int: where each sorted particle goes.
        out: (n), overwritten.
        labels: (n) of int64, overwritten, or `None`.
    """
    sizes = ends.diff(prepend=ends.new_zeros(1))
    order = order.long()
    out[order] = torch.repeat_interleave(values.to(out.dtype), sizes, output_size=out.numel())
    if labels is not None:
        block = torch.arange(ends.numel(), device=ends.device)
        labels[order] = torch.repeat_interleave(block, sizes, output_size=out.numel())


def span(flat: Tensor) -> tuple[float, float]:
    """The least and the greatest number; NaN if one is."""
    low, high = torch.aminmax(flat)
    return float(low), float(high)


def count(flat: Tensor, grid: Grid) -> Tensor:
    """How many numbers each bin holds, and the sum of their places in it, in `2**-UNIT` of its width.

    Args:
        flat: (n), float32 or float64, finite.
        grid: Where it has children, only what falls into them is counted, in (children · parts) bins.

    Returns:
        (bins, 2) of int64.
    """
    split = grid.child.numel() > 0
    found = torch.zeros(grid.leaves - grid.bins if split else grid.bins, 2, dtype=torch.int64, device=flat.device)
    for piece in flat.split(PIECE):
        if split:
            leaf, place = _leaf(piece, grid)
            inside = leaf >= grid.bins
            leaf, place = leaf[inside] - grid.bins, place[inside]
        else:
            leaf, place = _place(piece, grid.low, grid.scale, grid.bins)
        found[:, 0] += torch.bincount(leaf, minlength=len(found))
        found[:, 1].scatter_add_(0, leaf, place)
    return found


def extremes(flat: Tensor, grid: Grid, children: int) -> Tensor:
    """The least number of each child, negated, and the greatest: (children, 2) of float64; −inf where it has none."""
    found = torch.full((children, 2), -torch.inf, dtype=torch.float64, device=flat.device)
    for piece in flat.split(PIECE):
        child = grid.child[_place(piece, grid.low, grid.scale, grid.bins)[0]].long()
        child, piece = child[child >= 0], piece[child >= 0].double()
        found[:, 0].scatter_reduce_(0, child, -piece, "amax")
        found[:, 1].scatter_reduce_(0, child, piece, "amax")
    return found


def read(flat: Tensor, grid: Grid, table: Tensor, out: Tensor) -> None:
    """`out = slope · flat + shift`, with the slope and the shift of each number's bin.

    Args:
        flat: As for `count`.
        grid: The bins.
        table: (leaves, 2) of slopes and shifts, of the dtype of `flat`.
        out: Like `flat`; may be `flat` itself.
    """
    for piece, into in zip(flat.split(PIECE), out.split(PIECE), strict=True):
        slope, shift = table[_leaf(piece, grid)[0]].unbind(1)
        torch.add(piece * slope, shift, out=into)


def _place(piece: Tensor, low: float | Tensor, scale: float | Tensor, bins: int) -> tuple[Tensor, Tensor]:
    place = ((piece.double() - low) * scale).long().clamp_(0, (bins << UNIT) - 1)
    return place >> UNIT, place & ((1 << UNIT) - 1)


def _leaf(piece: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    leaf, place = _place(piece, grid.low, grid.scale, grid.bins)
    if grid.child.numel():
        child = grid.child[leaf].long()
        inside = child >= 0
        child = child[inside]
        part, place[inside] = _place(piece[inside], grid.lows[child], grid.scales[child], grid.parts)
        leaf[inside] = grid.bins + child * grid.parts + part
    return leaf, place
