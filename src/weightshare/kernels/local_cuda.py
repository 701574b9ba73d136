# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportArgumentType=false
# triton is not installed everywhere, and its functions are no Python.
"""The three products of a local layer on a graphics card, compiled by triton: patches are read where they lie.

Every program is one small matrix product: of one position and group, or one number of the input in `spread`, with
every sum inside the program, so that nothing is added by atomics and results do not depend on the order.

| product | rows | columns | summed over |
|---|---|---|---|
| `forward` | batch | out | taps and in, those outside the input masked |
| `spread` | batch | in | the taps that see the number, and out |
| `correlate` | taps and in | out | batch |

Programs of one position follow one another, so its kernel comes from memory once, whatever the batch is. With
channels last the numbers of a tap are one run of memory; strides may be any. Sums are in float32; float32 operands
are multiplied as torch multiplies matrices, in TF32 only where `torch.set_float32_matmul_precision` allows it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

ROWS, COLUMNS, DEPTH = 64, 64, 32
"""The largest block of a product, and how much of the sum it takes at a time."""


@triton.jit
def _turn(number, first, second):
    """The place of a program: three numbers, the last running fastest."""
    return number // (first * second), number // second % first, number % second


@triton.jit
def _forward(
    x, w, out, batch, positions_w, height, width, steps_n, steps_o,
    x_n, x_h, x_w, x_c, w_h, w_w, w_g, w_k, w_o, out_n, out_p, out_c,
    low_h, low_w,
    GROUPS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    place, step_n, step_o = _turn(tl.program_id(0), steps_n, steps_o)
    group, position = place % GROUPS, place // GROUPS
    row, column = position // positions_w, position % positions_w
    n = step_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o = step_o * BLOCK_O + tl.arange(0, BLOCK_O)
    first_h, first_w = row * STRIDE_H - low_h, column * STRIDE_W - low_w
    x_rows = x + n.to(tl.int64) * x_n + group * IN * x_c
    w_columns = w + row.to(tl.int64) * w_h + column.to(tl.int64) * w_w + group * w_g + o * w_o
    total = tl.zeros([BLOCK_N, BLOCK_O], dtype=tl.float32)
    for start in range(0, TAPS_H * TAPS_W * IN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        tap, c = k // IN, k % IN
        h, v = first_h + tap // TAPS_W * DILATION_H, first_w + tap % TAPS_W * DILATION_W
        inside = (k < TAPS_H * TAPS_W * IN) & (h >= 0) & (h < height) & (v >= 0) & (v < width)
        there = h * x_h + v * x_w + c * x_c
        seen = tl.load(x_rows[:, None] + there[None, :], mask=(n < batch)[:, None] & inside[None, :], other=0.0)
        kernel = tl.load(w_columns[None, :] + (k * w_k)[:, None], mask=inside[:, None] & (o < OUT)[None, :], other=0.0)
        total = tl.dot(seen, kernel, total, input_precision=PRECISION)
    into = out + n.to(tl.int64)[:, None] * out_n + position.to(tl.int64) * out_p + (group * OUT + o)[None, :] * out_c
    tl.store(into, total.to(out.dtype.element_ty), mask=(n < batch)[:, None] & (o < OUT)[None, :])


@triton.jit
def _first_tap(at, STRIDE: tl.constexpr, DILATION: tl.constexpr, STEP: tl.constexpr, TAPS: tl.constexpr):
    """The least tap by which a position sees a place, every `STEP`th after it does too; `TAPS` where there is none."""
    first = at * 0 + TAPS
    for tap in tl.static_range(STEP - 1, -1, -1):
        away = at - tap * DILATION + STRIDE * TAPS * DILATION  # not below 0 where a remainder matters
        first = tl.where(away % STRIDE == 0, tap, first)
    return first


@triton.jit
def _spread(
    g, w, out, batch, positions_h, positions_w, width, steps_n, steps_c,
    g_n, g_h, g_w, g_c, w_h, w_w, w_g, w_k, w_o, out_n, out_p, out_c,
    low_h, low_w,
    GROUPS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr, SEEN_H: tl.constexpr, SEEN_W: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    place, step_n, step_c = _turn(tl.program_id(0), steps_n, steps_c)
    group, number = place % GROUPS, place // GROUPS
    at_h, at_w = number // width + low_h, number % width + low_w
    first_h = _first_tap(at_h, STRIDE_H, DILATION_H, STEP_H, TAPS_H)
    first_w = _first_tap(at_w, STRIDE_W, DILATION_W, STEP_W, TAPS_W)
    n = step_n * BLOCK_N + tl.arange(0, BLOCK_N)
    c = step_c * BLOCK_C + tl.arange(0, BLOCK_C)
    g_rows = g + n.to(tl.int64) * g_n + group * OUT * g_c
    w_columns = w + group * w_g + c * w_k
    total = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
    for start in range(0, SEEN_H * SEEN_W * OUT, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        which, o = k // OUT, k % OUT
        tap_h, tap_w = first_h + which // SEEN_W * STEP_H, first_w + which % SEEN_W * STEP_W
        away_h, away_w = at_h - tap_h * DILATION_H, at_w - tap_w * DILATION_W
        h, v = away_h // STRIDE_H, away_w // STRIDE_W
        inside = (k < SEEN_H * SEEN_W * OUT) & (tap_h < TAPS_H) & (tap_w < TAPS_W)
        inside = inside & (away_h >= 0) & (h < positions_h) & (away_w >= 0) & (v < positions_w)
        there = h * g_h + v * g_w + o * g_c
        held = tl.load(g_rows[:, None] + there[None, :], mask=(n < batch)[:, None] & inside[None, :], other=0.0)
        tap = (tap_h * TAPS_W + tap_w) * IN
        lies = h.to(tl.int64) * w_h + v.to(tl.int64) * w_w + tap * w_k + o * w_o
        kernel = tl.load(w_columns[None, :] + lies[:, None], mask=inside[:, None] & (c < IN)[None, :], other=0.0)
        total = tl.dot(held, kernel, total, input_precision=PRECISION)
    into = out + n.to(tl.int64)[:, None] * out_n + number.to(tl.int64) * out_p + (group * IN + c)[None, :] * out_c
    tl.store(into, total.to(out.dtype.element_ty), mask=(n < batch)[:, None] & (c < IN)[None, :])


@triton.jit
def _correlate(
    x, g, out, batch, positions_w, height, width, steps_k, steps_o,
    x_n, x_h, x_w, x_c, g_n, g_h, g_w, g_c,
    low_h, low_w,
    GROUPS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    place, step_k, step_o = _turn(tl.program_id(0), steps_k, steps_o)
    group, position = place % GROUPS, place // GROUPS
    row, column = position // positions_w, position % positions_w
    k = step_k * BLOCK_K + tl.arange(0, BLOCK_K)
    o = step_o * BLOCK_O + tl.arange(0, BLOCK_O)
    tap, c = k // IN, k % IN
    h = row * STRIDE_H - low_h + tap // TAPS_W * DILATION_H
    v = column * STRIDE_W - low_w + tap % TAPS_W * DILATION_W
    inside = (k < TAPS_H * TAPS_W * IN) & (h >= 0) & (h < height) & (v >= 0) & (v < width)
    x_places = x + h * x_h + v * x_w + (group * IN + c) * x_c
    g_places = g + row * g_h + column * g_w + (group * OUT + o) * g_c
    total = tl.zeros([BLOCK_K, BLOCK_O], dtype=tl.float32)
    for start in range(0, batch, BLOCK_N):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        rows = n < batch
        seen = tl.load(x_places[:, None] + (n * x_n)[None, :], mask=inside[:, None] & rows[None, :], other=0.0)
        held = tl.load(g_places[None, :] + (n * g_n)[:, None], mask=rows[:, None] & (o < OUT)[None, :], other=0.0)
        total = tl.dot(seen, held, total, input_precision=PRECISION)
    into = out + place.to(tl.int64) * (TAPS_H * TAPS_W * IN * OUT) + k[:, None] * OUT + o[None, :]
    tl.store(into, total.to(out.dtype.element_ty), mask=(k < TAPS_H * TAPS_W * IN)[:, None] & (o < OUT)[None, :])


def serves(first: Tensor, second: Tensor) -> bool:
    """Whether the kernels take two operands: one or two spatial axes, and types that a card multiplies quickly."""
    known = first.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and first.dtype == second.dtype and first.ndim in (3, 4)


def forward(x: Tensor, w: Tensor, shape: Any) -> Tensor:
    """What each position makes of what it sees.

    Args:
        x: `(batch, in, *size)`, one or two spatial axes.
        w: `(*positions, groups, taps·in/groups, out/groups)`.
        shape: Kernel, stride, dilation, zeros before and behind, groups: a `Geometry`.

    Returns:
        `(batch, out, *positions)`, channels last in memory.
    """
    x4, w5 = _image(x), w if w.ndim == 5 else w.unsqueeze(0)
    inner, outer = x.shape[1] // shape.groups, w.shape[-1]
    out = x.new_empty(x.shape[0], *w.shape[:-3], shape.groups * outer)
    positions = w5.shape[0] * w5.shape[1]
    block_n, block_k, block_o = _blocks(x.shape[0], shape.taps * inner, outer)
    steps = triton.cdiv(x.shape[0], block_n), triton.cdiv(outer, block_o)
    scalars = x.shape[0], w5.shape[1], *x4.shape[2:], *steps, *_strides(x4), *w5.stride()
    blocks = {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_O": block_o}
    _launch(_forward, positions, (x4, w5, out), scalars, shape, inner, outer, steps, blocks, _lying(out))
    return out.movedim(-1, 1)


def spread(g: Tensor, w: Tensor, size: Sequence[int], shape: Any) -> Tensor:
    """The transpose of `forward` in `x`: what each position holds, spread over what it sees.

    Args:
        g: `(batch, out, *positions)`.
        w: `(*positions, groups, taps·in/groups, out/groups)`.
        size: Of the input.
        shape: As for `forward`.

    Returns:
        `(batch, in, *size)`, channels last in memory.
    """
    g4, w5 = _image(g), w if w.ndim == 5 else w.unsqueeze(0)
    inner, outer = w.shape[-2] // shape.taps, w.shape[-1]
    out = g.new_empty(g.shape[0], *size, shape.groups * inner)
    step = [s // gcd(s, d) for s, d in zip(_two(shape.stride), _two(shape.dilation), strict=True)]
    most = [-(-taps // s) for taps, s in zip(_two(shape.kernel), step, strict=True)]
    block_n, block_k, block_c = _blocks(g.shape[0], prod(most) * outer, inner)
    steps = triton.cdiv(g.shape[0], block_n), triton.cdiv(inner, block_c)
    scalars = g.shape[0], *g4.shape[2:], size[-1], *steps, *_strides(g4), *w5.stride()
    blocks = {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_C": block_c}
    blocks |= {"STEP_H": step[0], "STEP_W": step[1], "SEEN_H": most[0], "SEEN_W": most[1]}
    _launch(_spread, prod(size), (g4, w5, out), scalars, shape, inner, outer, steps, blocks, _lying(out))
    return out.movedim(-1, 1)


def correlate(x: Tensor, g: Tensor, shape: Any) -> Tensor:
    """The derivative of `forward` by its kernels: what each position sees times what it holds, summed over the batch.

    Args:
        x: `(batch, in, *size)`.
        g: `(batch, out, *positions)`.
        shape: As for `forward`.

    Returns:
        `(*positions, groups, taps·in/groups, out/groups)`.
    """
    x4, g4 = _image(x), _image(g)
    inner, outer = x.shape[1] // shape.groups, g.shape[1] // shape.groups
    out = x.new_empty(*g.shape[2:], shape.groups, shape.taps * inner, outer)
    block_k, block_n, block_o = _blocks(shape.taps * inner, x.shape[0], outer)
    steps = triton.cdiv(shape.taps * inner, block_k), triton.cdiv(outer, block_o)
    scalars = x.shape[0], g4.shape[3], *x4.shape[2:], *steps, *_strides(x4), *_strides(g4)
    blocks = {"BLOCK_N": block_n, "BLOCK_K": block_k, "BLOCK_O": block_o}
    _launch(_correlate, prod(g.shape[2:]), (x4, g4, out), scalars, shape, inner, outer, steps, blocks, ())
    return out


def _image(x: Tensor) -> Tensor:
    """With two spatial axes, the first of one where there was but one."""
    return x if x.ndim == 4 else x.unsqueeze(2)


def _strides(x: Tensor) -> tuple[int, int, int, int]:
    """Of batch, height, width, channels."""
    return x.stride(0), x.stride(2), x.stride(3), x.stride(1)


def _lying(out: Tensor) -> tuple[int, int, int]:
    """The strides of batch, positions and channels of `(batch, *positions, channels)`."""
    return out.stride(0), out.stride(-2), 1


def _two(row: Sequence[int], missing: int = 1) -> tuple[int, int]:
    """One number for height and width each."""
    return (missing, row[0]) if len(row) == 1 else (row[0], row[1])


def _blocks(rows: int, depth: int, columns: int) -> tuple[int, int, int]:
    """Powers of two, at least what the card's matrix units take, and not far beyond what there is."""
    first, second, third = (
        max(16, min(most, 1 << (count - 1).bit_length()))
        for count, most in ((rows, ROWS), (depth, DEPTH), (columns, COLUMNS))
    )
    return first, second, third


def _launch(
    kernel: Any,
    places: int,
    tensors: tuple[Tensor, Tensor, Tensor],
    scalars: tuple[int, ...],
    shape: Any,
    inner: int,
    outer: int,
    steps: tuple[int, int],
    blocks: dict[str, int],
    lying: tuple[int, ...],
) -> None:
    """Run a kernel, one program for each place, group and block, on the card that holds the tensors."""
    programs = places * shape.groups * prod(steps)
    if not programs or not tensors[2].numel():
        return
    constants = _constants(shape, inner, outer) | blocks
    with _card(tensors[0]):
        kernel[(programs,)](*tensors, *scalars, *lying, *_two(shape.low, 0), **constants)


def _constants(shape: Any, inner: int, outer: int) -> dict[str, Any]:
    """What a kernel is compiled for, but its blocks."""
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    constants = {"GROUPS": shape.groups, "IN": inner, "OUT": outer, "PRECISION": precision}
    for name, row in (("TAPS", shape.kernel), ("STRIDE", shape.stride), ("DILATION", shape.dilation)):
        constants[f"{name}_H"], constants[f"{name}_W"] = _two(row)
    return constants


def _card(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
