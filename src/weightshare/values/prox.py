"""The proximal map of the pairwise penalty, exact: `argmin_z ½‖z − w‖² + step·R(z)`.

In the grid: what drives weights to share across values, one step of it; `binned` is its faster twin, with an error
bound. How it is computed is in `sticky`.

Steps compose: `prox(prox(w, s), t) = prox(w, s + t)` for all `s, t ≥ 0`. Proof: let `u = prox(w, s)` and
`z = prox(u, t)`, so `w − u ∈ s ∂R(u)` and `u − z ∈ t ∂R(z)`. Weights that are equal in `u` stay so, and the order is
kept, so each subgradient at `u` is one at `z`, and `w − z ∈ s ∂R(z) + t ∂R(z) = (s + t) ∂R(z)`. `prox_path` uses it.

Source: Shakerinava 2023, the proximal map as sticky particles.
"""

from collections.abc import Sequence
from typing import Any, overload

from jaxtyping import Float, Int
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.kernels import on
from weightshare.values import check
from weightshare.values.sticky import solve, sort


@overload
def prox_pairwise(w: Tensor, step: float, weights: Tensor | None = None, batch_dims: int = 0) -> Tensor: ...
@overload
def prox_pairwise(
    w: Sequence[Tensor], step: float, weights: Sequence[Tensor] | None = None, batch_dims: int = 0
) -> list[Tensor]: ...
def prox_pairwise(
    w: check.Weights, step: float, weights: check.Weights | None = None, batch_dims: int = 0
) -> Tensor | list[Tensor]:
    """Pull weights together: the exact `argmin_z ½‖z − w‖² + step·R(z)`.

    Order and mean are kept, weights that meet become equal to the bit, and two inputs come no further apart. It can be
    differentiated: its Jacobian takes the mean over each cluster. `O(n log n)` for `n` weights.

    Args:
        w: Float tensor of any shape, on any device; or several of one dtype and device whose weights do not meet. Half
            types are computed in float32 and rounded at the end.
        step: Strength times learning rate; finite, at least 0. No gradient flows to it.
        weights: The mass of each particle (how many weights it stands for), broadcast to `w`; positive, of sum over 1.
            The objective is then `½ Σ m_i (z_i − w_i)² + step·R_m(z)`. No gradient flows to it.
        batch_dims: How many leading dimensions of `w` count independent problems: 1 for the rows of a weight.

    Returns:
        A new tensor like `w`, or a list of them.

    Raises:
        SpecError: If `w` is no dense float tensor, or holds NaN or infinity; if an argument is out of its range.

    Source: Shakerinava 2023, the proximal map of R.
    Differs: Found by pooling sorted neighbours instead of by the paper's algorithms (`collisions`); the result is one.

    Example:
        >>> prox_pairwise(torch.tensor([0.0, 3.0, 1.0]), step=0.75)
        tensor([0.7500, 2.2500, 1.0000])
        >>> prox_pairwise(torch.tensor([0.0, 3.0, 1.0]), step=1.5)
        tensor([1.2500, 1.5000, 1.2500])
    """
    return _prox(w, step, weights, batch_dims, label=False)[0]


@overload
def prox_clusters(
    w: Tensor, step: float, weights: Tensor | None = None, batch_dims: int = 0
) -> tuple[Tensor, Int[Tensor, "..."]]: ...
@overload
def prox_clusters(
    w: Sequence[Tensor], step: float, weights: Sequence[Tensor] | None = None, batch_dims: int = 0
) -> tuple[list[Tensor], list[Tensor]]: ...
def prox_clusters(w: Any, step: Any, weights: Any = None, batch_dims: int = 0) -> tuple[Any, Any]:
    """Pull weights together, and say which ones met.

    Args:
        w: As for `prox_pairwise`.
        step: As for `prox_pairwise`.
        weights: As for `prox_pairwise`.
        batch_dims: As for `prox_pairwise`.

    Returns:
        What `prox_pairwise` returns, and labels of its shape: int64, from 0, ascending with the value within a problem,
        and on from one problem to the next. Two clusters may round to one number and keep their two labels.

    Raises:
        SpecError: As `prox_pairwise`.

    Example:
        >>> prox_clusters(torch.tensor([0.0, 3.0, 1.0]), step=1.5)[1]
        tensor([0, 1, 0])
    """
    return _prox(w, step, weights, batch_dims, label=True)


def rewound(old: Tensor, new: Tensor, clusters: Tensor, rewind: float) -> Tensor:
    """Each cluster, moved `1 − rewind` of its way to `new` from the mean of its members' old places; all `(n)`."""
    count = int(clusters.max()) + 1 if clusters.numel() else 0
    sums = torch.zeros(count, dtype=torch.float64, device=old.device).index_add_(0, clusters, old.double())
    means = (sums / clusters.bincount(minlength=count)).to(old.dtype)[clusters]
    return means + (1 - rewind) * (new - means)


def _prox(w: Any, step: Any, weights: Any, batch_dims: int, label: bool) -> tuple[Any, Any]:
    what = "prox_pairwise"
    step = check.strength(step, f"{what}'s step")
    if not isinstance(w, Sequence):
        bounds = check.bounds(check.tensor(w, what), batch_dims, what)
        mass = check.masses(weights, w, what)
        check.heavy_enough(mass, bounds, what)
        z, labels = solve(w.reshape(-1), mass, bounds, step, label or _recorded(w))
        return z.view(w.shape), labels.view(w.shape) if label else None
    tensors = [check.tensor(part, what) for part in w]
    if len({(part.dtype, part.device) for part in tensors}) > 1:
        raise SpecError(f"{what}: the tensors of one call need one dtype and one device; call it once for each kind.")
    if weights is not None and len(weights) != len(tensors):
        raise SpecError(f"{what}: {len(tensors)} tensors, but masses for {len(weights)}: give one tensor for each.")
    if not tensors:
        return [], []
    given = weights or [None] * len(tensors)
    masses = [check.masses(mass, part, what) for mass, part in zip(given, tensors, strict=True)]
    edges = [check.bounds(part, batch_dims, what) for part in tensors]
    sizes = torch.cat([edge.diff() for edge in edges])
    bounds = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    mass = None if weights is None else torch.cat([part.reshape(-1) for part in masses if part is not None])
    check.heavy_enough(mass, bounds, what)
    z, labels = solve(torch.cat([part.reshape(-1) for part in tensors]), mass, bounds, step, label)
    return _like(tensors, z), _like(tensors, labels) if label else None


def _recorded(w: Tensor) -> bool:
    return w.requires_grad and torch.is_grad_enabled()


def _like(tensors: Sequence[Tensor], flat: Tensor) -> list[Tensor]:
    pieces = flat.split([part.numel() for part in tensors])
    return [piece.view(part.shape) for piece, part in zip(pieces, tensors, strict=True)]


def prox_path(
    w: Tensor, strengths: Sequence[float], weights: Tensor | None = None, batch_dims: int = 0
) -> Float[Tensor, "strengths ..."]:
    """Pull weights together with several strengths, each going on from the clusters of the one before.

    One sort in all; every further strength costs as much as there are clusters left.

    Args:
        w: One tensor, as for `prox_pairwise`.
        strengths: Finite, at least 0, not descending.
        weights: As for `prox_pairwise`.
        batch_dims: As for `prox_pairwise`.

    Returns:
        `prox_pairwise(w, s)` for each strength `s`, stacked; without gradient.

    Raises:
        SpecError: As `prox_pairwise`, or if the strengths descend.

    Source: Shakerinava 2023: particles that met stay together.
    Differs: The paper starts each map afresh; that steps compose is shown at the top of this file.

    Example:
        >>> prox_path(torch.tensor([0.0, 3.0, 1.0]), [0.0, 0.75, 1.5])
        tensor([[0.0000, 3.0000, 1.0000],
                [0.7500, 2.2500, 1.0000],
                [1.2500, 1.5000, 1.2500]])
    """
    what = "prox_path"
    steps = [check.strength(step, f"{what}'s strength") for step in strengths]
    if steps != sorted(steps):
        raise SpecError(f"{what} goes from weak to strong, got strengths {steps}: sort them.")
    bounds = check.bounds(check.tensor(w, what), batch_dims, what)
    mass = check.masses(weights, w, what)
    check.heavy_enough(mass, bounds, what)
    places, order = sort(w.detach().reshape(-1), bounds, what)
    kernels = on(places.device)
    mass = places.new_ones(order.numel(), dtype=torch.float64) if mass is None else mass.reshape(-1)[order.long()]
    path, particles, before = places.new_empty(len(steps), order.numel()), None, 0.0
    for row, step in zip(path, steps, strict=True):
        ends, places = kernels.pool(places, mass, bounds, step - before)
        last = ends - 1
        mass = mass.cumsum(0)[last].diff(prepend=mass.new_zeros(1))
        bounds = torch.searchsorted(ends, bounds.to(ends.device), right=True).cpu()
        particles = ends if particles is None else particles[last]
        kernels.spread(particles, places, order, row, None)
        before = step
    return path.to(w.device, w.dtype).view(len(steps), *w.shape)
