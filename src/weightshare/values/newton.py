"""Newton's method on the pairwise penalty of rows with its corner rounded off; `convex` is the door to it.

`F(z) = Σ_i (½ m_i ‖z_i‖² − ⟨b_i, z_i⟩) + Σ_{i>j} C_ij h(‖z_i − z_j‖)` with Huber's `h(d) = d²/2ε` up to `ε` and
`d − ε/2` from there on, whose dual variables are `y_ij = C_ij (z_i − z_j)/max(d, ε)`. They are never stored: only
(n, n) and (n, k) tensors are, and one step costs `O(n³ + n²k)`.

The steps are found by conjugate gradients, preconditioned with what the Hessian is without its radial part: that is
the matrix of the iteratively reweighted method, and greater than the Hessian.

Source: Huber smoothing and semismooth Newton methods are standard; for convex clustering see Sun, Toh, Yuan 2021.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CONJUGATE = 40  # steps of conjugate gradients within one of Newton's, at most
ROUNDING = 1e-15  # the part of its terms that a sum may lose


class Found(NamedTuple):
    """Where Newton's method stopped."""

    z: Tensor  # (n, k)
    distances: Tensor  # (n, n), of the rows of z
    gradient: Tensor  # (n, k)
    steps: int


def distances(z: Tensor) -> Tensor:
    """Between all rows, (n, n), from differences: what is close stays exact."""
    n = z.shape[0]
    full = z.new_zeros(n, n)
    one, other = torch.triu_indices(n, n, 1, device=z.device)
    full[one, other] = torch.pdist(z)
    return full + full.T


def pull(weights: Tensor, z: Tensor) -> Tensor:
    """`Σ_j weights_ij (z_i − z_j)` for every row: the Laplacian of the weights times `z`."""
    return weights.sum(1, keepdim=True) * z - weights @ z


def newton(
    pulls: Tensor, mass: Tensor, coupling: Tensor, epsilon: float, start: Tensor, tolerance: float, budget: int
) -> Found:
    """Minimise `F` from `start`, until its gradient is no longer than `tolerance`, or after `budget` steps.

    Args:
        pulls: `b`, (n, k) of float64.
        mass: `m`, (n, 1), positive.
        coupling: `C`, (n, n), symmetric, at least 0, with 0 on its diagonal.
        epsilon: Positive.
        start: (n, k).
        tolerance: Positive; what rounding makes impossible ends the search too.
        budget: At least 0.
    """
    z, steps, at = start, 0, _at(start, pulls, mass, coupling, epsilon)
    while steps < budget and float(at.gradient.norm()) > tolerance:
        steps += 1
        step = _step(z, mass, coupling / at.apart.clamp(min=epsilon), at.apart, epsilon, at.gradient)
        slope = float((at.gradient * step).sum())
        while True:
            after = _at(z + step, pulls, mass, coupling, epsilon)
            # the change term by term, for what is far away would drown it in a difference of sums
            changes = step * (at.free + mass * step / 2), coupling * (after.huber - at.huber) / 2
            if float(changes[0].sum() + changes[1].sum()) <= 1e-4 * slope:
                break
            terms = (step * mass * z).abs().sum() + (coupling * at.huber).sum()
            if -slope <= ROUNDING * float(terms):  # too little to show: let the gradient decide
                if float(after.gradient.norm()) < 0.9 * float(at.gradient.norm()):
                    break
                return Found(z, at.apart, at.gradient, steps)
            step, slope = step / 2, slope / 2
        z, at = z + step, after
    return Found(z, at.apart, at.gradient, steps)


class _At(NamedTuple):
    """What is known of a place."""

    apart: Tensor  # (n, n), distances
    huber: Tensor  # (n, n), of the distances
    free: Tensor  # (n, k), the gradient without the couplings
    gradient: Tensor  # (n, k)


def _at(z: Tensor, pulls: Tensor, mass: Tensor, coupling: Tensor, epsilon: float) -> _At:
    apart = distances(z)
    huber = torch.where(apart > epsilon, apart - epsilon / 2, apart.square() / (2 * epsilon))
    free = mass * z - pulls
    return _At(apart, huber, free, free + pull(coupling / apart.clamp(min=epsilon), z))


def _step(z: Tensor, mass: Tensor, bonds: Tensor, apart: Tensor, epsilon: float, gradient: Tensor) -> Tensor:
    """Newton's step by conjugate gradients: downhill after any number of them."""
    radial = torch.where(apart > epsilon, bonds / apart.clamp(min=epsilon).square(), 0.0)
    root = torch.linalg.cholesky(torch.diag(mass.squeeze(1) + bonds.sum(1)) - bonds)

    def hessian(v: Tensor) -> Tensor:
        along = z @ v.T
        along = along.diagonal()[:, None] + along.diagonal() - along - along.T
        return mass * v + pull(bonds, v) - pull(radial * along, z)

    step, left = torch.zeros_like(z), -gradient
    ahead = near = torch.cholesky_solve(left, root)
    energy = first = float((left * near).sum())
    for _ in range(CONJUGATE):
        curved = hessian(ahead)
        curvature = float((ahead * curved).sum())
        if curvature <= 0:  # rounding
            break
        step = step + energy / curvature * ahead
        left = left - energy / curvature * curved
        near = torch.cholesky_solve(left, root)
        energy, last = float((left * near).sum()), energy
        if energy <= min(1e-2, first) * first:
            break
        ahead = near + energy / last * ahead
    return step if bool(step.any()) else near
