# pyright: reportGeneralTypeIssues=false
# triton is not installed everywhere, and its functions are no Python.
"""Counting and reading in bins on a graphics card, compiled by triton; sorting and pooling are torch's own there.

Whole numbers are added with atomics, so the counts do not depend on the order in which programs run.
"""

from typing import Any

import torch
from torch import Tensor
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from weightshare.kernels import plain
from weightshare.kernels.plain import by_label, pool, sort, span, spread, take

__all__ = ["by_label", "count", "extremes", "pool", "read", "sort", "span", "spread", "take"]

BLOCK = 1024
_UNIT = tl.constexpr(plain.UNIT)


@triton.jit
def _place(number, low, scale, last):
    return tl.minimum(tl.maximum(((number - low) * scale).to(tl.int64), 0), last)


@triton.jit
def _find(number, low, scale, bins, last, child, lows, scales, parts, last_part, mask, SPLIT: tl.constexpr):
    """Each number's leaf, its place in it, and whether it lies in a child."""
    place = _place(number, low, scale, last)
    leaf = place >> _UNIT
    inside = mask & (leaf < 0)
    if SPLIT:
        k = tl.load(child + leaf, mask=mask, other=-1)
        inside = mask & (k >= 0)
        at = tl.maximum(k, 0)
        start = tl.load(lows + at, mask=inside, other=0.0)
        part = _place(number, start, tl.load(scales + at, mask=inside, other=0.0), last_part)
        leaf = tl.where(inside, bins + at.to(tl.int64) * parts + (part >> _UNIT), leaf)
        place = tl.where(inside, part, place)
    return leaf, place - ((place >> _UNIT) << _UNIT), inside


@triton.jit
def _count(
    flat, ends, bins, last, child, lows, scales, parts, last_part, found, n, SPLIT: tl.constexpr, SIZE: tl.constexpr
):
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = index < n
    number = tl.load(flat + index, mask=mask, other=0.0).to(tl.float64)
    low, scale = tl.load(ends), tl.load(ends + 1)
    leaf, place, inside = _find(number, low, scale, bins, last, child, lows, scales, parts, last_part, mask, SPLIT)
    if SPLIT:
        leaf -= bins
        mask = inside
    tl.atomic_add(found + 2 * leaf, tl.full([SIZE], 1, tl.int64), mask=mask)
    tl.atomic_add(found + 2 * leaf + 1, place, mask=mask)


@triton.jit
def _extremes(flat, ends, last, child, found, n, SIZE: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = index < n
    number = tl.load(flat + index, mask=mask, other=0.0).to(tl.float64)
    leaf = _place(number, tl.load(ends), tl.load(ends + 1), last) >> _UNIT
    k = tl.load(child + leaf, mask=mask, other=-1)
    tl.atomic_max(found + 2 * k, -number, mask=mask & (k >= 0))
    tl.atomic_max(found + 2 * k + 1, number, mask=mask & (k >= 0))


@triton.jit
def _read(
    flat,
    ends,
    bins,
    last,
    child,
    lows,
    scales,
    parts,
    last_part,
    table,
    out,
    n,
    SPLIT: tl.constexpr,
    SIZE: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = index < n
    number = tl.load(flat + index, mask=mask, other=0.0)
    wide = number.to(tl.float64)
    low, scale = tl.load(ends), tl.load(ends + 1)
    leaf, _, _ = _find(wide, low, scale, bins, last, child, lows, scales, parts, last_part, mask, SPLIT)
    slope = tl.load(table + 2 * leaf, mask=mask, other=0.0)
    shift = tl.load(table + 2 * leaf + 1, mask=mask, other=0.0)
    tl.store(out + index, number * slope + shift, mask=mask)


def count(flat: Tensor, grid: plain.Grid) -> Tensor:
    """As `plain.count`."""
    split = grid.child.numel() > 0
    found = torch.zeros(grid.leaves - grid.bins if split else grid.bins, 2, dtype=torch.int64, device=flat.device)
    _launch(_count, flat, *_where(grid), found, grid=grid, SPLIT=split)
    return found


def extremes(flat: Tensor, grid: plain.Grid, children: int) -> Tensor:
    """As `plain.extremes`."""
    found = torch.full((children, 2), -torch.inf, dtype=torch.float64, device=flat.device)
    _launch(_extremes, flat, (grid.bins << plain.UNIT) - 1, grid.child, found, grid=grid)
    return found


def read(flat: Tensor, grid: plain.Grid, table: Tensor, out: Tensor) -> None:
    """As `plain.read`."""
    _launch(_read, flat, *_where(grid), table, out, grid=grid, SPLIT=grid.child.numel() > 0)


def _where(grid: plain.Grid) -> tuple[Any, ...]:
    last, last_part = (grid.bins << plain.UNIT) - 1, (grid.parts << plain.UNIT) - 1
    return grid.bins, last, grid.child, grid.lows, grid.scales, grid.parts, last_part


def _launch(kernel: Any, flat: Tensor, *arguments: Any, grid: plain.Grid, **constants: Any) -> None:
    """Run a kernel over all numbers. The range goes in as a tensor, since scalars would be narrowed to float32."""
    ends = torch.tensor([grid.low, grid.scale], dtype=torch.float64, device=flat.device)
    n = flat.numel()
    if n:
        kernel[(triton.cdiv(n, BLOCK),)](flat, ends, *arguments, n, SIZE=BLOCK, **constants)
