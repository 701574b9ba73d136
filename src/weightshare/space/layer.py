"""What all layers with kernels of their own at each position have in common.

A `LocalLayer` is the widest assignment across space: every position reads a slot of its own. How positions lie along
each axis of the layer, and what they see, is an `Axis`; the lattices of `weightshare.space.lattice` are made of those,
so the same code serves 1, 2 and 3 dimensions, transposed layers and the patches of a vision transformer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod, sqrt
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weightshare.errors import ShapeMismatch
from weightshare.hooks import expect_number
from weightshare.surgery.shards import is_spread, whole


class Axis(NamedTuple):
    """How positions lie along one spatial axis of a layer.

    Args:
        positions: How many there are.
        size: Numbers along the axis of the map that kernels look at, without padding.
        kernel: Taps.
        stride: Of the map, from one position to the next.
        dilation: Of the map, from one tap to the next.
        low: How far the first tap of the first position lies before the map.
    """

    positions: int
    size: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    low: int = 0

    def inside(self) -> Tensor:
        """`(positions, kernel)` bool: whether a tap lies on the map, and not on padding."""
        at = torch.arange(self.positions)[:, None] * self.stride - self.low
        at = at + torch.arange(self.kernel) * self.dilation
        return (at >= 0) & (at < self.size)


class LocalLayer(nn.Module, ABC):
    """A layer with one kernel per position; abstract.

    Its `weight` is `(*positions, groups, inner, outer)`. Of convolutions `inner` is `taps·in/groups`, taps first, and
    `outer` is `out/groups`; of transposed ones `inner` is `taps·out/groups`, and `outer` is `in/groups`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    @property
    @abstractmethod
    def axes(self) -> tuple[Axis, ...]:
        """How positions lie, along each spatial axis."""

    @abstractmethod
    def reset_parameters(self, eps: float | None = None) -> None:
        """Start anew: every position by itself, or, with a number, from one kernel with noise of that relative size."""

    @abstractmethod
    def shared(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """The layer of torch that computes the same if all positions read one kernel.

        Args:
            weight: `(groups, inner, outer)`.
            bias: `(out)` or `None`.
        """

    @property
    def positions(self) -> tuple[int, ...]:
        """How many positions there are along each spatial axis."""
        return tuple(axis.positions for axis in self.axes)

    def kernels(self) -> Tensor:
        """`(positions, groups, inner, outer)`: the weight that is read, whole, positions in one axis."""
        weight = whole(self.weight) if is_spread(self.weight) else self.weight
        return weight.flatten(0, len(self.axes) - 1)

    def biases(self) -> Tensor | None:
        """`(positions, out)`, or `None` where all positions read one bias or there is none."""
        if self.bias is None or self.bias.ndim == 1:
            return None
        return self.bias.flatten(0, len(self.axes) - 1)

    def bias_at_positions(self) -> bool:
        """Whether each position has biases of its own."""
        return self.bias is not None and self.bias.ndim > 1

    def bias_of_kernels(self) -> bool:
        """Whether each kernel has biases of its own: those of a transposed layer belong to positions of its output."""
        return self.bias is not None and self.bias.shape[:-1] == self.positions

    def _fill(self, kernel: Tensor, eps: float, deviation: float) -> None:
        """Give every position a kernel, with noise of a size relative to `deviation`; variances stay. 0 copies."""
        expect_number("eps", eps)
        if eps:
            self.weight.normal_(0, deviation).mul_(eps).add_(kernel).div_(sqrt(1 + eps * eps))
        else:
            self.weight.copy_(kernel.expand_as(self.weight))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `model.to(memory_format=torch.channels_last)` is about images and convolutions: torch takes every parameter of
        # 4 or 5 dimensions for one of theirs, and would refuse kernels here, or lay them out anew.
        def flat(tensor: Tensor) -> Tensor:
            if is_lazy(tensor) or tensor.ndim not in (4, 5) or type(tensor.data) is not Tensor:
                return fn(tensor)
            return fn(tensor.reshape(-1)).view(tensor.shape)

        return super()._apply(flat, recurse)

    def expect_size(self, size: tuple[int, ...], needed: tuple[int, ...]) -> None:
        """Refuse an input of another size than the layer was made for.

        Raises:
            ShapeMismatch: With both.
        """
        if size != needed:
            raise ShapeMismatch(
                f"{type(self).__name__}: got an input of size {_times(size)}, and it has {prod(self.positions):,} "
                f"kernels for inputs of size {_times(needed)}. Resize or crop the images, or make the layer for theirs."
            )


def cast_for_autocast(x: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """What a layer reads, in the type that autocast asks for on the device of `x`, if it is on."""
    kind = x.device.type
    tensors: list[Tensor | None] = [x, *others]
    # `torch.amp.is_autocast_available` would ask this of any device, and torch before 2.7 does not compile it.
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    # As for convolutions, double precision stays.
    kept = [one is None or not one.is_floating_point() or one.dtype == torch.float64 for one in tensors]
    return [one if one is None or stays else one.to(dtype) for one, stays in zip(tensors, kept, strict=True)]


def unfilled(kind: Any, *sizes: Any, device: torch.device, **options: Any) -> Any:
    """A layer whose numbers are still to be written, without drawing any."""
    return kind(*sizes, **options, device="meta").to_empty(device=device)


def _times(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
