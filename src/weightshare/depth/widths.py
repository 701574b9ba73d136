"""Layers of different widths that read templates of one shape: each the leading slice of its mixture.

A weight `(out, in, ...)` of a narrower layer is the part `[:out, :in]` of a mixture of templates that are as large as
the widest layers of its group. So layers of all stages of a network may share one bank.

Source: Plummer 2022 (Neural Parameter Allocation Search) shares parameters between layers of different size; it resizes
or repeats what is too small. Yu 2019 (slimmable networks) takes the leading channels, as here.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from weightshare._table import run_text, shape_text
from weightshare.errors import FileError
from weightshare.surgery.derived import plain_class
from weightshare.surgery.sites import Site

WIDTHS = 2
"""How many dimensions of a weight are widths: the first two. Those behind them are a kernel's."""


def envelope(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The smallest shape that all are leading slices of.

    Example:
        >>> envelope([(5, 3, 3, 3), (2, 7, 3, 3)])
        (5, 7, 3, 3)
    """
    return tuple(max(lengths) for lengths in zip(*shapes, strict=True))


def leading(tensor: Tensor, shape: Sequence[int], at: int = 0) -> Tensor:
    """The leading slice of a tensor, a view.

    Args:
        tensor: Whose widths are at least those of the shape.
        shape: Of a weight.
        at: Where the first width is: 1 in templates, whose first dimension counts them.
    """
    for number, length in enumerate(shape[:WIDTHS], at):
        tensor = tensor.narrow(number, 0, length)
    return tensor


def differs_in_width(site: Site) -> tuple[object, ...]:
    """What weights have in common that differ in width alone: order of dimensions, kernel, and which widths are 1.

    A width of 1 is none: the kernels of a depthwise convolution are no slices of those of a dense one. Linear layers
    and convolutions have their outputs first; weights of other layers are slices of those of their own kind alone.
    """
    ones = tuple(length == 1 for length in site.shape[:WIDTHS])
    return _order(site.holder), len(site.shape), site.shape[WIDTHS:], ones


def shapes_text(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> str:
    """The shapes of a group's weights, each once, and that of their templates; that one alone where all have it."""
    if not shapes:
        return shape_text(shape)
    return f"{run_text([shape_text(one) for one in dict.fromkeys(shapes)], 8)} of {shape_text(shape)}"


def checked_shapes(name: str, found: Any, items: int, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The shapes of a group's weights out of a plan's JSON, which is not to be trusted.

    Raises:
        FileError: If they are not those of so many weights, or not what templates of this shape are for.
    """
    shapes = tuple(tuple(one) for one in found)
    whole = all(type(length) is int and length > 0 for one in shapes for length in one)
    kernels = all(len(one) == len(shape) and one[WIDTHS:] == shape[WIDTHS:] for one in shapes)
    if shapes and (not whole or not kernels or len(shapes) != items or envelope(shapes) != shape):
        raise FileError(
            f"Group {name!r} of the plan has shapes {str(found)[:200]}: need one for each of its {items} weights, and "
            f"{shape} as the smallest that all are leading slices of."
        )
    return shapes


def _order(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear | _ConvNd) and not isinstance(layer, _ConvTransposeNd):
        return "outputs first"
    return "inputs first" if isinstance(layer, _ConvTransposeNd) else plain_class(layer).__qualname__
