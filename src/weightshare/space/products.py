"""The three products of a local layer, each the derivative of the others.

A local layer is trilinear in its input `x`, its kernels `w` and the gradient `g` of its output:

    T(x, w, g) = Σ_p Σ_n Σ_t Σ_c Σ_o  x[n, c, s·p + d·t] · w[p, (t, c), o] · g[n, o, p]

Its derivative by `g` is the layer itself (`forward`), that by `x` the gradient of the input, which is also the forward
pass of a *transposed* local layer (`spread`), and that by `w` the gradient of the kernels (`correlate`). So the three
are enough for derivatives of every order.

**Memory.** Activations lie with channels last, so one row of taps is one run of memory; kernels lie as
`(positions, taps·in, out)`, so every product is `torch.bmm` over positions on what was gathered. Patches are gathered a
few positions at a time, for as many as stay in the cache, and again in the backward pass: nothing of the size of the
unfolded input is ever stored.
"""

from collections.abc import Iterator, Sequence
from itertools import product
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from weightshare import kernels

CHUNK_BYTES = {"cpu": 1 << 21}
"""Bytes of patches that are gathered at a time: as much as stays in a core's cache. Elsewhere `LARGE`."""
LARGE = 1 << 28
GATHER_FROM = 128
"""Images in a batch from which the gradient of the input is gathered by turned kernels, not added up from patches."""
HALF = (torch.float16, torch.bfloat16)


class Geometry(NamedTuple):
    """How the positions of a local layer see its input, in the order of the spatial axes.

    Args:
        kernel: Taps along each axis.
        stride: Steps of the input from one position to the next.
        dilation: Steps of the input from one tap to the next.
        low: Zeros before the input.
        high: Zeros behind it.
        groups: Of channels that see only their own.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    groups: int

    @property
    def taps(self) -> int:
        """Of one kernel, over all axes."""
        return math.prod(self.kernel)

    def positions(self, size: Sequence[int]) -> tuple[int, ...]:
        """How many positions an input of a size has along each axis; 0 or less where the kernel does not fit."""
        rows = zip(size, self.kernel, self.stride, self.dilation, self.low, self.high, strict=True)
        return tuple((n + a + b - d * (k - 1) - 1) // s + 1 for n, k, s, d, a, b in rows)

    def turned(self, size: Sequence[int], positions: Sequence[int]) -> "Geometry | None":
        """How the numbers of an input see the positions, taps backwards; `None` where they are not all alike."""
        spans = [step * (taps - 1) for step, taps in zip(self.dilation, self.kernel, strict=True)]
        low = tuple(span - width for span, width in zip(spans, self.low, strict=True))
        high = tuple(n + width - count for n, width, count in zip(size, self.low, positions, strict=True))
        if any(step != 1 for step in self.stride) or min(*low, *high) < 0:
            return None
        return self._replace(low=low, high=high)

    @classmethod
    def of(cls, numbers: Sequence[int], groups: int) -> "Geometry":
        """From the flat list that an operator takes."""
        axes = len(numbers) // 5
        kernel, stride, dilation, low, high = (tuple(numbers[at * axes : (at + 1) * axes]) for at in range(5))
        return cls(kernel, stride, dilation, low, high, groups)

    @property
    def flat(self) -> list[int]:
        """As the flat list that an operator takes, without the groups."""
        return [number for row in self[:5] for number in row]


def _padded(x: Tensor, geometry: Geometry) -> Tensor:
    """`(batch, *size, channels)` in one piece of memory, zeros around; the input itself where nothing is to do."""
    last = x.movedim(1, -1)
    widths = [width for axis in zip(geometry.low, geometry.high, strict=True) for width in axis]
    if not any(widths):
        return last.contiguous()
    axes = [width for pair in zip(geometry.low[::-1], geometry.high[::-1], strict=True) for width in pair]
    return pad(last, (0, 0, *axes))


def _chunks(positions: Sequence[int], bytes_each: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Cut positions along the first axis, and along the second where one row is too much already."""
    budget = CHUNK_BYTES.get(device, LARGE)
    rest = math.prod(positions[1:])
    rows = max(1, min(positions[0], budget // max(1, rest * bytes_each)))
    second = positions[1] if len(positions) > 1 else 1
    width = second if rows > 1 else max(1, min(second, budget // max(1, rest // second * bytes_each)))
    for row in range(0, positions[0], rows):
        for column in range(0, second, width):
            yield slice(row, min(row + rows, positions[0])), slice(column, min(column + width, second))


class _Patches:
    """Reads patches out of a padded input, or adds them back into one."""

    def __init__(self, padded: Tensor, geometry: Geometry, positions: Sequence[int]) -> None:
        self.padded, self.geometry, self.positions = padded, geometry, tuple(positions)
        self.channels = padded.shape[-1] // geometry.groups
        self.batch = padded.shape[0]
        self.item = geometry.taps * padded.shape[-1] * self.batch * padded.element_size()
        self._memory: Tensor | None = None

    def chunks(self) -> Iterator[tuple[slice, slice]]:
        return _chunks(self.positions, self.item, self.padded.device.type)

    def _rows(self, rows: slice, columns: slice, run: bool) -> Iterator[tuple[int, int, Tensor]]:
        """For each tap, or run of taps along the last axis, its place and what the positions of a chunk see there.

        The view has shape `(positions..., batch, groups, taps·in)`.
        """
        kernel, stride, dilation = self.geometry[:3]
        steps = self.padded.stride()
        origin = self.padded.storage_offset()
        sizes = [rows.stop - rows.start, *self.positions[1:]]
        starts = [rows.start, *(0 for _ in self.positions[1:])]
        if len(sizes) > 1:
            sizes[1], starts[1] = columns.stop - columns.start, columns.start
        whole = run and dilation[-1] == 1 and self.geometry.groups == 1
        last = [0] if whole else range(kernel[-1])
        width = kernel[-1] if whole else 1
        groups = self.geometry.groups
        for number, tap in enumerate(product(*(range(k) for k in kernel[:-1]), last)):
            at = origin
            for axis, t in enumerate(tap):
                at += (starts[axis] * stride[axis] + t * dilation[axis]) * steps[axis + 1]
            shape = (*sizes, self.batch, groups, width * self.channels)
            strides = [s * step for s, step in zip(stride, steps[1:-1], strict=True)]
            view = self.padded.as_strided(shape, (*strides, steps[0], self.channels, 1), at)
            yield number * width * self.channels, width * self.channels, view

    def read(self, rows: slice, columns: slice) -> Tensor:
        """`(positions·groups, batch, taps·in)`; overwritten by the next call."""
        sizes = self._sizes(rows, columns)
        groups, inner = self.geometry.groups, self.geometry.taps * self.channels
        numel = math.prod(sizes) * groups * self.batch * inner
        if self._memory is None or self._memory.numel() < numel:
            self._memory = self.padded.new_empty(numel)
        patches = self._memory[:numel].view(*sizes, groups, self.batch, inner)
        for at, length, view in self._rows(rows, columns, run=True):
            patches[..., at : at + length].copy_(view.transpose(-3, -2))
        return patches.flatten(0, -3)

    def add(self, rows: slice, columns: slice, patches: Tensor) -> None:
        """Add patches of the shape that `read` gives to where they come from."""
        sizes = self._sizes(rows, columns)
        patches = patches.view(*sizes, self.geometry.groups, *patches.shape[1:])
        for at, length, view in self._rows(rows, columns, run=False):
            view.add_(patches[..., at : at + length].transpose(-3, -2))

    def _sizes(self, rows: slice, columns: slice) -> list[int]:
        sizes = [rows.stop - rows.start, *self.positions[1:]]
        if len(sizes) > 1:
            sizes[1] = columns.stop - columns.start
        return sizes


def _out(patches: _Patches, channels: int) -> Tensor:
    """`(batch, *positions, channels)`, not filled."""
    return patches.padded.new_empty(patches.batch, *patches.positions, channels)


def _part(out: Tensor, rows: slice, columns: slice, groups: int) -> Tensor:
    """The positions of a chunk of `(batch, *positions, channels)`: `(positions..., groups, batch, channels/groups)`."""
    part = out[:, rows] if out.ndim < 4 else out[:, rows, columns]
    return part.unflatten(-1, (groups, -1)).movedim(0, -2)


def _kernels(w: Tensor, rows: slice, columns: slice) -> Tensor:
    """Those of a chunk, `(positions·groups, taps·in, out)`, of `(*positions, groups, taps·in, out)`."""
    return (w[rows] if w.ndim < 5 else w[rows, columns]).flatten(0, -3)


def _forward(x: Tensor, w: Tensor, shape: Geometry) -> Tensor:
    patches = _Patches(_padded(x, shape), shape, w.shape[:-3])
    out = _out(patches, shape.groups * w.shape[-1])
    for chunk in patches.chunks():
        part = _part(out, *chunk, shape.groups)
        part.copy_(torch.bmm(patches.read(*chunk), _kernels(w, *chunk)).view(part.shape))
    return out.movedim(-1, 1)


def _turned(w: Tensor, size: Sequence[int], shape: Geometry) -> Tensor:
    """The kernels by which each number of the input reads the gradient, taps backwards.

    They have shape `(*size, groups, taps·out, in)`: as many numbers as the kernels have, whatever the batch is, so
    turning them costs less than adding overlapping patches of a large batch; and in half precision every sum is one
    accumulation.
    """
    taps, outer = shape.taps, w.shape[-1]
    turned = w.new_zeros(*size, w.shape[-3], taps * outer, w.shape[-2] // taps)
    read, written = w.unflatten(-2, (taps, -1)), turned.unflatten(-2, (taps, outer))
    for number, tap in enumerate(product(*map(range, shape.kernel))):
        here, there = [], []
        for length, count, low, step, t in zip(size, w.shape, shape.low, shape.dilation, tap, strict=False):
            away = low - step * t  # the input at q is seen by the position q + away
            first, last = max(0, -away), min(length, count - away)
            here.append(slice(first, max(first, last)))
            there.append(slice(first + away, max(first, last) + away))
        view = written[(*here, slice(None), taps - 1 - number)]
        view.copy_(read[(*there, slice(None), number)].transpose(-1, -2))
    return turned


# torch before 2.7 finds no schema from `list[int]`.
@torch.library.custom_op(
    "weightshare::local_forward", mutates_args=(), schema="(Tensor x, Tensor w, int[] geometry, int groups) -> Tensor"
)
def forward(x: Tensor, w: Tensor, geometry: list[int], groups: int) -> Tensor:
    """What each position makes of what it sees.

    Args:
        x: `(batch, in, *size)`.
        w: `(*positions, groups, taps·in/groups, out/groups)`.
        geometry: `Geometry.flat`.
        groups: Of channels.

    Returns:
        `(batch, out, *positions)`, channels last in memory.
    """
    shape = Geometry.of(geometry, groups)
    compiled = kernels.local(x, w)
    return _forward(x, w, shape) if compiled is None else compiled.forward(x, w, shape)


@torch.library.custom_op(
    "weightshare::local_spread",
    mutates_args=(),
    schema="(Tensor g, Tensor w, int[] size, int[] geometry, int groups) -> Tensor",
)
def spread(g: Tensor, w: Tensor, size: list[int], geometry: list[int], groups: int) -> Tensor:
    """The transpose of `forward` in `x`: what each position holds, spread over what it sees.

    Args:
        g: `(batch, out, *positions)`.
        w: `(*positions, groups, taps·in/groups, out/groups)`.
        size: Of the input, along each spatial axis.
        geometry: `Geometry.flat`.
        groups: Of channels.

    Returns:
        `(batch, in, *size)`, channels last in memory.
    """
    shape = Geometry.of(geometry, groups)
    compiled = kernels.local(g, w)
    if compiled is not None:
        return compiled.spread(g, w, size, shape)
    turned = shape.turned(size, w.shape[:-3])
    if turned is not None and (g.shape[0] >= GATHER_FROM or g.dtype in HALF):
        return _forward(g, _turned(w, size, shape), turned)
    channels = groups * (w.shape[-2] // shape.taps)
    full = [n + a + b for n, a, b in zip(size, shape.low, shape.high, strict=True)]
    padded = g.new_zeros(g.shape[0], *full, channels)
    patches = _Patches(padded, shape, w.shape[:-3])
    last = g.movedim(1, -1)
    for chunk in patches.chunks():
        held = _part(last, *chunk, groups).flatten(0, -3)
        patches.add(*chunk, torch.bmm(held, _kernels(w, *chunk).transpose(1, 2)))
    inside = (slice(None), *(slice(a, a + n) for n, a in zip(size, shape.low, strict=True)))
    return padded[inside].contiguous().movedim(-1, 1)


@torch.library.custom_op(
    "weightshare::local_correlate", mutates_args=(), schema="(Tensor x, Tensor g, int[] geometry, int groups) -> Tensor"
)
def correlate(x: Tensor, g: Tensor, geometry: list[int], groups: int) -> Tensor:
    """The derivative of `forward` by its kernels: what each position sees, times what it holds, summed over the batch.

    Args:
        x: `(batch, in, *size)`.
        g: `(batch, out, *positions)`.
        geometry: `Geometry.flat`.
        groups: Of channels.

    Returns:
        `(*positions, groups, taps·in/groups, out/groups)`.
    """
    shape = Geometry.of(geometry, groups)
    compiled = kernels.local(x, g)
    if compiled is not None:
        return compiled.correlate(x, g, shape)
    patches = _Patches(_padded(x, shape), shape, g.shape[2:])
    last = g.movedim(1, -1)
    inner, outer = shape.taps * patches.channels, g.shape[1] // groups
    out = x.new_empty(*patches.positions, groups, inner, outer)
    for chunk in patches.chunks():
        seen = patches.read(*chunk)
        held = _part(last, *chunk, groups).flatten(0, -3)
        torch.bmm(seen.transpose(1, 2), held, out=_kernels(out, *chunk))
    return out


@forward.register_fake
def _(x: Tensor, w: Tensor, geometry: list[int], groups: int) -> Tensor:
    return x.new_empty(x.shape[0], *w.shape[:-3], groups * w.shape[-1]).movedim(-1, 1)


@spread.register_fake
def _(g: Tensor, w: Tensor, size: list[int], geometry: list[int], groups: int) -> Tensor:
    channels = groups * (w.shape[-2] // Geometry.of(geometry, groups).taps)
    return g.new_empty(g.shape[0], *size, channels).movedim(-1, 1)


@correlate.register_fake
def _(x: Tensor, g: Tensor, geometry: list[int], groups: int) -> Tensor:
    inner = Geometry.of(geometry, groups).taps * x.shape[1] // groups
    return x.new_empty(*g.shape[2:], groups, inner, g.shape[1] // groups)


def _forward_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    by_x = spread(g, w, list(x.shape[2:]), *ctx.shape) if ctx.needs_input_grad[0] else None
    by_w = correlate(x, g, *ctx.shape) if ctx.needs_input_grad[1] else None
    return by_x, by_w, None, None


def _spread_backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
    g, w = ctx.saved_tensors
    by_g = forward(h, w, *ctx.shape) if ctx.needs_input_grad[0] else None
    by_w = correlate(h, g, *ctx.shape) if ctx.needs_input_grad[1] else None
    return by_g, by_w, None, None, None


def _correlate_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    x, g = ctx.saved_tensors
    by_x = spread(g, v, list(x.shape[2:]), *ctx.shape) if ctx.needs_input_grad[0] else None
    by_g = forward(x, v, *ctx.shape) if ctx.needs_input_grad[1] else None
    return by_x, by_g, None, None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.shape = inputs[-2:]


for operator, backward in ((forward, _forward_backward), (spread, _spread_backward), (correlate, _correlate_backward)):
    operator.register_autograd(backward, setup_context=_keep)
