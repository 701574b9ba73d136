"""Assignments of positions: which positions of a layer read one kernel.

During sleep the input of a layer repeats with a period, so positions that are a period apart see the same, and can
find the same weights. Along an axis with stride `s` positions `i` and `i'` share when `s·i ≡ s·i' (mod k)`: there are
`k` classes where `s` and `k` have no common divisor, fewer where they have, and one for a kernel of one tap. A layer's
classes, the paper's *modules*, are the combinations over its axes.

In the grid: items are positions, slots are kernels. Source: Pogodin 2021, section 4.1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Literal

import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.sharing import Assignment
from weightshare.space.layer import Axis, LocalLayer

Index = tuple[slice, ...] | Tensor
"""Where the positions of one class are: one slice per spatial axis, or their numbers, positions counted in one axis."""


@dataclass(frozen=True)
class Lattice:
    """Which positions of a layer share.

    Args:
        period: Of the repeating input, one number or one for each axis. `None` is the paper's: the kernel's size, and
            with dilation the smallest that tells its taps apart. 1 is one class of all positions, a convolution.
        borders: Whether positions that see padding share with those that do not (`"together"`, as in the paper), or
            only with positions that see padding at the same taps (`"apart"`).
        labels: Instead: the class of each position, in the order of memory, for a layer of that many positions.

    Raises:
        SpecError: If a value is out of its range, or `labels` comes with other fields.

    Source: Pogodin 2021, section 4.1. Differs: dilation, `"apart"` and labels are not in the paper.

    Example:
        >>> from weightshare.space.local import LocallyConnected2d
        >>> Lattice().assignment(LocallyConnected2d(1, 1, 3, input_size=(4, 5), padding=1)).labels.view(4, 5)
        tensor([[0, 1, 2, 0, 1],
                [3, 4, 5, 3, 4],
                [6, 7, 8, 6, 7],
                [0, 1, 2, 0, 1]])
    """

    period: int | tuple[int, ...] | None = None
    borders: Literal["together", "apart"] = "together"
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        periods = (self.period,) if isinstance(self.period, int) else self.period or (1,)
        if not isinstance(periods, tuple) or any(type(one) is not int or one < 1 for one in periods):
            raise SpecError(f"Lattice(period={self.period!r}): need whole numbers of at least 1, or None.")
        if self.borders not in ("together", "apart"):
            raise SpecError(f"Lattice(borders={self.borders!r}): need 'together' or 'apart'.")
        if self.labels is not None:
            if self.period is not None or self.borders != "together":
                raise SpecError("Lattice: labels say all; leave out period and borders.")
            object.__setattr__(self, "labels", tuple(self.labels))
            Assignment.of(self.labels)

    def assignment(self, layer: LocalLayer) -> Assignment:
        """The class of each position of a layer, positions in the order of memory.

        Raises:
            SpecError: If labels are for another number of positions, or periods for another number of axes.
        """
        if self.labels is not None:
            return Assignment.of(self._own_labels(layer.axes))
        codes = [self._codes(axis, period) for axis, period in zip(layer.axes, self.periods(layer.axes), strict=True)]
        mixed = codes[0]
        for code in codes[1:]:
            mixed = (mixed[..., None] * (int(code.max()) + 1) + code).flatten()
        return Assignment(mixed.unique(return_inverse=True)[1].to(torch.int64))

    def classes(self, layer: LocalLayer) -> Iterator[Index]:
        """Where the positions of each class are: as slices where classes are regular, which need no copies."""
        if self.labels is None and self.borders == "together":
            steps = [
                (period // gcd(axis.stride, period), axis.positions)
                for axis, period in zip(layer.axes, self.periods(layer.axes), strict=True)
            ]
            yield from product(*([slice(at, None, step) for at in range(min(step, n))] for step, n in steps))
        else:
            for readers in self.assignment(layer).readers:
                yield torch.tensor(readers)

    def periods(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """The period along each axis."""
        if self.period is None:
            return tuple(period(axis.kernel, axis.dilation) for axis in axes)
        periods = (self.period,) * len(axes) if isinstance(self.period, int) else self.period
        if len(periods) != len(axes):
            raise SpecError(f"Lattice(period={self.period}): the layer has {len(axes)} axes of positions.")
        return periods

    def _codes(self, axis: Axis, period: int) -> Tensor:
        phase = torch.arange(axis.positions) * axis.stride % period
        if self.borders == "together":
            return phase
        seen = axis.inside().unique(dim=0, return_inverse=True)[1]
        return phase * (int(seen.max()) + 1) + seen

    def _own_labels(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        assert self.labels is not None
        needed = prod(axis.positions for axis in axes)
        if len(self.labels) != needed:
            raise SpecError(f"Lattice: {len(self.labels)} labels are given, the layer has {needed} positions.")
        return self.labels


def period(kernel: int, dilation: int = 1) -> int:
    """The smallest period, at least `kernel`, in which the taps of a dilated kernel see different inputs.

    Example:
        >>> period(3), period(3, 2), period(4, 2), period(1, 7)
        (3, 3, 5, 1)
    """
    found = kernel
    while len({dilation * tap % found for tap in range(kernel)}) < kernel:
        found += 1
    return found
