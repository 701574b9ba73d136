"""Transforms: what a layer adds of its own to the weight that it reads.

    W_i = T_i(S_j)

| | `T_i(S)` | numbers of a layer |
|---|---|---|
| nothing (`own=None`) | `S` | 0 |
| `Scale()` | `a_i S`, with `shift=True` `a_i S + b_i`, each one number | 1 or 2 |
| `Scale(by="channel")` | the same with a number for each output channel | `out` or `2 out` |
| `LoRA(rank)` | `S + B_i A_i` | `rank (out + in)` |

Tying all of a block but its norms leaves each layer a norm of its own, which needs no transform: MiniViT and relaxed
recursive transformers both do so. Transforms are for matrices and kernels; vectors are read as they are.

Source: `a W + b` is Lin 2022's transformation; Bae 2024 (arXiv 2410.20672) starts `B_i A_i` from the truncated singular
value decomposition of what tying lost, `W_i - S_j`; Zhang 2022 (MiniViT) has the transforms unshared.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Literal

import torch
from torch import Tensor, nn

from weightshare.depth.gram import widened
from weightshare.errors import SpecError
from weightshare.generating import Own
from weightshare.parts import Part


class Transform(Part):
    """What layers add of their own; abstract. Subclass it, as a frozen dataclass, for one of your own."""

    @abstractmethod
    def numbers(self, shape: tuple[int, ...]) -> int:
        """How many numbers a layer with a weight of this shape has of its own.

        Raises:
            SpecError: If it cannot have them, as a rank above the matrix.
        """

    @abstractmethod
    def blank(self, layers: int, like: Tensor) -> Own:
        """The transforms of so many layers, each leaving what it reads as it is.

        Args:
            layers: How many.
            like: One of the weights.
        """

    @abstractmethod
    def fit(self, own: Own, weights: Sequence[Tensor], bases: Sequence[Tensor]) -> None:
        """Set transforms that `blank` made so that layers come close to the weights that they had.

        Args:
            own: To be changed.
            weights: What each layer had.
            bases: What each layer reads now.
        """

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape gets a transform at all: matrices and kernels do, vectors do not."""
        return len(shape) >= 2


@dataclass(frozen=True, repr=False)
class Scale(Transform):
    """`T_i(S) = a_i S`, or `a_i S + b_i`: a scale of the layer's own, and a shift.

    Args:
        by: `scalar`, one number for the weight, or `channel`, one for each output channel (the first axis).
        shift: Whether there is a `b_i` too.
        start: `identity` starts at `a = 1`, `b = 0`. `fit` starts at the least-squares fit to the weight that the layer
            had, which suits pretrained networks alone: random weights do not resemble each other, so theirs is near 0.

    Raises:
        SpecError: If a value is none of these.

    Source: Lin 2022, section 3 (the transformation of a shared weight).

    Example:
        >>> Scale("channel").numbers((7, 5, 3, 3))
        7
    """

    by: Literal["scalar", "channel"] = "scalar"
    shift: bool = False
    start: Literal["identity", "fit"] = "identity"

    def __post_init__(self) -> None:
        if self.by not in ("scalar", "channel") or type(self.shift) is not bool:
            raise SpecError(f"{self!r}: by is 'scalar' or 'channel', and shift true or false.")
        _expect_start(self, self.start)

    def numbers(self, shape: tuple[int, ...]) -> int:
        return (shape[0] if self.by == "channel" else 1) * (1 + self.shift)

    def blank(self, layers: int, like: Tensor) -> Own:
        """See `Transform.blank`."""
        return Scaled(layers, like, self.by == "channel", self.shift)

    @torch.no_grad()
    def fit(self, own: Own, weights: Sequence[Tensor], bases: Sequence[Tensor]) -> None:
        assert isinstance(own, Scaled)
        if self.start == "identity":
            return
        for layer, (weight, base) in enumerate(zip(weights, bases, strict=True)):
            rows = weight.shape[0] if self.by == "channel" else 1
            target, source = (widened(tensor).reshape(rows, -1) for tensor in (weight, base))
            means = [rows_of.mean(1, keepdim=True) * self.shift for rows_of in (target, source)]
            centred = source - means[1]
            spread = centred.abs().square().sum(1, keepdim=True)
            slope = ((target - means[0]) * centred.conj()).sum(1, keepdim=True) / spread
            slope = torch.where(spread > 0, slope, torch.ones_like(slope))
            own.scale[layer] = slope.view(own.scale[layer].shape)
            if own.shift is not None:
                own.shift[layer] = (means[0] - slope * means[1]).view(own.shift[layer].shape)


@dataclass(frozen=True, repr=False)
class LoRA(Transform):
    """`T_i(S) = S + B_i A_i`: a matrix of low rank of the layer's own.

    Kernels count as matrices `(out, in·k·k)`.

    Args:
        rank: Of `B_i A_i`, at least 1 and at most the smaller side of the matrix.
        start: `fit` starts from the truncated singular value decomposition of what the layer lost, `W_i - S_j`, the
            best start of that rank, `B = U √Σ` and `A = √Σ Vᵀ`; `identity` from `B = 0` and small random `A`.

    Raises:
        SpecError: If the rank is no whole number of at least 1; when planning, if it is above a matrix.

    Source: Bae 2024 (Relaxed Recursive Transformers), section 2.3; Hu 2021 for `identity`.

    Example:
        >>> LoRA(rank=2).numbers((7, 5))
        24
    """

    rank: int
    start: Literal["fit", "identity"] = "fit"

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise SpecError(f"LoRA(rank={self.rank!r}): need a whole number of at least 1.")
        _expect_start(self, self.start)

    def numbers(self, shape: tuple[int, ...]) -> int:
        rows, columns = shape[0], math.prod(shape[1:])
        if self.rank > min(rows, columns):
            raise SpecError(
                f"LoRA(rank={self.rank}): a weight of shape {shape} is a matrix of {rows} by {columns}, whose rank is "
                f"at most {min(rows, columns)}"
            )
        return self.rank * (rows + columns)

    def blank(self, layers: int, like: Tensor) -> Own:
        """See `Transform.blank`."""
        return LowRankUpdates(layers, like, self.rank)

    @torch.no_grad()
    def fit(self, own: Own, weights: Sequence[Tensor], bases: Sequence[Tensor]) -> None:
        assert isinstance(own, LowRankUpdates)
        if self.start == "identity":
            nn.init.kaiming_uniform_(own.down, a=math.sqrt(5))
            return
        for layer, (weight, base) in enumerate(zip(weights, bases, strict=True)):
            lost = (widened(weight) - widened(base)).flatten(1)
            left, sizes, right = torch.linalg.svd(lost, full_matrices=False)
            root = sizes[: self.rank].sqrt()
            own.up[layer] = left[:, : self.rank] * root
            # Where nothing was lost, as by the first reader of `first`, B is 0; were A, too, neither had a gradient.
            beside = torch.where(root > 0, root, right.shape[1] ** -0.5)
            own.down[layer] = beside[:, None] * right[: self.rank]


class Scaled(Own):
    """Scales and shifts of all layers of a group.

    Args:
        layers: How many.
        like: One of the weights.
        channels: Whether there is one for each output channel.
        shifted: Whether there are shifts.
    """

    shift: nn.Parameter | None

    def __init__(self, layers: int, like: Tensor, channels: bool, shifted: bool) -> None:
        super().__init__()
        shape = (layers, like.shape[0] if channels else 1, *[1] * (like.ndim - 1))
        self.scale = nn.Parameter(like.new_ones(shape))
        self.register_parameter("shift", nn.Parameter(like.new_zeros(shape)) if shifted else None)

    def add(self, bases: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.add_one(base, layer) for layer, base in enumerate(bases)]

    def add_one(self, base: Tensor, layer: int) -> Tensor:
        scaled = base * self.scale[layer]
        return scaled if self.shift is None else scaled + self.shift[layer]


class LowRankUpdates(Own):
    """`B_i` and `A_i` of all layers of a group, multiplied in one batched product.

    Args:
        layers: How many.
        like: One of the weights.
        rank: Of each product.
    """

    def __init__(self, layers: int, like: Tensor, rank: int) -> None:
        super().__init__()
        rows = like.shape[0]
        self.up = nn.Parameter(like.new_zeros(layers, rows, rank))
        self.down = nn.Parameter(like.new_zeros(layers, rank, like.numel() // rows))

    def add(self, bases: Sequence[Tensor]) -> Sequence[Tensor]:
        added = torch.bmm(self.up, self.down)
        return [base + update.view(base.shape) for base, update in zip(bases, added.unbind(), strict=True)]

    def add_one(self, base: Tensor, layer: int) -> Tensor:
        return base + (self.up[layer] @ self.down[layer]).view(base.shape)


def _expect_start(transform: Transform, start: str) -> None:
    if start not in ("identity", "fit"):
        raise SpecError(f"{transform!r}: start is 'identity' or 'fit'.")
