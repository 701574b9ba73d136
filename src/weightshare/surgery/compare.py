"""Comparisons of tensors: which hold the same bits, and which lie in the same memory."""

from collections.abc import Mapping
from itertools import pairwise

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


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits: NaN equals itself, and `-0.0` is not `0.0`."""
    if left.layout != torch.strided or right.layout != torch.strided:
        return False  # bits of other layouts cannot be compared, so they count as different
    right = right.to(left.device)
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)]
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
