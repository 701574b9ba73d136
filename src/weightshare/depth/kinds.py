"""Layers of one kind: which are parallel, what they are as one, each times a factor of its own, and what that loses.

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


def parallel(cosines: Tensor, threshold: float) -> list[int]:
    """Sort layers so that all of one kind are parallel: each to each other.

    Args:
        cosines: `(layers, layers)`; NaN where there is none.
        threshold: Least `|cos|`.

    Returns:
        For each layer the number of its kind, from 0 in order of first appearance. A layer joins the kind whose members
        it is closest to on average, of those that it is close enough to each of.

    Example:
        >>> parallel(torch.tensor([[1.0, 0.2, -1.0], [0.2, 1.0, 0.1], [-1.0, 0.1, 1.0]]), threshold=0.9)
        [0, 1, 0]
    """
    alike = cosines.abs()
    kinds: list[list[int]] = []
    for layer in range(len(alike)):
        close = [kind for kind in kinds if bool((alike[layer, torch.tensor(kind)] >= threshold).all())]
        if close:
            max(close, key=lambda kind: float(alike[layer, torch.tensor(kind)].mean())).append(layer)
        else:
            kinds.append([layer])
    return [next(at for at, kind in enumerate(kinds) if layer in kind) for layer in range(len(alike))]


def of_one_shape(alike: Tensor, shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """Similarities of layers of one shape alone, NaN for other pairs: layers of different widths cannot be one.

    Args:
        alike: `(layers, layers)`, `|cos|`.
        shapes: Of each layer, or none if all have one.
    """
    if not shapes:
        return alike
    same = torch.tensor([[one == other for other in shapes] for one in shapes], device=alike.device)
    return alike.masked_fill(~same, torch.nan)


def apart_by_shape(
    items: Sequence[str], alike: Tensor, shapes: Sequence[tuple[int, ...]], labels: Sequence[int], threshold: float
) -> tuple[tuple[str, str], ...]:
    """The first layer of each kind that is parallel to an earlier layer of another shape, with that as the reason.

    Args:
        items: Path of each layer.
        alike: `(layers, layers)`, `|cos|` of all pairs.
        shapes: Of each layer, or none if all have one.
        labels: From `parallel`.
        threshold: Least `|cos|`.
    """
    found = []
    for layer in (list(labels).index(kind) for kind in range(1, max(labels) + 1)):
        near = (alike[layer, :layer] >= threshold).tolist()
        other = next((at for at in range(layer) if shapes and near[at] and shapes[at] != shapes[layer]), None)
        if other is not None:
            found.append((items[layer], f"is parallel to '{items[other]}', and of another shape"))
    return tuple(found)


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
