"""Linear regression whose coefficients are driven to share: `min_w ½/n ‖Xw − y‖² + α R(w) + λ ‖w‖₁`.

In the grid: sharing across values where the loss is convex, so that the answer is one and how far it is can be said.

Three methods on one loop of proximal gradient steps of length `1/L`, with `L` the greatest eigenvalue of `XᵀX/n`. The
joint proximal map is `prox_ℓ1 ∘ prox_R`: soft thresholding keeps order and ties, so each subgradient of `R` before it
is one after it.

The certificate is a duality gap. The dual is `max_u uᵀy − n/2 ‖u‖²` over all `u` with `Xᵀu ∈ α P + λ [−1, 1]^d`,
`P` the permutahedron of `pairwise_conjugate`. That sum is a generalised polymatroid: it holds `g` if and only if the
`k` greatest entries of `g`, and of `−g`, add up to at most `α k(d − k)/(d − 1) + λ k`, for every `k`. So one sort says
by how much the residual has to be scaled down to be feasible. Where the penalty is flat (along `1` for `λ = 0`,
everywhere for none at all) `Xᵀu` has to vanish there, and `u` is projected first.

Source: Shakerinava 2023, linear regression with shared coefficients. Differs: the penalty and its map are the paper's;
acceleration, the joint map's proof and the certificate are ours.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float, Int
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.values import check
from weightshare.values.prox import prox_clusters, prox_pairwise

Method = Literal["fista", "momentum", "plain"]
HEAVY = 0.9  # the heavy ball's share of its last way
ROUNDS = 200  # of power iteration, at most


@dataclass(frozen=True, eq=False)
class SharedRegression:
    """Coefficients that share, and how far they are from the optimum.

    Args:
        coefficients: (d), or (targets, d) for several `y`; equal to the bit within a cluster.
        labels: Of the same shape: the cluster of each coefficient, from 0 in each row, ascending with the value. What
            the ℓ1 part set to zero is one cluster.
        iterations: Steps that were made.
        objectives: (iterations + 1), or (iterations + 1, targets), float64: before the first step and after each.
        gaps: Like `objectives`: no coefficients whatever have an objective more than this below.
        converged: Whether the last gap of every target is within the tolerance.
    """

    coefficients: Float[Tensor, "*targets d"]
    labels: Int[Tensor, "*targets d"]
    iterations: int
    objectives: Float[Tensor, "steps *targets"]
    gaps: Float[Tensor, "steps *targets"]
    converged: bool


@torch.no_grad()
def regress_shared(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n *targets"],
    strength: float,
    l1: float = 0.0,
    method: Method = "fista",
    tolerance: float = 1e-6,
    max_iterations: int = 10_000,
    start: Float[Tensor, "*targets d"] | None = None,
) -> SharedRegression:
    """Fit a linear model whose coefficients share: `argmin_w ½/n ‖Xw − y‖² + strength·R(w) + l1·‖w‖₁`.

    There is no intercept: take the means off `x` and `y` first if it needs one. All is computed in float64.

    Args:
        x: (n, d), a row for each observation.
        y: (n), or (n, targets) for independent problems on one `x`; they go on until the last of them is done.
        strength: α, at least 0. From `one_value_strength(x, y)` on all coefficients are one, where `l1` is 0.
        l1: λ, at least 0.
        method: `"plain"`; `"momentum"`, the heavy ball; or `"fista"`, Nesterov's extrapolation. The last two forget
            their way whenever the objective has risen.
        tolerance: The gap to stop at, as a fraction of the objective of zeros, `½/n ‖y‖²`.
        max_iterations: Steps at most; at least 1.
        start: Coefficients to start from, such as those of a neighbouring strength; else zeros. Without a penalty it
            decides which of the least squares solutions is found; zeros lead to the shortest.

    Returns:
        Coefficients in the dtype of `x`, with their clusters and a certificate. If the steps ran out, `converged` is
        `False`.

    Raises:
        SpecError: If a tensor is of a wrong shape, dtype or device, is empty or not finite; if a number is out of its
            range; if there is no such method.

    Source: Shakerinava 2023, linear regression with shared coefficients; Beck and Teboulle 2009 (FISTA); O'Donoghue and
        Candès 2015 (restarts by the objective); Polyak 1964 (the heavy ball).

    Example:
        >>> x = torch.eye(3)
        >>> found = regress_shared(x, torch.tensor([0.0, 3.0, 1.0]), strength=0.25)
        >>> found.coefficients, found.labels, found.converged
        (tensor([0.7500, 2.2500, 1.0000]), tensor([0, 2, 1]), True)
    """
    what = "regress_shared"
    check_data(x, y, what)
    strength, l1 = check.strength(strength, f"{what}'s strength"), check.strength(l1, f"{what}'s l1")
    tolerance = check.strength(tolerance, f"{what}'s tolerance")
    if method not in get_args(Method):
        raise SpecError(f"{what}: method is one of {get_args(Method)}, got {method!r}.")
    check_count(max_iterations, what)
    w = torch.zeros_like(x[:1], dtype=torch.float64).expand(y.shape[1:].numel(), -1)
    if start is not None:
        w = check_start(start, x, y, what)
    problem = _Problem(x, y, strength, l1)
    enough = tolerance * problem.scale
    slope, objective, gap = problem.look(w)
    last, last_slope, point, t = w, slope, w, torch.ones_like(gap)
    objectives, gaps, done = [objective], [gap], False
    while not done and len(gaps) <= max_iterations:
        t, share = _share(method, t)
        point = w + share * (w - last)
        # The gradient is linear: that of the extrapolated point needs no product with `x` of its own.
        gradient = slope + share * (slope - last_slope) if method == "fista" else slope
        point = point - gradient / problem.curvature
        last, last_slope = w, slope
        w = problem.prox(point)
        slope, objective, gap = problem.look(w)
        t = torch.where(objective > objectives[-1], 1.0, t)
        objectives.append(objective)
        gaps.append(gap)
        done = bool((gap <= enough).all())
    shape = y.shape[1:]
    return SharedRegression(
        coefficients=w.to(x.dtype).view(*shape, x.shape[1]),
        labels=problem.labels(point, w).view(*shape, x.shape[1]),
        iterations=len(gaps) - 1,
        objectives=torch.stack(objectives).view(-1, *shape),
        gaps=torch.stack(gaps).view(-1, *shape),
        converged=done,
    )


def one_value_strength(x: Float[Tensor, "n d"], y: Float[Tensor, " n"]) -> float:
    """The least strength at which `regress_shared` without an ℓ1 part gives all coefficients one value.

    With the best single value `c` and `g` the loss's gradient there, `−g` has to be in `α P`; see the top of the file.

    Args:
        x: (n, d).
        y: (n).

    Returns:
        The strength; 0 where one value is best even without a penalty.

    Raises:
        SpecError: As `regress_shared`.

    Example:
        >>> one_value_strength(torch.eye(3), torch.tensor([0.0, 3.0, 0.0]))
        0.6666666666666666
    """
    what = "one_value_strength"
    check_data(x, y, what, targets=False)
    x, y = x.detach().double(), y.detach().double()
    fit = x.sum(1)
    square = float(fit @ fit)
    value = float(fit @ y) / square if square else 0.0
    return float(_excess(((y - value * fit) @ x / len(x))[None], _limits(x.shape[1], 1.0, 0.0, x.device)))


class _Problem:
    """One `x`, several `y` as rows, and all of the loop that knows the objective."""

    def __init__(self, x: Tensor, y: Tensor, strength: float, l1: float) -> None:
        self.x, self.y = x.detach().double(), y.detach().double().reshape(len(y), -1).T.contiguous()
        self.n, self.strength, self.l1 = len(x), strength, l1
        self.scale = self.y.square().sum(1) / (2 * self.n)
        self.curvature = greatest_eigenvalue(self.x)
        self.flat = _flat(self.x, strength, l1)
        self.limits = _limits(x.shape[1], strength, l1, x.device)
        self.slopes = torch.linspace(-strength, strength, x.shape[1], dtype=torch.float64, device=x.device)

    def prox(self, point: Tensor) -> Tensor:
        z = prox_pairwise(point, self.strength / self.curvature, batch_dims=1)
        return soft(z, self.l1 / self.curvature)

    def look(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss's gradient, the objective and the duality gap."""
        residual = self.y - w @ self.x.T
        slope = residual @ self.x / -self.n
        # `pairwise_penalty` in place, without what it does for gradients and groups: a third of the time.
        penalty = w.sort(1).values @ self.slopes * (w.shape[1] > 1) + self.l1 * w.abs().sum(1)
        objective = residual.square().sum(1) / (2 * self.n) + penalty
        u = residual / self.n
        g = -slope
        if self.flat is not None:
            u = u - (u @ self.flat) @ self.flat.T
            g = u @ self.x
        feasible = 1 / _excess(g, self.limits).clamp(min=torch.finfo(torch.float64).tiny)
        square, product = self.n * u.square().sum(1), (u * self.y).sum(1)
        best = torch.where(square > 0, product / square, 0.0)
        # At the optimum it is 1; more would blow up what the projection leaves of a residual that should be zero.
        s = torch.minimum(best.clamp(0, 1), feasible)
        return slope, objective, (objective - s * product + s.square() * square / 2).clamp(min=0)

    def labels(self, point: Tensor, w: Tensor) -> Tensor:
        """The clusters of the last map; those that thresholding made zero are one."""
        found = prox_clusters(point, self.strength / self.curvature, batch_dims=1)[1]
        return torch.stack([merged(*row) for row in zip(found, w == 0, strict=True)])


def greatest_eigenvalue(x: Float[Tensor, "n d"]) -> float:
    """The greatest eigenvalue of `XᵀX/n` from above, by power iteration; 1 for zeros.

    For a unit vector `v` with `θ = vᵀAv` and `ρ = ‖Av − θv‖`, the greatest eigenvalue is at most `θ + 2ρ` once `v` has
    half its length along that eigenvector: `ρ² ≥ (v·v₁)² (λ₁ − θ)²`. That is what is returned.

    Args:
        x: (n, d) of float64.

    Returns:
        At least the eigenvalue, and at most some permille more unless the first ones are almost equal.
    """
    v = torch.randn(x.shape[1], dtype=x.dtype, generator=torch.Generator().manual_seed(0)).to(x.device)
    theta, rho = 0.0, 0.0
    for _ in range(ROUNDS):
        v = v / v.norm()
        image = x.T @ (x @ v) / len(x)
        theta = float(v @ image)
        rho = float((image - theta * v).norm())
        if rho <= 1e-3 * theta:
            break
        v = image
    return theta + 2 * rho or 1.0


def check_data(x: object, y: object, what: str, targets: bool = True) -> None:
    """Refuse an `x` and a `y` that are no regression: shapes, dtypes, devices, values."""
    x, y = check.tensor(x, f"{what}'s x"), check.tensor(y, f"{what}'s y")
    if x.ndim != 2 or y.ndim not in (1, 2)[: 1 + targets] or y.shape[0] != x.shape[0] or not x.numel() or not y.numel():
        raise SpecError(
            f"{what} needs x of shape (n, d) and y of shape (n){' or (n, targets)' * targets}, all at least 1, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise SpecError(
            f"{what}: x and y need one dtype and one device, got {x.dtype} on {x.device} and {y.dtype} on {y.device}."
        )
    for name, values in (("x", x), ("y", y)):
        if not bool(values.isfinite().all()):
            raise SpecError(f"{what}: {name} holds NaN or infinity. Drop or fill in those observations first.")


def check_count(max_iterations: object, what: str) -> None:
    """Refuse a number of steps that is none."""
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 1:
        raise SpecError(f"{what}: max_iterations is a whole number of at least 1, got {max_iterations!r}.")


def _share(method: Method, t: Tensor) -> tuple[Tensor, Tensor]:
    """The next `t`, and how much of the last way is gone once more; none where `t` is 1."""
    if method == "fista":
        after = (1 + (1 + 4 * t.square()).sqrt()) / 2
        return after, ((t - 1) / after)[:, None]
    heavy = HEAVY if method == "momentum" else 0.0
    return t + 1, torch.where(t > 1, heavy, 0.0)[:, None]


def soft(z: Tensor, threshold: float) -> Tensor:
    """The proximal map of `threshold · ‖z‖₁`."""
    return z - z.clamp(-threshold, threshold)  # zeros come out as +0.0


def merged(labels: Int[Tensor, " d"], zero: Tensor) -> Int[Tensor, " d"]:
    """Ascending labels from 0, with all clusters that are zero made one."""
    first = torch.where(zero, labels, labels.max()).min()
    return torch.where(zero, first, labels).unique(return_inverse=True)[1]


def _flat(x: Tensor, strength: float, l1: float) -> Tensor | None:
    """An orthonormal basis of the fits that cost no penalty."""
    if l1 > 0:
        return None
    free = x.sum(1, keepdim=True) if strength > 0 else x
    left, values, _ = torch.linalg.svd(free, full_matrices=False)
    return left[:, values > values.max() * max(free.shape) * torch.finfo(x.dtype).eps]


def _limits(d: int, strength: float, l1: float, device: torch.device) -> Tensor:
    """How much the `k` greatest entries of a vector in `α P + λ [−1, 1]^d` add up to at most, for `k` from 1 to `d`."""
    k = torch.arange(1, d + 1, dtype=torch.float64, device=device)
    return strength * k * (d - k) / max(d - 1, 1) + l1 * k


def _excess(g: Tensor, limits: Tensor) -> Tensor:
    """The least `s` with `g ∈ s (α P + λ [−1, 1]^d)`, for rows `g`; of sum 0 where `λ = 0`, and 0 without a penalty."""
    sums = g.sort(1).values
    sums = torch.maximum(sums.flip(1).cumsum(1), (-sums).cumsum(1))
    return torch.where(limits > 0, sums / limits, 0.0).amax(1)


def check_start(start: object, x: Tensor, y: Tensor, what: str) -> Tensor:
    """The start as rows of float64, one for each target; `SpecError` if it is none."""
    start = check.tensor(start, f"{what}'s start")
    shape = (*y.shape[1:], x.shape[1])
    if start.shape != shape or start.device != x.device or not bool(start.isfinite().all()):
        raise SpecError(
            f"{what}: start holds finite coefficients of shape {shape} on {x.device}, got {tuple(start.shape)} on "
            f"{start.device}."
        )
    return start.detach().double().reshape(-1, x.shape[1])
