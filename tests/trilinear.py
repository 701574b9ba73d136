"""A local layer as sums over positions and taps, number by number of the grid, and geometries to compare it on."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from weightshare.space.products import Geometry


class Case(NamedTuple):
    """A geometry, and what it is applied to; numbers are primes, so that no two axes can be taken for one another."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    groups: int = 1
    inner: int = 3
    outer: int = 5
    batch: int = 2

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.kernel, self.stride, self.dilation, self.low, self.high, self.groups)

    @property
    def positions(self) -> tuple[int, ...]:
        return self.geometry.positions(self.size)

    def operands(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        """The input, channels last, the kernels, and the gradient of the output."""
        x = torch.randn(self.batch, *self.size, self.groups * self.inner, dtype=dtype).movedim(-1, 1)
        inner = self.geometry.taps * self.inner
        w = torch.randn(*self.positions, self.groups, inner, self.outer, dtype=dtype)
        return x, w, torch.randn(self.batch, *self.positions, self.groups * self.outer, dtype=dtype).movedim(-1, 1)


CASES = {
    "1d": Case((11,), (3,), (1,), (1,), (1,), (1,)),
    "1d, even kernel, stride, more behind": Case((13,), (4,), (3,), (2,), (1,), (3,), 2, 3, 5, 7),
    "1d, all seen at once": Case((7,), (7,), (1,), (1,), (0,), (0,)),
    "3x3": Case((5, 7), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "1x1": Case((3, 5), (1, 1), (1, 1), (1, 1), (0, 0), (0, 0), 1, 7, 5, 3),
    "1x1, stride": Case((5, 7), (1, 1), (2, 3), (1, 1), (0, 0), (0, 0), 1, 7, 5, 3),
    "stride": Case((7, 11), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), 1, 3, 2, 5),
    "stride over the kernel": Case((11, 13), (2, 3), (5, 4), (1, 1), (0, 1), (1, 0)),
    "stride and dilation": Case((13, 11), (3, 2), (2, 3), (3, 2), (2, 1), (5, 0), 2, 3, 2, 3),
    "stride divides dilation": Case((11, 13), (3, 3), (2, 2), (4, 2), (3, 2), (3, 2)),
    "rectangle, even, low below high": Case((5, 7), (2, 4), (1, 1), (1, 1), (0, 1), (1, 2), 1, 2, 3, 5),
    "dilation": Case((7, 11), (3, 3), (1, 1), (2, 3), (2, 3), (2, 3)),
    "no padding": Case((5, 7), (3, 2), (1, 1), (1, 1), (0, 0), (0, 0)),
    "more padding than kernel": Case((3, 2), (2, 3), (1, 1), (1, 1), (3, 0), (2, 4)),
    "groups": Case((3, 5), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 3, 2, 5, 7),
    "depthwise": Case((5, 3), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 5, 1, 1, 3),
    "low above high": Case((5, 3), (3, 3), (1, 1), (1, 1), (2, 1), (0, 1)),
    "3d": Case((3, 5, 2), (2, 3, 2), (1, 1, 1), (1, 1, 1), (1, 1, 0), (0, 1, 1), 1, 2, 3, 2),
    "3d, stride, groups": Case((5, 3, 7), (3, 2, 3), (2, 1, 3), (1, 2, 1), (1, 0, 1), (0, 1, 1), 2, 2, 3, 2),
}


def seen(case: Case) -> Iterator[tuple[tuple[int, ...], int, tuple[int, ...]]]:
    """Each position, the number of each of its taps, and where in the input it lies; not those outside."""
    for p in product(*map(range, case.positions)):
        for number, tap in enumerate(product(*map(range, case.kernel))):
            rows = zip(p, tap, case.stride, case.dilation, case.low, strict=True)
            at = tuple(s * i + d * t - low for i, t, s, d, low in rows)
            if all(0 <= q < n for q, n in zip(at, case.size, strict=True)):
                yield p, number, at


def naive(case: Case, x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`forward(x, w)`, `spread(g, w)` and `correlate(x, g)`, each a sum written out."""
    out, by_x, by_w = torch.zeros_like(g), torch.zeros_like(x), torch.zeros_like(w)
    taps = w.unflatten(-2, (-1, case.inner))
    summed = by_w.view(taps.shape)
    read, held = x.unflatten(1, (case.groups, -1)), g.unflatten(1, (case.groups, -1))
    into, back = out.unflatten(1, (case.groups, -1)), by_x.unflatten(1, (case.groups, -1))
    for p, t, q in seen(case):
        one, some, every = (..., *p), (..., *q), slice(None)
        kernel = taps[(*p, every, t)]
        into[one] += torch.einsum("ngc,gco->ngo", read[some], kernel)
        back[some] += torch.einsum("ngo,gco->ngc", held[one], kernel)
        summed[(*p, every, t)] += torch.einsum("ngc,ngo->gco", read[some], held[one])
    return out, by_x, by_w
