"""Layers of one kind: parallel weights as one, each layer times a factor of its own, and what that loses.

Source: Savarese 2019, folding. Differs: the poster sets `α_i = ±α_j`; here the one weight is that which all of a kind
are closest to, with the factors that are best for it, or with signs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Literal

import torch
from torch import Tensor, nn

from weightshare.depth.nearest import gram

Scale = Literal["keep", "sign"]
NEAR = 1e-6
"""What is closer to 1 than this, or to the layer that it repeats, is taken to be it: rounding of float32."""


@dataclass(frozen=True)
class Kind:
    """Layers of a group that become one.

    Args:
        items: Paths of their weights; the first one keeps the parameter.
        factors: What each of them multiplies it by; 1 for the first.
        error: How far that is from what they were: `‖W − c·W_1‖ / ‖W‖` over all of them.
    """

    items: tuple[str, ...]
    factors: tuple[float, ...]
    error: float


def joined(
    items: Sequence[str], weights: Mapping[str, Tensor], scale: Scale, factors: Sequence[float] | None = None
) -> tuple[Kind, Tensor]:
    """One weight for several layers, a mixture of theirs, with the factor of each and what that loses.

    Args:
        items: Of the layers.
        weights: By path.
        scale: Whether factors are numbers or signs.
        factors: Those of a plan; otherwise the best ones.
    """
    members = [weights[path] for path in items]
    inner = gram(members)
    mixture = nn.functional.one_hot(torch.tensor(0), len(items)).to(inner)  # the first, if all are parallel to it
    if factors is not None:
        given = torch.tensor(factors).to(inner)
    elif scale == "sign":
        given = torch.where(inner[0] < 0, -1.0, 1.0).to(inner)
    else:
        given = inner[0] / inner[0, 0]
        if _lost(inner, given, mixture) > NEAR:  # what all are closest to: the first singular vector
            vector = torch.linalg.eigh(inner).eigenvectors[:, -1]
            given = vector / vector[0]
    given = torch.where((given.abs() - 1).abs() <= NEAR, given.sign(), given)
    value = members[0].clone()
    if _lost(inner, given, mixture) > NEAR:
        mixture = given / given.square().sum()  # the best for these factors
        wide = [weight.double() * part for weight, part in zip(members, mixture.tolist(), strict=True)]
        value = torch.stack(wide).sum(0).to(value.dtype)
    return Kind(tuple(items), tuple(given.tolist()), _lost(inner, given, mixture)), value


def _lost(inner: Tensor, factors: Tensor, mixture: Tensor) -> float:
    """`‖W_i − c_i Σ_l m_l W_l‖` over all members, relative to all of them, from inner products of the members."""
    size = mixture @ inner @ mixture
    off = inner.diagonal().sum() - 2 * (factors @ inner @ mixture) + factors.square().sum() * size
    return math.sqrt(max(0.0, float(off / inner.diagonal().sum())))
