"""Fusions: many weights become the one that they share.

A fusion gets the weights of the layers that read one slot, whatever the assignment is, and returns the slot's value.

| | value of the slot | |
|---|---|---|
| `first` | `W_0` | from scratch: plain tying. Pretrained: the paper's "choose first" |
| `mean` | `1/r Σ_i W_i` | |
| `weighted_mean(a)` | `1/r Σ_i a_i W_i` | `a` for the layers of a group, not normalised |

Source: Lin 2022, section 3.2. Means are taken in float64, so equal weights fuse to themselves exactly.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
import math

from jaxtyping import Num
import torch
from torch import Tensor

from weightshare.depth.topology import Choice
from weightshare.errors import SpecError


class Fusion(Choice):
    """How the weights of a slot's readers become one. Subclass it, as a frozen dataclass, for a fusion of your own."""

    @abstractmethod
    def __call__(
        self, weights: Num[Tensor, "readers *weight"], layers: Sequence[int], depth: int
    ) -> Num[Tensor, "*weight"]:
        """The value of one slot.

        Args:
            weights: The weights of the layers that read the slot, stacked in order.
            layers: Which layers of the group they are, from 0.
            depth: How many layers the group has.

        Returns:
            The slot's value, of the same dtype; the weights given are not changed.
        """


@dataclass(frozen=True, repr=False)
class First(Fusion):
    """The weight of the first reader."""

    def __call__(
        self, weights: Num[Tensor, "readers *weight"], layers: Sequence[int], depth: int
    ) -> Num[Tensor, "*weight"]:
        return weights[0].clone()


@dataclass(frozen=True, repr=False)
class Mean(Fusion):
    """The mean of the readers' weights."""

    def __call__(
        self, weights: Num[Tensor, "readers *weight"], layers: Sequence[int], depth: int
    ) -> Num[Tensor, "*weight"]:
        wide = _wide(weights)
        # Where all agree the mean is what they agree on, to the bit; a sum of r equal numbers over r need not be.
        return torch.where((wide == wide[0]).all(0), wide[0], wide.mean(0)).to(weights.dtype)


@dataclass(frozen=True, repr=False)
class WeightedMean(Fusion):
    """`1/r Σ a_i W_i` over the `r` readers of a slot; tensors of one dimension (biases, norms) take the plain mean.

    Args:
        weights: `a_i` for each layer of the group, finite. They are not normalised: all ones is `mean`, and a mean in
            the usual sense needs weights that add up to `r` within each slot.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.weights or not all(math.isfinite(weight) for weight in self.weights):
            raise SpecError(f"weighted_mean needs one finite weight for each layer, got {self.weights}.")

    def __call__(
        self, weights: Num[Tensor, "readers *weight"], layers: Sequence[int], depth: int
    ) -> Num[Tensor, "*weight"]:
        if len(self.weights) != depth:
            raise SpecError(
                f"weighted_mean has {len(self.weights)} weights, the group has {depth} layers: give one each."
            )
        if weights.ndim <= 2:
            return Mean()(weights, layers, depth)
        wide = _wide(weights)
        factors = torch.tensor([self.weights[layer] for layer in layers], dtype=wide.dtype, device=wide.device)
        return torch.tensordot(factors, wide, dims=1).div(len(layers)).to(weights.dtype)


first = First()
mean = Mean()


def weighted_mean(weights: Sequence[float | int]) -> WeightedMean:
    """The fusion `1/r Σ a_i W_i`.

    Args:
        weights: `a_i` for each layer of a group, in order; not normalised.

    Returns:
        A fusion for `Tie(fuse=...)`. Tensors of one dimension take the plain mean.

    Raises:
        SpecError: If there is no weight, or one is not finite; when fusing, if their number is not the group's depth.

    Source: Lin 2022, section 3.2 and supplement B ("scalar weighted mean"). Differs: weights are given, not learned.

    Example:
        >>> weighted_mean([1, 0.5, 1, 0.5])
        weighted_mean(weights=(1.0, 0.5, 1.0, 0.5))
    """
    try:
        return WeightedMean(tuple(float(weight) for weight in weights))
    except (TypeError, ValueError, OverflowError) as error:
        raise SpecError(f"weighted_mean needs one finite weight for each layer, got {weights!r}: {error}") from error


def _wide(weights: Tensor) -> Tensor:
    if weights.device.type == "mps":  # has no float64
        return weights.float()
    return weights.to(torch.complex128 if weights.is_complex() else torch.float64)
