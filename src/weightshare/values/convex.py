"""Convex clustering: `argmin_z ½‖z − w‖² + strength·Σ_{i>j} C_ij ‖z_i − z_j‖` over rows, such as whole filters.

In the grid: the proximal map of `R_C` with vector weights. Rows that meet are one filter.

How: the corner of the norm is rounded off at `ε` (`newton`), which tells which rows meet. With these glued together
the penalty is smooth, and Newton's method finds where they stand to the last bit. Last, dual variables within the
clusters are found that hold each cluster together; with them the duality gap says how far the guess is from the
optimum, and if that is too far, a smaller `ε` is tried. The gap certifies, whatever was guessed.

The gap of `z` and dual variables `y` (`‖y_ij‖ ≤ C_ij`, with the strength in `C`) is the objective at `z` less the dual
objective at `y`: `½‖z − w + Aᵀy‖² + Σ (C_ij ‖z_i − z_j‖ − ⟨y_ij, z_i − z_j⟩)`, `(Aᵀy)_i = Σ_j y_ij`. Both parts are
at least 0, and as the objective is strongly convex, `½‖z − z*‖² ≤ gap`.

Source: Shakerinava 2023, open questions (`k > 1`); convex clustering and its duality gap: Chi & Lange 2015.
"""

from typing import NamedTuple
import warnings

from jaxtyping import Float, Int
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.values import check, coupling
from weightshare.values.groups import filters
from weightshare.values.newton import distances, newton, pull

ROUNDING = [10.0**-power for power in range(1, 10)]  # the ε that are tried, where the widest row is 1
ROUNDS = 3  # of merging what met when all other rows were free to move
PLACE, HOLD = 15, 30  # Newton steps for places of clusters and for dual variables within: they are few, or in vain
LIGHT = 1e-10  # the mass with which a cluster's dual variables are looked for; small against the couplings


class Clusters(NamedTuple):
    """Where items stand after they were pulled together, which ones met, and how far that can be from the optimum."""

    z: Tensor
    """Like the weights that came in; items of one cluster are equal to the bit. Without gradient."""
    labels: Tensor
    """(n) of int64: the cluster of each item, numbered from 0 by first items. Items that met and are coupled, if
    through others that met, are one cluster."""
    gap: float
    """At least `½‖z − z*‖²` for the optimum `z*`, before `z` is rounded to its dtype."""
    iterations: int
    """How many systems of equations, or flows, were solved."""


def convex_clustering(
    rows: Float[Tensor, "n *item"],
    strength: float,
    weights: Tensor | None = None,
    edges: Int[Tensor, "2 edges"] | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 500,
    start: Tensor | None = None,
) -> Clusters:
    """Pull rows together: `argmin_z ½‖z − w‖² + strength·R_C(z)`, and say which ones met.

    The mean of all rows is kept. Memory is `O(n² + nk)`: the dual variables of the `n(n − 1)/2` pairs are never stored,
    and rows of more numbers than there are rows are turned into fewer first. An iteration costs `O(n³ + n²k)`, and some
    dozens are needed: seconds for 512 filters on one core, eight times that for twice as many.

    Args:
        rows: Float tensor whose first dimension counts the items, (n, ...): what is left of each is one vector.
            Computed in float64.
        strength: Finite, at least 0.
        weights: As for `group_penalty`: `None` for all pairs with `1/(n − 1)`, a symmetric (n, n) matrix, or one number
            for each edge.
        edges: As for `group_penalty`.
        tolerance: How large the gap may be, as a part of `½‖w − mean‖²`; at least 0.
        max_iterations: How many Newton steps may be taken, at least 1. If they do not suffice there is a warning.
        start: Rows to start from, of the shape of `rows`, such as the result for a similar strength.

    Returns:
        `Clusters`: the rows, their labels, the duality gap and how many iterations that took. If the gap is not small
        enough, the best rows that were found, with their gap.

    Raises:
        SpecError: If `rows` is no dense float tensor, or holds NaN or infinity; if an argument is out of its range.

    Warns:
        RuntimeWarning: If the gap is larger than the tolerance allows.

    Source: Shakerinava 2023, open questions: `R_C` with vector weights; Chi & Lange 2015 for the problem and the gap.
    Differs: Chi & Lange solve it by AMA or ADMM, which store the dual variables of every pair. Accelerated AMA (in
        `tests/equations`) took 4 to 17 times as long to this gap for 512 rows of 27 numbers on one core.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0], [0.2, 0.0], [3.0, 4.0]])
        >>> found = convex_clustering(rows, strength=0.5)
        >>> found.labels, found.gap < 1e-12
        (tensor([0, 0, 1]), True)
    """
    what = "convex_clustering"
    strength = check.strength(strength, f"{what}'s strength")
    tolerance = check.strength(tolerance, f"{what}'s tolerance")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 1:
        raise SpecError(f"{what}: max_iterations is a whole number of at least 1, got {max_iterations!r}.")
    w = filters(check.tensor(rows, what).detach(), what)
    device = w.device if w.device.type in ("cpu", "cuda") else torch.device("cpu")
    couplings = coupling.as_matrix(w.shape[0], weights, edges, device, what)
    if start is not None:
        check.same_shape(rows, check.tensor(start, f"{what}'s start"), f"{what} with a start")
        start = filters(start.detach(), f"{what}'s start").to(device, torch.float64)
    z, labels, gap, limit, steps = _solve(
        w.to(device, torch.float64), strength, couplings, tolerance, max_iterations, start
    )
    if gap > limit:
        warnings.warn(
            f"{what} stopped after {steps} of {max_iterations} iterations at a gap of {gap:.3g}, above the {limit:.3g} "
            "that was asked for; z may be off by sqrt(2 gap). Allow more iterations, or a larger tolerance: rounding "
            "sets an end to what can be reached.",
            RuntimeWarning,
            stacklevel=2,
        )
    z = z.to(rows.device, rows.dtype).view(rows.shape) if rows.numel() else rows.detach().clone()
    return Clusters(z, labels.to(rows.device), gap, steps)


def prox_filters(
    w: Float[Tensor, "n *item"],
    step: float,
    rewind: float = 0.0,
    weights: Tensor | None = None,
    edges: Int[Tensor, "2 edges"] | None = None,
    tolerance: float = 1e-10,
) -> Tensor:
    """Pull whole filters together, for one step of training: the proximal map of `step·R_C` over the first dimension.

    Args:
        w: The weight of a convolution, (out, in, kh, kw), of a linear layer, (out, in), or any other whose first
            dimension counts what may become one.
        step: Strength times learning rate; finite, at least 0.
        rewind: From 0 to 1: filters merge as they would, but each cluster then goes only `1 − rewind` of its way, which
            starts at the mean of its members. Near 1, filters merge and do not shrink towards each other.
        weights: As for `group_penalty`.
        edges: As for `group_penalty`.
        tolerance: As for `convex_clustering`.

    Returns:
        A new tensor like `w`, without gradient. Filters that met are equal to the bit.

    Raises:
        SpecError: As `convex_clustering`, or if `rewind` is not from 0 to 1.

    Warns:
        RuntimeWarning: As `convex_clustering`.

    Source: Shakerinava 2023, open questions; rewinding is from its public code.
    Differs: There rewinding is for scalars.

    Example:
        >>> w = torch.tensor([[0.0, 0.0], [0.5, 0.0], [3.0, 4.0]])
        >>> prox_filters(w, 0.5, rewind=1.0)
        tensor([[0.2500, 0.0000],
                [0.2500, 0.0000],
                [3.0000, 4.0000]])
    """
    rewind = check.strength(rewind, "prox_filters' rewind")
    if rewind > 1:
        raise SpecError(f"prox_filters: rewind is from 0 (the whole way) to 1 (merge only), got {rewind}.")
    z, labels, _, _ = convex_clustering(w, step, weights, edges, tolerance)
    if not rewind or not w.numel():
        return z
    wide = w.detach().reshape(w.shape[0], -1).double()
    means = _means(wide, labels)
    count = len(means)
    first = torch.full((count,), len(labels), device=labels.device).scatter_reduce_(
        0, labels, torch.arange(len(labels), device=labels.device), "amin"
    )
    ends = z.reshape(wide.shape)[first].double()
    return (means + (1 - rewind) * (ends - means))[labels].to(w.dtype).view(w.shape)


def _solve(
    w: Tensor, strength: float, couplings: Tensor, tolerance: float, budget: int, start: Tensor | None
) -> tuple[Tensor, Tensor, float, float, int]:
    """`z`, labels, gap, the gap that was allowed, and how many steps that took; in float64."""
    n = w.shape[0]
    largest = float(w.abs().max()) if w.numel() else 0.0
    if largest == 0.0 or n < 2:
        return w, _parts(couplings, torch.zeros_like(couplings)), 0.0, 0.0, 0
    mean = _mean(w / largest)
    centred = w / largest - mean
    size = float(centred.norm(dim=1).max())
    if strength == 0.0 or not bool(couplings.any()) or size == 0.0:
        return w, _parts(couplings, distances(w / largest)), 0.0, 0.0, 0
    basis = torch.linalg.qr(centred.T)[0] if w.shape[1] > n else None  # rows lie in the span of n of them, and stay
    turned = (centred if basis is None else centred @ basis) / size
    scale = largest * size
    if start is not None:
        start = start / largest - mean
        start = (start if basis is None else start @ basis) / size
    limit = tolerance * float(turned.square().sum()) / 2
    # no dual variable is longer than all ways together, at most n here: what pulls harder pulls no more
    couplings = (couplings * strength / largest / size).clamp(max=2.0 * n)
    found = _continued(turned, couplings, limit, budget, start)
    places = size * (found.places if basis is None else found.places @ basis.T) + mean
    return (largest * places)[found.labels], found.labels, found.gap * scale * scale, limit * scale * scale, found.steps


def _mean(rows: Tensor) -> Tensor:
    """The mean row; of equal rows, that row to the bit."""
    return rows[0] + (rows - rows[0]).mean(0)


class _Guess(NamedTuple):
    """Clusters, where they stand, and what that is worth."""

    places: Tensor  # (clusters, k)
    labels: Tensor  # (n)
    gap: float
    steps: int


def _continued(w: Tensor, couplings: Tensor, limit: float, budget: int, start: Tensor | None) -> _Guess:
    """Round the corner off less and less, until the clusters that show are the right ones."""
    n, k = w.shape
    best = _Guess(w.new_zeros(1, k), torch.zeros(n, dtype=torch.int64, device=w.device), torch.inf, 0)
    steps, z = 0, w if start is None else start
    if start is not None:
        labels = _parts(couplings, distances(start))
        best = _glued(w, couplings, labels, start, ROUNDING[-1], limit, budget)
        steps = best.steps
    for epsilon in ROUNDING:
        if best.gap <= limit or steps >= budget:
            break
        found = newton(w, w.new_ones(n, 1), couplings, epsilon, z, epsilon / 10, budget - steps)
        z, steps = found.z, steps + found.steps
        guess = _glued(w, couplings, _parts(couplings, found.distances, epsilon), z, epsilon, limit, budget - steps)
        steps += guess.steps
        best = min(best, guess, key=lambda guess: guess.gap)
    return best._replace(steps=steps)


def _parts(couplings: Tensor, apart: Tensor, epsilon: float = 0.0) -> Tensor:
    """The clusters: what is coupled and no more than `epsilon` apart, also by way of others."""
    one, other = ((couplings > 0) & (apart <= epsilon)).nonzero().unbind(1)
    return coupling.components(len(apart), one, other)


def _glued(
    w: Tensor, couplings: Tensor, labels: Tensor, near: Tensor, epsilon: float, limit: float, budget: int
) -> _Guess:
    """The optimum among rows that are equal within each cluster, and its gap among all rows."""
    places, labels, steps = _reduced(w, couplings, labels, near, epsilon, budget)
    together = labels[:, None] == labels
    z = places[labels]
    apart = torch.where(
        together, 1.0, distances(places)[labels][:, labels].clamp(min=1e-300)
    )  # uncoupled ones may meet
    rest = w - z - pull(torch.where(together, 0.0, couplings) / apart, z)
    within = torch.where(together, couplings, 0.0)
    x = (near - _means(near, labels)[labels]) / epsilon
    missing = rest - pull(within / distances(x).clamp(min=1.0), x)
    gap = float(missing.square().sum()) / 2
    if gap > limit and bool(
        (rest.norm(dim=1) <= within.sum(1) + limit**0.5).all()
    ):  # else no dual variables can hold it
        light = w.new_full((len(w), 1), LIGHT)
        held = newton(rest, light, within, 1.0, x, max(limit**0.5 / 4, 1e-15), min(budget - steps, HOLD))
        missing = rest - pull(within / held.distances.clamp(min=1.0), held.z)
        gap, steps = min(gap, float(missing.square().sum()) / 2), steps + held.steps
    return _Guess(places, labels, gap, steps)


def _reduced(
    w: Tensor, couplings: Tensor, labels: Tensor, near: Tensor, epsilon: float, budget: int
) -> tuple[Tensor, Tensor, int]:
    """Where clusters stand, and which of them met on the way: `places`, `labels`, steps.

    After a few rounds of merging the guess was a bad one, and its places are as good as any.
    """
    steps = rounds = 0
    while True:
        count = int(labels.max()) + 1
        member = torch.nn.functional.one_hot(labels, count).double()
        mass = member.sum(0)[:, None]
        between = (member.T @ couplings @ member).fill_diagonal_(0)
        start = (member.T @ near) / mass
        found = newton(member.T @ w, mass, between, epsilon, start, 1e-15 * len(w), min(budget - steps, PLACE))
        steps, rounds = steps + found.steps, rounds + 1
        merged = _parts(between, found.distances, epsilon)
        if int(merged.max()) + 1 == count or rounds == ROUNDS:
            return found.z, labels, steps
        labels = merged[labels]


def _means(rows: Tensor, labels: Tensor) -> Tensor:
    count = int(labels.max()) + 1
    sums = rows.new_zeros(count, rows.shape[1]).index_add_(0, labels, rows)
    return sums / torch.bincount(labels, minlength=count)[:, None]
