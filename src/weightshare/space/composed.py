"""The products of local layers as plain operations of torch, for exporters.

`products` makes them piece by piece in memory that it manages itself, as operators of this library: nothing that runs
an exported network knows these. Here each is one batched product over positions on all patches at once, which takes
more memory and needs nothing. `TABLE` is what `ExportedProgram.run_decompositions` takes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from weightshare.space.products import Geometry, forward, spread


def composed_forward(x: Tensor, w: Tensor, geometry: list[int], groups: int) -> Tensor:
    """`products.forward`: `out[p] = patches(x)[p] · w[p]`; arguments and result as there."""
    shape = Geometry.of(geometry, groups)
    axes = len(shape.kernel)
    seen = functional.pad(x, _widths(shape.low, shape.high)).unflatten(1, (groups, -1))
    for axis, (count, taps, step, dilation) in enumerate(zip(w.shape, *shape[:3], strict=False)):
        starts = torch.arange(0, count * step, step, device=x.device)
        index = starts[:, None] + torch.arange(0, taps * dilation, dilation, device=x.device)
        seen = seen.index_select(3 + 2 * axis, index.flatten()).unflatten(3 + 2 * axis, (count, taps))
    positions, taps = range(3, 3 + 2 * axes, 2), range(4, 4 + 2 * axes, 2)
    patches = seen.permute(*positions, 1, 0, *taps, 2).flatten(axes + 2)
    return _channels_second(patches @ w)


def composed_spread(g: Tensor, w: Tensor, size: list[int], geometry: list[int], groups: int) -> Tensor:
    """`products.spread`: what positions hold, times their kernels turned round, added up where the taps lie.

    Adding up is a transposed convolution by unit kernels: one for each tap.
    """
    shape = Geometry.of(geometry, groups)
    axes = len(size)
    held = g.unflatten(1, (groups, -1))  # (batch, groups, out, *positions)
    patches = held.permute(*range(3, held.ndim), 1, 0, 2) @ w.transpose(-1, -2)
    patches = patches.unflatten(-1, (shape.taps, -1))  # (*positions, groups, batch, taps, in)
    rows = patches.permute(axes + 1, axes, axes + 3, axes + 2, *range(axes)).flatten(0, 2)
    units = torch.eye(shape.taps, dtype=g.dtype, device=g.device).view(shape.taps, 1, *shape.kernel)
    spreads = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    added: Callable[..., Tensor] = spreads[axes - 1]
    whole = added(rows, units, stride=shape.stride, dilation=shape.dilation)
    # Cut off the zeros that stood around, and add numbers that no position sees.
    full = zip(size, shape.low, whole.shape[2:], strict=True)
    behind = [low + length - there for length, low, there in full]
    cut = functional.pad(whole, _widths([-low for low in shape.low], behind))
    return cut.view(g.shape[0], -1, *size)


TABLE: dict[Any, Callable[..., Tensor]] = {
    torch.ops.weightshare.local_forward.default: composed_forward,
    torch.ops.weightshare.local_spread.default: composed_spread,
}
"""What stands for each operator in an exported program."""

assert {forward._opoverload, spread._opoverload} == TABLE.keys()  # their modules define them


def _widths(low: Sequence[int], high: Sequence[int]) -> list[int]:
    """As `pad` takes them: the last axis first."""
    return [width for pair in zip(reversed(low), reversed(high), strict=True) for width in pair]


def _channels_second(products: Tensor) -> Tensor:
    """`(*positions, groups, batch, out)` to `(batch, groups·out, *positions)`."""
    axes = products.ndim - 3
    return products.permute(axes + 1, axes, axes + 2, *range(axes)).flatten(1, 2)
