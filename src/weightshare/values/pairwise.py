"""The pairwise penalty `R(w) = 1/(d − 1) Σ_{i>j} |w_i − w_j|` and what convex analysis says of it.

In the grid: the drive towards sharing across values. With `x` the weights in ascending order it is a weighted sum,
`Σ_i (2i − d + 1)/(d − 1) x_i` (`i` from 0), so one sort gives the value and the slope; no pair is ever formed. With
masses `m`, for particles that stand for several weights: `R_m(w) = 1/(M − 1) Σ_{i>j} m_i m_j |w_i − w_j|`, `M = Σ m`,
which is `R` of the weights written out. Both are 0 for a single particle.

Source: Shakerinava 2023, definition of R. Differs: the masses are ours.
"""

import math

from jaxtyping import Float
import torch
from torch import Tensor

from weightshare.kernels import on
from weightshare.values import check
from weightshare.values.sticky import slopes, sort


def pairwise_penalty(w: Tensor, weights: Tensor | None = None, batch_dims: int = 0) -> Float[Tensor, "*problems"]:
    """How far weights are from being one: `R(w) = 1/(d − 1) Σ_{i>j} |w_i − w_j|`.

    Differentiable: its gradient is `pairwise_subgradient`. `O(n log n)`; summed in float64.

    Args:
        w: Float tensor of any shape; all its numbers are particles of one problem.
        weights: The mass of each particle (how many weights it stands for), broadcast to `w`; positive, of sum over 1.
            No gradient flows to it.
        batch_dims: How many leading dimensions of `w` count independent problems: 1 for the rows of a weight.

    Returns:
        One number for each problem: `w.shape[:batch_dims]`, float64 for float64, else float32. 0 for one weight.

    Raises:
        SpecError: If `w` is no dense float tensor, or holds NaN or infinity; if an argument is out of its range.

    Source: Shakerinava 2023, definition of R.
    Differs: nothing.

    Example:
        >>> w = torch.tensor([0.0, 3.0, 1.0], requires_grad=True)
        >>> pairwise_penalty(w).backward()
        >>> w.grad
        tensor([-1., 1., 0.])
        >>> pairwise_penalty(torch.tensor([[0.0, 3.0], [1.0, 1.0]]), batch_dims=1)
        tensor([3., 0.])
    """
    slope = _slopes(check.tensor(w, "pairwise_penalty"), weights, batch_dims, "pairwise_penalty")
    total = (w.double() * slope).flatten(batch_dims).sum(-1) if batch_dims < w.ndim else w.double() * slope
    return total.to(check.width(w.dtype))


def pairwise_subgradient(w: Tensor, weights: Tensor | None = None, batch_dims: int = 0) -> Tensor:
    """The shortest subgradient of `R`: for each weight its mean rank, from −1 for the least to 1 for the greatest.

    Weights of one value get one slope, the mean over their ranks. It is what the flow `dw/dt = −g` follows, whose way
    over time `t` is `prox_pairwise(w, t)`.

    Args:
        w: As for `pairwise_penalty`.
        weights: As for `pairwise_penalty`.
        batch_dims: As for `pairwise_penalty`.

    Returns:
        A tensor like `w`, without gradient.

    Raises:
        SpecError: As `pairwise_penalty`.

    Source: Shakerinava 2023, subdifferential of R.
    Differs: The paper allows any element of the subdifferential; this is its shortest.

    Example:
        >>> pairwise_subgradient(torch.tensor([5.0, 2.0, 2.0]))
        tensor([ 1.0000, -0.5000, -0.5000])
    """
    return _slopes(check.tensor(w, "pairwise_subgradient"), weights, batch_dims, "pairwise_subgradient").to(w.dtype)


def pairwise_conjugate(y: Tensor, weights: Tensor | None = None, tolerance: float | None = None) -> float:
    """The convex conjugate `R*(y) = sup_w ⟨y, w⟩ − R(w)`: 0 where `y` is a subgradient of `R` somewhere, else infinite.

    `R` is the support function of the permutahedron: the vectors of sum 0 whose `k` greatest entries add up to at most
    `k(d − k)/(d − 1)`, for every `k`. With masses: every set of particles of mass `m` adds up to at most
    `m(M − m)/(M − 1)`.

    Args:
        y: Float tensor of any shape; one problem.
        weights: As for `pairwise_penalty`.
        tolerance: How much a sum may be over its limit. By default rounding of `y`: its epsilon times `Σ|y|` + 1.

    Returns:
        0.0 or infinity.

    Raises:
        SpecError: As `pairwise_penalty`, or if the tolerance is negative.

    Source: Convex analysis; not in the paper.

    Example:
        >>> pairwise_conjugate(torch.tensor([-1.0, 1.0, 0.0])), pairwise_conjugate(torch.tensor([-1.5, 1.5, 0.0]))
        (0.0, inf)
    """
    what = "pairwise_conjugate"
    bounds = check.bounds(check.tensor(y, what), 0, what)
    flat = y.detach().reshape(-1).double()
    if not bool(flat.isfinite().all()):
        return math.inf
    given = check.masses(weights, y, what)
    check.heavy_enough(given, bounds, what)
    mass = torch.ones_like(flat) if given is None else given.reshape(-1)
    if tolerance is None:
        tolerance = torch.finfo(y.dtype).eps * (float(flat.abs().sum()) + 1)
    tolerance = check.strength(tolerance, f"{what}'s tolerance")
    order = torch.argsort(flat / mass, descending=True)
    sums, below = flat[order].cumsum(0), mass[order].cumsum(0)
    total = below[-1] if len(below) else below.new_zeros(())
    limits = below * (total - below) / (total - 1) if len(below) > 1 else torch.zeros_like(below)
    inside = bool((sums <= limits + tolerance).all()) and abs(float(flat.sum())) <= tolerance
    return 0.0 if inside else math.inf


def subdifferential_distance(w: Tensor, g: Tensor) -> float:
    """How far `g` is from being a subgradient of `R` at `w`: the least `‖g − s‖` over `s ∈ ∂R(w)`.

    0 where `w` minimises `R(w) − ⟨g, w⟩`: with `g = (u − w)/step` it tells whether `w` is `prox_pairwise(u, step)`, and
    with `g` a loss's negative gradient over the strength, whether training is done. Weights count as equal when their
    numbers are.

    Args:
        w: Float tensor of any shape; one problem.
        g: Float tensor of the shape of `w`.

    Returns:
        The distance, computed in float64.

    Raises:
        SpecError: As `pairwise_penalty`, or if the shapes differ.

    Source: Shakerinava 2023, subdifferential of R; the projection on it is ours: among equal weights it is again
        sticky particles, with places `g`.

    Example:
        >>> w = torch.tensor([0.0, 2.0, 2.0])
        >>> [subdifferential_distance(w, torch.tensor([-1.0, 0.0, g])) for g in (1.0, 3.0)]
        [0.0, 2.0]
    """
    what = "subdifferential_distance"
    check.same_shape(check.tensor(w, what), check.tensor(g, what), what)
    d = w.numel()
    if d == 0:
        return 0.0
    bounds = check.bounds(w, 0, what)
    places, order = sort(w.detach().double().reshape(-1), bounds, what)
    pulls = g.detach().to(places.device).double().reshape(-1)[order]
    tied = torch.unique_consecutive(places, return_counts=True)[1].cpu()
    edges = torch.cat([tied.new_zeros(1), tied.cumsum(0)])
    pulls, _ = sort(pulls, edges, what)
    ranks = torch.linspace(-1, 1, d, dtype=torch.float64, device=pulls.device) if d > 1 else torch.zeros_like(pulls)
    ends, values = on(pulls.device).pool(pulls - ranks, None, edges, 0.0)
    return float((values.square() * ends.diff(prepend=ends.new_zeros(1))).sum().sqrt())


def _slopes(w: Tensor, weights: Tensor | None, batch_dims: int, what: str) -> Tensor:
    bounds = check.bounds(w, batch_dims, what)
    mass = check.masses(weights, w, what)
    check.heavy_enough(mass, bounds, what)
    return slopes(w.reshape(-1), mass, bounds, what).view(w.shape)
