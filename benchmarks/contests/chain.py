"""Weights coupled along a graph (total variation on a grid), against a convex solver."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
from weightshare.values.graph import prox_graph

STEP = 0.3


def grid(side: int) -> tuple[Tensor, Tensor]:
    """A noisy step, and the pairs of neighbours of a square grid."""
    source = torch.Generator().manual_seed(0)
    at = torch.arange(side * side).view(side, side)
    pairs = [
        torch.stack([one.flatten(), other.flatten()]) for one, other in ((at[:, 1:], at[:, :-1]), (at[1:], at[:-1]))
    ]
    step = (torch.arange(side) >= side // 2).double().expand(side, side)
    return step + 0.3 * torch.randn(side, side, generator=source, dtype=torch.float64), torch.cat(pairs, 1)


def objective(side: int, z: Tensor) -> float:
    w, (one, other) = grid(side)
    flat = z.flatten()
    return float(((z - w) ** 2).sum() / 2 + STEP * (flat[one] - flat[other]).abs().sum())


def by_cvxpy(w: Tensor, edges: Tensor) -> Tensor:
    import cvxpy
    from scipy import sparse

    count = edges.shape[1]
    values, rows = np.repeat([1.0, -1.0], count), np.tile(np.arange(count), 2)
    pairs = sparse.csr_array((values, (rows, edges.flatten().numpy())), (count, w.numel()))
    z = cvxpy.Variable(w.numel())
    cost = cvxpy.sum_squares(z - w.flatten().numpy()) / 2 + STEP * cvxpy.norm1(pairs @ z)
    cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver="CLARABEL")
    return torch.from_numpy(z.value).view_as(w)


def error(side: int, found: Tensor) -> float:
    w, edges = grid(side)
    least = objective(side, prox_graph(w, edges, None, STEP))
    return (objective(side, found) - least) / least


def task(find):
    def make(side: int) -> Task:
        w, edges = grid(side)
        found: list[Tensor] = []

        def run() -> None:
            found[:] = [find(w, edges)]

        return Task(run, lambda: found[0])

    return make


CONTEST = Contest(
    title="Weights coupled along a graph",
    text=(
        "Neighbours of a square grid pulled together (total variation of differences along both axes), float64; "
        "size is its side. The error is the objective above the least known, relative to it; a solver may be "
        "below by rounding."
    ),
    unit="side",
    sizes=(8, 16, 32, 64),
    shown=(16, 64),
    tiny=4,
    error=error,
    off="objective above",
    ways={
        "prox_graph": Way(task(lambda w, edges: prox_graph(w, edges, None, STEP)), ours=True),
        "cvxpy, Clarabel": Way(task(by_cvxpy), "an interior point method; exact to its tolerance", needs="cvxpy"),
    },
)
