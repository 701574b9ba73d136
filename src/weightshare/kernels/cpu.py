"""Sorting, pooling and counting on the processor, compiled by numba; the functions of `plain`, faster.

Compiled functions let go of Python's lock, and large inputs are cut into one piece for each of torch's threads. numba's
own threads are not used: they end the process when two of Python's threads call them at once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from torch import Tensor

from weightshare.kernels import plain

ALONE = 1 << 20  # numbers for each thread: with fewer, starting it costs what it saves
_SIGN = np.int32(0x7FFFFFFF)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(nogil=True, cache=True, boundscheck=False)(function)
    except RuntimeError:  # no folder to keep the result in
        return numba.njit(nogil=True, boundscheck=False)(function)


def _in_pieces(n: int, work: Callable[[int, int, int], Any]) -> None:
    """Call `work(piece, start, stop)` for one piece of `range(n)` for each of torch's threads, all at once."""
    pieces = pieces_of(n)
    if pieces == 1:
        work(0, 0, n)
        return
    edges = [n * k // pieces for k in range(pieces + 1)]
    with ThreadPoolExecutor(pieces - 1) as others:
        running = [others.submit(work, k, edges[k], edges[k + 1]) for k in range(1, pieces)]
        work(0, 0, edges[1])
        for other in running:
            other.result()


def pieces_of(n: int) -> int:
    """Into how many pieces `n` numbers are cut."""
    return max(1, min(torch.get_num_threads(), n // ALONE))


@_compiled
def _pack(bits, keys, start, stop):
    for i in range(start, stop):
        b = bits[i]
        keys[i] = (np.int64(b ^ ((b >> 31) & _SIGN)) << 32) | np.int64(i)


@_compiled
def _unpack(keys, bits, order, start, stop):
    for i in range(start, stop):
        key = keys[i]
        b = np.int32(key >> 32)
        bits[i] = b ^ ((b >> 31) & _SIGN)
        order[i] = np.int32(key & np.int64(0xFFFFFFFF))


def sort(flat: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """As `plain.sort`. A float32 and its index make one 64-bit key: keys are sorted faster than indices."""
    n = flat.numel()
    if flat.dtype == torch.float32 and n < 2**31:
        keys = np.empty(n, np.int64)
        bits = flat.view(torch.int32).numpy()
        _in_pieces(n, lambda _, start, stop: _pack(bits, keys, start, stop))
        if len(bounds) == 2:  # one problem, as most are: what rows take is a tenth of the time of few weights
            keys.sort()
        else:
            for row in plain.rows(torch.from_numpy(keys), bounds):
                row.numpy().sort(axis=-1)
        places, order = torch.empty_like(flat), torch.empty(n, dtype=torch.int32)
        into, at = places.view(torch.int32).numpy(), order.numpy()
        _in_pieces(n, lambda _, start, stop: _unpack(keys, into, at, start, stop))
        return places, order
    return plain.sort(flat, bounds)


@_compiled
def _pool(places, masses, bounds, step, ends, values, sums, edges):
    """Blocks end at particle `ends` and at mass `edges` of their segment, weigh `sums` in all and stand at `values`."""
    unit = masses.size == 0
    top = 0
    for k in range(bounds.size - 1):
        start, stop = bounds[k], bounds[k + 1]
        floor = top
        total = float(stop - start)
        if not unit:
            total = 0.0
            for i in range(start, stop):
                total += masses[i]
        pace = step / (total - 1.0) if stop - start > 1 else 0.0
        edge = 0.0
        i = start
        while i < stop:
            mass = 1.0 if unit else masses[i]
            while i + 1 < stop and places[i + 1] == places[i]:  # equal places meet at once, and stay exact
                i += 1
                mass += 1.0 if unit else masses[i]
            below = edge
            edge += mass
            weighed = float(places[i]) * mass
            value = float(places[i]) + pace * (total - 2.0 * below - mass)
            while top > floor and values[top - 1] >= value:
                top -= 1
                weighed += sums[top]
                below = edges[top - 1] if top > floor else 0.0
                mass = edge - below
                value = weighed / mass + pace * (total - 2.0 * below - mass)
            ends[top] = i + 1
            values[top] = value
            sums[top] = weighed
            edges[top] = edge
            top += 1
            i += 1
    return top


def pool(places: Tensor, masses: Tensor | None, bounds: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """As `plain.pool`, by one pass with a stack."""
    n = places.numel()
    ends, (values, sums, edges) = np.empty(n, np.int64), (np.empty(n) for _ in range(3))
    weights = np.empty(0) if masses is None else masses.numpy()
    count = _pool(places.numpy(), weights, bounds.numpy(), step, ends, values, sums, edges)
    return torch.from_numpy(ends[:count]), torch.from_numpy(values[:count])


@_compiled
def _spread(ends, values, order, out, labels, first, last):
    for block in range(first, last):
        value = values[block]
        for i in range(ends[block - 1] if block else 0, ends[block]):
            out[order[i]] = value
        if labels.size:
            for i in range(ends[block - 1] if block else 0, ends[block]):
                labels[order[i]] = block


def spread(ends: Tensor, values: Tensor, order: Tensor, out: Tensor, labels: Tensor | None) -> None:
    """As `plain.spread`."""
    blocks = ends.numpy()
    rounded = values.numpy().astype(out.numpy().dtype)
    numbers = np.empty(0, np.int64) if labels is None else labels.numpy()
    _spread(blocks, rounded, order.numpy(), out.numpy(), numbers, 0, blocks.size)


def span(flat: Tensor) -> tuple[float, float]:
    """As `plain.span`."""
    numbers = flat.numpy()
    return float(numbers.min()), float(numbers.max())


@_compiled
def _by_label(flat, labels, sums):
    """Add up four numbers in turn, so that none waits for the one before."""
    whole = flat.size - flat.size % 4
    for i in range(0, whole, 4):
        sums[0, labels[i]] += flat[i]
        sums[1, labels[i + 1]] += flat[i + 1]
        sums[2, labels[i + 2]] += flat[i + 2]
        sums[3, labels[i + 3]] += flat[i + 3]
    for i in range(whole, flat.size):
        sums[0, labels[i]] += flat[i]


def by_label(flat: Tensor, labels: Tensor, count: int) -> Tensor:
    """As `plain.by_label`, in float64 and by one pass."""
    sums = np.zeros((4, count))
    _by_label(flat.contiguous().numpy(), _pointing(labels, count), sums)
    return torch.from_numpy(sums.sum(0)).to(flat.dtype)


@_compiled
def _take(values, labels, out):
    for i in range(labels.size):
        out[i] = values[labels[i]]


def take(values: Tensor, labels: Tensor) -> Tensor:
    """As `plain.take`, without widening the labels."""
    if values.dtype not in (torch.float32, torch.float64):
        return plain.take(values, labels)
    out = values.new_empty(labels.numel())
    # A copy: a tensor that numpy has seen cannot be resized any more, which FSDP does with parameters.
    _take(values.clone(memory_format=torch.contiguous_format).numpy(), _pointing(labels, len(values)), out.numpy())
    return out


def _pointing(labels: Tensor, count: int) -> np.ndarray:
    """Labels for compiled code, which does not look where they point."""
    at = labels.contiguous().numpy()
    if at.size and not (int(at.min()) >= 0 and int(at.max()) < count):
        raise IndexError(f"A label is not one of {count:,}: it points nowhere.")
    return at


# numba keeps what it compiled until this file changes: after a change of `plain.UNIT`, change this one too.
_UNIT = np.int64(plain.UNIT)
_MASK = np.int64((1 << plain.UNIT) - 1)


@_compiled
def _count(flat, low, scale, bins, child, lows, scales, parts, found, start, stop):
    last = (np.int64(bins) << _UNIT) - 1
    last_part = (np.int64(parts) << _UNIT) - 1
    split = child.size > 0
    for i in range(start, stop):
        number = float(flat[i])
        place = max(np.int64(0), min(np.int64((number - low) * scale), last))
        leaf = place >> _UNIT
        if split:
            k = child[leaf]
            if k < 0:
                continue
            place = max(np.int64(0), min(np.int64((number - lows[k]) * scales[k]), last_part))
            leaf = k * parts + (place >> _UNIT)
        found[leaf, 0] += 1
        found[leaf, 1] += place & _MASK


def _numpy(grid: plain.Grid) -> tuple:
    arrays = (grid.child.numpy(), grid.lows.numpy(), grid.scales.numpy())
    return grid.low, grid.scale, grid.bins, *arrays, grid.parts


def count(flat: Tensor, grid: plain.Grid) -> Tensor:
    """As `plain.count`."""
    bins = grid.leaves - grid.bins if grid.child.numel() else grid.bins
    found = np.zeros((pieces_of(flat.numel()), bins, 2), np.int64)
    numbers, where = flat.numpy(), _numpy(grid)
    _in_pieces(flat.numel(), lambda piece, start, stop: _count(numbers, *where, found[piece], start, stop))
    for other in found[1:]:
        found[0] += other
    return torch.from_numpy(found[0])


@_compiled
def _extremes(flat, low, scale, bins, child, found, start, stop):
    last = (np.int64(bins) << _UNIT) - 1
    for i in range(start, stop):
        number = float(flat[i])
        k = child[max(np.int64(0), min(np.int64((number - low) * scale), last)) >> _UNIT]
        if k >= 0:
            found[k, 0] = max(found[k, 0], -number)
            found[k, 1] = max(found[k, 1], number)


def extremes(flat: Tensor, grid: plain.Grid, children: int) -> Tensor:
    """As `plain.extremes`."""
    found = np.full((pieces_of(flat.numel()), children, 2), -np.inf)
    numbers, where = flat.numpy(), _numpy(grid)[:4]
    _in_pieces(flat.numel(), lambda piece, start, stop: _extremes(numbers, *where, found[piece], start, stop))
    return torch.from_numpy(found.max(0))


@_compiled
def _read(flat, low, scale, bins, child, lows, scales, parts, table, out, start, stop):
    last = (np.int64(bins) << _UNIT) - 1
    last_part = (np.int64(parts) << _UNIT) - 1
    split = child.size > 0
    for i in range(start, stop):
        number = float(flat[i])
        leaf = max(np.int64(0), min(np.int64((number - low) * scale), last)) >> _UNIT
        if split:
            k = child[leaf]
            if k >= 0:
                place = max(np.int64(0), min(np.int64((number - lows[k]) * scales[k]), last_part))
                leaf = bins + k * parts + (place >> _UNIT)
        out[i] = flat[i] * table[leaf, 0] + table[leaf, 1]


def read(flat: Tensor, grid: plain.Grid, table: Tensor, out: Tensor) -> None:
    """As `plain.read`."""
    numbers, into, rows, where = flat.numpy(), out.numpy(), table.numpy(), _numpy(grid)
    _in_pieces(flat.numel(), lambda _, start, stop: _read(numbers, *where, rows, into, start, stop))
