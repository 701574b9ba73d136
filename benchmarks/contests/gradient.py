"""Forward and backward through the proximal map, against isotonic regression that can be differentiated."""

import itertools

import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
from benchmarks.contests.proximal import STEP, weights
import weightshare as ws


def free(w: Tensor) -> tuple[Tensor, Tensor]:
    places, order = torch.sort(w)
    n = len(w)
    return places + STEP * (n - 1 - 2 * torch.arange(n, dtype=w.dtype)) / (n - 1), order


def by_torchisotonic(w: Tensor) -> Tensor:
    from torchisotonic import isotonic

    moved, order = free(w.double())
    return torch.zeros_like(w).index_copy(0, order, isotonic(moved).to(w.dtype))


def error(n: int, found: Tensor) -> float:
    """Against the mean of the gradient over each cluster, by scipy's blocks."""
    from scipy.optimize import isotonic_regression

    moved, order = free(weights(n).double())
    blocks = isotonic_regression(moved.numpy()).blocks
    g = gradient(n).double()[order]
    means = [g[start:stop].mean().expand(stop - start) for start, stop in itertools.pairwise(blocks)]
    return float((found.double()[order] - torch.cat(means)).abs().max())


def gradient(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(1))


def task(find):
    def make(n: int) -> Task:
        w, g = weights(n).requires_grad_(), gradient(n)

        def run() -> None:
            w.grad = None
            find(w).backward(g)

        return Task(run, lambda: w.grad)

    return make


CONTEST = Contest(
    title="Through the proximal map and back",
    text=(
        "The map and its gradient, as layers that have it inside need them; the error is the gradient's, against "
        "float64."
    ),
    unit="weights",
    sizes=(1_000, 10_000, 100_000, 1_000_000),
    shown=(1_000, 1_000_000),
    tiny=31,
    error=error,
    off="largest difference",
    ways={
        "ws.prox_pairwise": Way(task(lambda w: ws.prox_pairwise(w, STEP)), ours=True),
        "torch.sort + torchisotonic": Way(
            task(by_torchisotonic),
            "in float64 between sort and return: in float32 it pools others",
            goal=0.7,
            needs="torchisotonic",
        ),
    },
)
