"""Comparisons of tensors: which hold the same bits, which lie in the same memory, and how far outputs are apart."""

from collections.abc import Mapping
from itertools import pairwise
import math
from typing import Any

import torch
from torch import Tensor, nn


def overlap(named: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Two names whose tensors are different objects and hold numbers in the same memory, or `None`.

    For refusing them: addresses of tensors that are alive at once can tell an overlap, though never a tie.
    """
    spans = []
    for name, tensor in named.items():
        if tensor.numel() and not tensor.is_meta and tensor.layout == torch.strided:
            last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
            start = tensor.data_ptr()
            spans.append((str(tensor.device), start, start + (last + 1) * tensor.element_size(), name))
    spans.sort()
    for (device, _, end, name), (next_device, start, _, next_name) in pairwise(spans):
        if device == next_device and start < end and named[name] is not named[next_name]:
            return name, next_name
    return None


WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of so many bytes."""


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits: NaN equals itself, and `-0.0` is not `0.0`."""
    if left.layout != torch.strided or right.layout != torch.strided:
        return False  # bits of other layouts cannot be compared, so they count as different
    right = right.to(left.device)
    size = left.element_size()  # byte by byte would take four times as long
    kind = WORDS.get(size, torch.uint8) if size == right.element_size() else torch.uint8
    raw = [tensor.detach().contiguous().reshape(-1).view(kind) for tensor in (left, right)]
    return torch.equal(*raw)


def same_numbers(left: object, right: object) -> bool:
    """Whether two entries of a state dict are equal; what has no numbers to compare (meta) counts as equal."""
    if left is right:
        return True
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return False
    if left.is_meta or right.is_meta:
        return left.shape == right.shape
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    if type(left) in (Tensor, nn.Parameter) and type(right) in (Tensor, nn.Parameter):
        return same_bits(left, right)
    return torch.equal(left, right)  # distributed and other tensors know themselves how to compare


def output_error(before: Any, after: Any) -> float | None:
    """How far what a network gives is from what it gave: root of the sum of squares, relative; `None` without numbers.

    Args:
        before: Whatever a network returns: tensors in lists, tuples or mappings.
        after: The same for another network of the same outputs.
    """
    left, right = (_tensors(output) for output in (before, after))
    if not left:
        return None
    off = sum((b.double() - a.double()).square().sum().item() for b, a in zip(left, right, strict=True))
    return ratio(off, sum(b.double().square().sum().item() for b in left))


def ratio(off: float, size: float) -> float:
    """The root of one sum of squares over that of another; infinite where something is off from nothing."""
    return math.sqrt(off / size) if size else math.inf if off else 0.0


def error_text(error: float | None) -> str:
    """A relative error for a table."""
    return "" if error is None else "equal" if error == 0 else f"{error:.2e}"


def _tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors of whatever a network returns, but the empty ones."""
    from torch.utils._pytree import tree_leaves

    return [
        leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()
    ]
