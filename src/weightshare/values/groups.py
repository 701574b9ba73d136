"""The general penalty `R_C(w) = Σ_{i>j} C_ij ‖w_i − w_j‖`, and its proximal map where `C` is made of blocks.

In the grid: the drive towards sharing across values, where the user says which values may meet. Three cases of `C`
have a proximal map:

| items | C | map |
|---|---|---|
| scalars | blocks: `1/(d_g − 1)` within group `g` | `prox_groups`, exact, one sort for all groups |
| rows, such as filters | all pairs, or any | `convex.convex_clustering`, with a duality gap |
| scalars | sparse | `graph.prox_graph`, exact up to rounding, with a duality gap |

Source: Shakerinava 2023, the general penalty among the open questions.
"""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.kernels import on
from weightshare.values import check, coupling
from weightshare.values.pairwise import pairwise_penalty

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def prox_groups(w: Tensor, labels: Int[Tensor, "..."], step: float) -> Tensor:
    """Pull the weights of each group together: the exact `argmin_z ½‖z − w‖² + step·Σ_g R(z_g)`.

    `prox_pairwise` on each group, for all groups at once: `O(n log n)` for `n` weights, however many groups there are
    and whatever their sizes. Each group keeps its mean and order. It can be differentiated, as `prox_pairwise` can.

    Args:
        w: Float tensor of any shape, on any device. Half types are computed in float32 and rounded at the end.
        labels: Integers of the shape of `w`: the group of each weight. −1 leaves a weight alone, and what is left
            alone may have any value. Numbers that no weight has are empty groups, at no cost.
        step: Strength times learning rate; finite, at least 0. No gradient flows to it.

    Returns:
        A new tensor like `w`. Weights of one group that met are equal to the bit; groups of one weight stay.

    Raises:
        SpecError: If `w` is no dense float tensor, or a grouped weight is NaN or infinite; if the labels do not fit.

    Source: Shakerinava 2023, open questions: `R_C` with block `C`, where each block is `R` of its group.
    Differs: nothing.

    Example:
        >>> w = torch.tensor([0.0, 3.0, 1.0, 9.0, 5.0])
        >>> prox_groups(w, torch.tensor([0, 0, 0, 1, -1]), step=0.75)
        tensor([0.7500, 2.2500, 1.0000, 9.0000, 5.0000])
    """
    what = "prox_groups"
    step = check.strength(step, f"{what}'s step")
    groups = _grouped(check.tensor(w, what), labels, what)
    kernels = on(groups.places.device)
    ends, values = kernels.pool(groups.places, None, groups.bounds, step)
    recorded = w.requires_grad and torch.is_grad_enabled()
    found = torch.empty_like(groups.places)
    clusters = torch.empty(found.numel() if recorded else 0, dtype=torch.int64, device=found.device)
    kernels.spread(ends, values, groups.order, found, clusters if recorded else None)
    flat = w.reshape(-1)
    z = flat.detach().clone()
    z[groups.chosen] = found.to(z.device, z.dtype)
    return (_Means.apply(flat, z, groups.chosen, clusters.to(z.device)) if recorded else z).view(w.shape)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def group_penalty(
    w: Float[Tensor, "n *item"],
    labels: Tensor | None = None,
    weights: Tensor | None = None,
    edges: Int[Tensor, "2 edges"] | None = None,
) -> Float[Tensor, ""]:
    """How far weights are from being one with those that `C` couples them to: `R_C(w) = Σ_{i>j} C_ij ‖w_i − w_j‖`.

    Differentiable; the gradient of a distance of 0 is 0. With labels `O(n log n)`, else `O(k)` for each coupled pair,
    all of them in memory at once. Summed in float64.

    Args:
        w: Float tensor. With labels each of its numbers is an item; otherwise its first dimension counts the items,
            and `‖·‖` is the Euclidean norm of what is left: a convolution's weight is one row for each filter.
        labels: As for `prox_groups`: `C_ij = 1/(d_g − 1)` for two weights of group `g` that has `d_g`, 0 for others.
        weights: `C`, a symmetric (n, n) matrix, dense or sparse, whose diagonal is left out; or with edges one number
            for each. Finite and at least 0. Used as it is: nothing is divided by `n − 1`.
        edges: Pairs of items, (2, edges), from 0. List each pair once: the weights of one listed twice add up. An
            edge from an item to itself counts nothing. Without weights, each has weight 1.

    Returns:
        One number; float64 for float64, else float32. Without labels, weights and edges all pairs have
        `C_ij = 1/(n − 1)`: for scalars that is `pairwise_penalty`.

    Raises:
        SpecError: If `w` is no dense float tensor, or holds NaN or infinity; if labels or `C` do not fit.

    Source: Shakerinava 2023, open questions: `R_C`.
    Differs: nothing.

    Example:
        >>> w = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
        >>> group_penalty(w)
        tensor(5.)
        >>> group_penalty(w[:, 0], edges=torch.tensor([[0, 1], [1, 2]]))
        tensor(3.)
    """
    what = "group_penalty"
    check.tensor(w, what)
    if labels is not None:
        if weights is not None or edges is not None:
            raise SpecError(f"{what}: labels say what meets, and so do weights and edges: give one of them.")
        return _labelled(w, labels, what)
    rows = filters(w, what)
    if weights is None and edges is None and rows.shape[1] == 1:
        return pairwise_penalty(w)
    pairs = coupling.as_edges(rows.shape[0], weights, edges, rows.device, what)
    wide = rows.double()
    lengths = torch.linalg.vector_norm(wide[pairs.one] - wide[pairs.other], dim=1)
    return (pairs.weights * lengths).sum().to(check.width(w.dtype))


def filters(w: Tensor, what: str) -> Tensor:
    """`w` as rows, (n, k), one for each entry of its first dimension; `SpecError` if it has none or is not finite."""
    if w.ndim == 0:
        raise SpecError(f"{what} needs one row for each item, got a single number: give a tensor of shape (n, ...).")
    check.all_finite(w, what)
    return w.reshape(w.shape[0], -1) if w.numel() else w.new_zeros(w.shape[0], 1)


class _Grouped(NamedTuple):
    """The grouped weights, sorted within each group."""

    places: Tensor  # (grouped), in the dtype that they are computed in
    order: Tensor  # (grouped) of int64: where each was among the grouped ones
    bounds: Tensor  # (groups + 1) of int64, on the processor; no group is empty
    chosen: Tensor  # (grouped) of int64: where the grouped ones are in the flattened weight


def _grouped(w: Tensor, labels: object, what: str) -> _Grouped:
    if not isinstance(labels, Tensor) or labels.dtype not in _INTEGERS:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise SpecError(f"{what}: labels are a tensor of integers, got {got}.")
    check.same_shape(w, labels, f"{what} with labels")
    if labels.numel() and int(labels.min()) < -1:
        raise SpecError(
            f"{what}: labels count groups from 0, or are -1 for a weight left alone; got {int(labels.min())}."
        )
    named = labels.reshape(-1).to(w.device)
    chosen = (named >= 0).nonzero().squeeze(1)
    flat, named = w.detach().reshape(-1)[chosen], named[chosen]
    device = "cpu" if flat.device.type not in ("cpu", "cuda") else flat.device
    flat, named = flat.to(device, check.width(w.dtype)), named.to(device)
    check.all_finite(flat, what)
    # by value, then by group with a sort that leaves the values of a group in order: no loop over groups
    _, order = on(flat.device).sort(flat.contiguous(), check.evenly(1, flat.numel()))
    order = order.long()
    order = order[torch.argsort(named[order], stable=True)]
    sizes = torch.unique_consecutive(named[order], return_counts=True)[1].cpu()
    bounds = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return _Grouped(flat[order], order, bounds, chosen)


def _labelled(w: Tensor, labels: Tensor, what: str) -> Tensor:
    """The sum of `R` over groups: places times mean ranks, as in `pairwise`, for all groups at once."""
    groups = _grouped(w, labels, what)
    ends, _ = on(groups.places.device).pool(groups.places, None, groups.bounds, 0.0)
    sizes = groups.bounds.diff()
    size = torch.repeat_interleave(sizes, sizes).to(ends.device)
    first = torch.repeat_interleave(groups.bounds[:-1], sizes).to(ends.device)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]]) if ends.numel() else ends
    tied = torch.repeat_interleave(starts + ends - 1, ends - starts)  # twice the mean place of equal weights
    slopes = (tied - 2 * first - size + 1).double() / (size - 1).clamp(min=1)
    chosen = groups.chosen[groups.order.to(groups.chosen.device)]
    picked = w.reshape(-1)[chosen].double()
    return (picked * slopes.to(picked.device)).sum().to(check.width(w.dtype))


class _Means(torch.autograd.Function):
    """What was found, with the Jacobian that takes the mean over each cluster and leaves the rest alone."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, z: Tensor, chosen: Tensor, clusters: Tensor) -> Tensor:
        ctx.save_for_backward(chosen, clusters)
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        (gradient,), (chosen, clusters) = gradients, ctx.saved_tensors
        picked = gradient[chosen]
        count = int(clusters.max()) + 1 if clusters.numel() else 0
        sizes = torch.bincount(clusters, minlength=count).to(picked.dtype)
        means = picked.new_zeros(count).index_add(0, clusters, picked) / sizes
        return gradient.index_copy(0, chosen, means[clusters]), None, None, None
