"""Whole filters pulled together (convex clustering), against a convex solver."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
from weightshare.values.convex import convex_clustering

NUMBERS, STRENGTH = 9, 0.3


def filters(n: int) -> Tensor:
    source = torch.Generator().manual_seed(0)
    centres = torch.randn(4, NUMBERS, generator=source, dtype=torch.float64)
    return centres[torch.arange(n) % 4] + 0.1 * torch.randn(n, NUMBERS, generator=source, dtype=torch.float64)


def objective(w: Tensor, z: Tensor) -> float:
    distances = torch.pdist(z).sum() / (len(w) - 1)
    return float(((z - w) ** 2).sum() / 2 + STRENGTH * distances)


def by_cvxpy(solver: str):
    def find(w: Tensor) -> Tensor:
        import cvxpy

        n = len(w)
        one, other = np.tril_indices(n, -1)
        z = cvxpy.Variable(w.shape)
        distances = cvxpy.sum(cvxpy.norm(z[one] - z[other], 2, axis=1))
        cost = cvxpy.sum_squares(z - w.numpy()) / 2 + STRENGTH / (n - 1) * distances
        cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver=solver)
        return torch.from_numpy(z.value)

    return find


def error(n: int, found: Tensor) -> float:
    """How much the objective is above the lowest that is known, ours to rounding, as a part of it."""
    w = filters(n)
    least = objective(w, convex_clustering(w, STRENGTH, tolerance=1e-14).z)
    return (objective(w, found) - least) / least


def task(find):
    def make(n: int) -> Task:
        w, found = filters(n), []

        def run() -> None:
            found[:] = [find(w)]

        return Task(run, lambda: found[0])

    return make


CONTEST = Contest(
    title="Whole filters pulled together",
    text=(
        "Convex clustering of filters of 9 numbers, all pairs coupled, float64, to a gap of 1e-12; size is how "
        "many filters. The error is the objective above the least known, relative to it; a solver may be below by"
        " rounding."
    ),
    unit="filters",
    sizes=(8, 16, 32, 64),
    shown=(16, 64),
    tiny=5,
    error=error,
    off="objective above",
    ways={
        "convex_clustering": Way(task(lambda w: convex_clustering(w, STRENGTH).z), ours=True),
        "cvxpy, Clarabel": Way(
            task(by_cvxpy("CLARABEL")), "a cone for each of n(n − 1)/2 pairs", goal=0.5, needs="cvxpy"
        ),
        "cvxpy, SCS": Way(task(by_cvxpy("SCS")), "the same, by first-order steps, to 1e-4", most=32, needs="cvxpy"),
    },
)
