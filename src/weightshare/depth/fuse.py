"""Fusions: many weights become the one that they share.

A fusion gets the weights of the layers that read one slot, whatever the assignment is, and returns the slot's value.

| | value of the slot | |
|---|---|---|
| `first` | `W_0` | from scratch: plain tying. Pretrained: the paper's "choose first" |
| `mean` | `1/r Σ_i W_i` | |
| `weighted_mean(a)` | `1/r Σ_i a_i W_i` | `a` for the layers of a group, not normalised |
| `permuted_mean` | `1/r Σ_i P_i W_i` | inner units are aligned first (`align`) |
| `least_squares` | `argmin_W Σ_i ‖X_i (W - W_i)ᵀ‖²` | from batches that the unshared network runs on (`gram`) |

These are *static*: fused once, when the plan is applied, then the slot is trained. `through` is the other way: all
pretrained tensors stay parameters, the slot is computed from them in each forward pass, and `fold` writes it out.

| | value of the slot, in each forward pass |
|---|---|
| `through(mean)` | `1/r Σ_i W_i` |
| `through(scalar_weighted)` | `1/r Σ_i a_i W_i`, with an `a_i` for each layer that shares, learned, starting at 1 |
| `through(channel_weighted)` | the same with an `a_i` for each output channel |

Tensors of one dimension (biases, norms) take the plain mean in all of them but `first`.

Source: Lin 2022, section 3.2 and supplements B and E. Static means are taken in float64, so equal weights fuse to
themselves exactly.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import math
from typing import Any, ClassVar, no_type_check

from jaxtyping import Num
import torch
from torch import Tensor

from weightshare.depth.align import align_
from weightshare.depth.gram import grams, nearest, widened
from weightshare.depth.topology import Choice
from weightshare.errors import SpecError
from weightshare.sharing import Group
from weightshare.surgery import edit


class Fusion(Choice):
    """How the weights of a slot's readers become one. Subclass it, as a frozen dataclass, for a fusion of your own."""

    reads_batches: ClassVar[bool] = False
    """Whether it needs batches that the network can run on."""

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

    def prepare(self, edits: edit.Transaction, groups: Sequence[Group], batches: Iterable[Any] | None) -> Any:
        """Do and learn what has to come before any slot is fused; by default nothing.

        Args:
            edits: Of the model, whose outputs stay as they are.
            groups: All of the plan.
            batches: What the model can run on.

        Returns:
            What `value` is given.
        """
        return None

    def value(self, weights: Tensor, layers: Sequence[int], group: Group, known: Any) -> Any:
        """The value of one slot of a group, given what `prepare` learned; by default what calling it gives."""
        return self(weights, layers, len(group.items))

    def learned(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of what `through` learns for each layer that shares beside the tensors themselves, or nothing."""
        return None

    @no_type_check  # a checker of types that looks at random items, as in tests, cannot be compiled
    def mix(
        self, weights: Sequence[Tensor], layers: Sequence[int], depth: int, factors: Sequence[Tensor] | None
    ) -> Tensor:
        """What calling it gives, as a function that gradients go through, for `through`.

        Args:
            weights: Of a slot's readers, two or more, in order.
            layers: As for calling it.
            depth: As for calling it.
            factors: What is learned for each of them, if there is anything.
        """
        return self(torch.stack(list(weights)), layers, depth)


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
        wide = widened(weights)
        # Where all agree the mean is what they agree on, to the bit; a sum of r equal numbers over r need not be.
        return torch.where((wide == wide[0]).all(0), wide[0], wide.mean(0)).to(weights.dtype)

    @no_type_check  # a checker of types that looks at random items, as in tests, cannot be compiled
    def mix(
        self, weights: Sequence[Tensor], layers: Sequence[int], depth: int, factors: Sequence[Tensor] | None
    ) -> Tensor:
        if factors is not None:
            weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
        total = weights[0]
        for weight in weights[1:]:
            total = total + weight
        return total / len(weights)


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
        wide = widened(weights)
        factors = torch.tensor([self.weights[layer] for layer in layers], dtype=wide.dtype, device=wide.device)
        return torch.tensordot(factors, wide, dims=1).div(len(layers)).to(weights.dtype)

    @no_type_check  # a checker of types that looks at random items, as in tests, cannot be compiled
    def mix(
        self, weights: Sequence[Tensor], layers: Sequence[int], depth: int, factors: Sequence[Tensor] | None
    ) -> Tensor:
        if weights[0].ndim >= 2:
            weights = [weight * self.weights[layer] for layer, weight in zip(layers, weights, strict=True)]
        return Mean().mix(weights, layers, depth, None)


@dataclass(frozen=True, repr=False)
class ScalarWeighted(Mean):
    """`1/r Σ a_i W_i` with learned `a_i`, one for each layer; inside `through` alone."""

    def learned(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return (1,) * len(shape) if len(shape) >= 2 else None


@dataclass(frozen=True, repr=False)
class ChannelWeighted(Mean):
    """`1/r Σ a_i W_i` with learned `a_i`, one for each output channel of each layer; inside `through` alone."""

    def learned(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return (shape[0], *(1,) * (len(shape) - 1)) if len(shape) >= 2 else None


@dataclass(frozen=True, repr=False)
class PermutedMean(Mean):
    """The mean after inner units of each layer were put in the order of the first reader's; see `permuted_mean`."""

    def prepare(self, edits: edit.Transaction, groups: Sequence[Group], batches: Iterable[Any] | None) -> Any:
        return align_(edits, groups)


@dataclass(frozen=True, repr=False)
class LeastSquares(Fusion):
    """The weight that gives, of all, outputs nearest to those that the layers gave; see `least_squares`.

    Args:
        ridge: How strongly it is held at the mean where batches say little, relative to the mean square of the inputs;
            above 0.

    Raises:
        SpecError: If that is no finite number above 0.
    """

    ridge: float = 0.01

    reads_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.ridge, int | float) or not 0 < self.ridge < math.inf:
            raise SpecError(f"least_squares needs a finite ridge above 0, got {self.ridge!r}.")

    def __call__(
        self, weights: Num[Tensor, "readers *weight"], layers: Sequence[int], depth: int
    ) -> Num[Tensor, "*weight"]:
        return mean(weights, layers, depth)

    def prepare(self, edits: edit.Transaction, groups: Sequence[Group], batches: Iterable[Any] | None) -> Any:
        assert batches is not None
        return grams(edits.model, [path for group in groups for path in group.items], batches)

    def value(self, weights: Tensor, layers: Sequence[int], group: Group, known: Any) -> Tensor:
        held = [known.get(group.items[layer]) for layer in layers]
        average = mean(weights, layers, len(group.items))
        if len(held) == 1 or any(gram is None for gram in held):
            return average
        return nearest(torch.stack(held), weights, average, self.ridge)


@dataclass(frozen=True, repr=False)
class Through(Fusion):
    """A fusion that is computed in each forward pass from all pretrained tensors, which are trained; see `through`."""

    fusion: Fusion

    def __post_init__(self) -> None:
        if not isinstance(self.fusion, Fusion) or isinstance(self.fusion, Through | LeastSquares | First):
            raise SpecError(
                f"through({self.fusion!r}): give mean, weighted_mean([...]), scalar_weighted, channel_weighted or "
                "permuted_mean. first trains one tensor alone, and least_squares has no formula to train through."
            )

    def __repr__(self) -> str:
        return f"through({self.fusion!r})"

    def __call__(
        self, weights: Num[Tensor, "readers *weight"], layers: Sequence[int], depth: int
    ) -> Num[Tensor, "*weight"]:
        return self.fusion(weights, layers, depth)

    def prepare(self, edits: edit.Transaction, groups: Sequence[Group], batches: Iterable[Any] | None) -> Any:
        return self.fusion.prepare(edits, groups, batches)

    def learned(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return self.fusion.learned(shape)

    @no_type_check  # a checker of types that looks at random items, as in tests, cannot be compiled
    def mix(
        self, weights: Sequence[Tensor], layers: Sequence[int], depth: int, factors: Sequence[Tensor] | None
    ) -> Tensor:
        return self.fusion.mix(weights, layers, depth, factors)


first = First()
"""The weight of the first reader."""
mean = Mean()
"""`1/r Σ W_i` over the `r` readers of a slot."""
scalar_weighted = ScalarWeighted()
"""`1/r Σ a_i W_i` with learned `a_i`, one for each layer; inside `through` alone."""
channel_weighted = ChannelWeighted()
"""`1/r Σ a_i W_i` with learned `a_i`, one for each output channel of each layer; inside `through` alone."""
permuted_mean = PermutedMean()
"""The mean after inner units of each layer were put in the order of the first reader's, which changes no output."""
least_squares = LeastSquares()
"""The weight that gives, of all, outputs nearest to those that the layers gave on a few batches."""


def through(fusion: Fusion) -> Through:
    """The fusion *trained through*: all pretrained tensors stay parameters, and each forward pass fuses them.

    A slot is computed once in a pass, whoever reads it. `fold` writes the slots out and drops the rest.

    Args:
        fusion: `mean`, `weighted_mean([...])`, `scalar_weighted`, `channel_weighted`, `permuted_mean`, or one of your
            own whose `mix` gradients go through.

    Returns:
        A fusion for `Tie(fuse=...)`. It starts from the same slots as the static one, up to rounding.

    Raises:
        SpecError: If it is no fusion, or one that cannot be trained through.

    Source: Lin 2022, section 3.2. In training it stores as many numbers as before and a few more; the fold is smaller.

    Example:
        >>> through(mean)
        through(mean)
    """
    return Through(fusion)


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
