"""What templates and coefficients start with: the weights of the first layers, or what is nearest to those of all."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from weightshare.decoding import mix, wide
from weightshare.depth.nearest import gram, nearest, orthonormal
from weightshare.depth.widths import envelope, leading

Init = Literal["orthogonal", "sparse", "from_pretrained"]


def start(tensors: Sequence[Tensor], templates: int, init: Init) -> tuple[Tensor, Tensor]:
    """Templates `(k, *weight)` and coefficients `(layers, k)` that layers of these weights start with.

    Weights of different widths read leading slices. A template of a layer that is narrower than the widest is filled up
    with draws of that layer's size, and each row of coefficients is scaled so that the layer keeps its own root mean
    square, which initialisations choose by width: wide layers start with smaller weights.

    What is drawn is drawn from torch's own generator of the CPU, as torch's layers draw.

    Args:
        tensors: Weights of one shape, or of shapes that differ in width.
        templates: `k`, at least 1.
        init: As for `Templates`; `from_pretrained` takes weights of one shape.
    """
    if init == "from_pretrained":
        return nearest(tensors, templates)
    shape, count = envelope([tuple(tensor.shape) for tensor in tensors]), len(tensors)
    size = torch.stack([wide(tensor).abs().square().mean() for tensor in tensors]).mean().sqrt()
    stored = [_filled_up(tensor, shape, size) for tensor in tensors[:templates]]
    while len(stored) < templates:  # more templates than layers: of their size, and apart from theirs
        stored.append(_drawn(tensors[0], shape, size))
    if init == "sparse":
        mixture = nn.functional.one_hot(torch.arange(count) % templates, templates).double()
    else:
        mixture = orthonormal(count, templates)
        mixture = mixture / mixture.norm(dim=1, keepdim=True)
    bank, coefficients = torch.stack(stored), mixture.to(tensors[0].device, tensors[0].dtype)
    if any(tuple(tensor.shape) != shape for tensor in tensors):
        for layer, tensor in enumerate(tensors):
            made = _size(mix(coefficients[layer : layer + 1], leading(bank, tensor.shape, at=1)))
            if made > 0:
                coefficients[layer] *= (_size(tensor) / made).to(coefficients.dtype)
    return bank, coefficients


def lost_at_start(tensors: Sequence[Tensor], templates: int) -> float:
    """What `nearest` loses: `‖W − A·T‖ / ‖W‖` over all layers, from 0 to 1.

    Args:
        tensors: Weights of one shape.
        templates: How many.
    """
    sizes = torch.linalg.eigvalsh(gram([tensor.detach() for tensor in tensors])).clamp(min=0)
    lost = sizes[: max(0, len(sizes) - templates)].sum() / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)
    return min(1.0, float(lost.sqrt()))


def _filled_up(tensor: Tensor, shape: tuple[int, ...], size: Tensor) -> Tensor:
    """A weight as the leading slice of a template, the rest drawn as large as it is, or as all are if it is zero."""
    if tuple(tensor.shape) == shape:
        return tensor
    own = _size(tensor)
    whole = _drawn(tensor, shape, own if own > 0 else size)
    leading(whole, tensor.shape).copy_(tensor)
    return whole


def _drawn(like: Tensor, shape: tuple[int, ...], size: Tensor) -> Tensor:
    return (torch.randn(shape).to(size.device) * size).to(like.dtype)


def _size(tensor: Tensor) -> Tensor:
    """The root mean square."""
    return wide(tensor).abs().square().mean().sqrt()
