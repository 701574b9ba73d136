"""Linear regression with shared coefficients, against a convex solver."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
from weightshare.values.solve import regress_shared

STRENGTH = 0.1


def data(d: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(2 * d, d, generator=source, dtype=torch.float64)
    true = torch.arange(d).double() * 3 // d - 1
    return x, x @ true + 0.5 * torch.randn(2 * d, generator=source, dtype=torch.float64)


def objective(d: int, w: Tensor) -> float:
    x, y = data(d)
    ranks = 2 * torch.arange(d, dtype=torch.float64) - (d - 1)
    return float(((x @ w - y) ** 2).mean() / 2 + STRENGTH * (w.sort().values * ranks).sum() / (d - 1))


def by_cvxpy(x: Tensor, y: Tensor) -> Tensor:
    import cvxpy
    from scipy import sparse

    n, d = x.shape
    one, other = np.tril_indices(d, -1)
    values, rows = np.repeat([1.0, -1.0], len(one)), np.tile(np.arange(len(one)), 2)
    pairs = sparse.csr_array((values, (rows, np.concatenate([one, other]))), (len(one), d))
    w = cvxpy.Variable(d)
    cost = cvxpy.sum_squares(x.numpy() @ w - y.numpy()) / (2 * n) + STRENGTH / (d - 1) * cvxpy.norm1(pairs @ w)
    cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver="CLARABEL")
    return torch.from_numpy(w.value)


def error(d: int, found: Tensor) -> float:
    least = objective(d, ours(*data(d), tolerance=1e-13))
    return (objective(d, found) - least) / least


def ours(x: Tensor, y: Tensor, tolerance: float = 1e-9) -> Tensor:
    return regress_shared(x, y, STRENGTH, tolerance=tolerance).coefficients


def task(find):
    def make(d: int) -> Task:
        x, y = data(d)
        found: list[Tensor] = []

        def run() -> None:
            found[:] = [find(x, y)]

        return Task(run, lambda: found[0])

    return make


CONTEST = Contest(
    title="Regression with shared coefficients",
    text=(
        "`½/n ‖Xw − y‖² + 0.1 R(w)` of `d` coefficients and `2d` observations, float64, to a gap of 1e-9; size is"
        " `d`. The error is the objective above the least known, relative to it; a solver may be below by "
        "rounding."
    ),
    unit="coefficients",
    sizes=(25, 50, 100, 200),
    shown=(50, 200),
    tiny=7,
    error=error,
    off="objective above",
    ways={
        "regress_shared": Way(task(ours), ours=True),
        "cvxpy, Clarabel": Way(task(by_cvxpy), "states all d(d − 1)/2 pairs", goal=0.5, needs="cvxpy"),
    },
)
