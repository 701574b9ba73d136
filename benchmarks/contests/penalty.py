"""The pairwise penalty and its gradient, against all pairs and against a sort in plain torch."""

import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
from benchmarks.contests.proximal import weights
import weightshare as ws


def all_pairs(w: Tensor) -> Tensor:
    return (w[:, None] - w).abs().sum() / 2 / (len(w) - 1)


def by_pdist(w: Tensor) -> Tensor:
    return torch.pdist(w[:, None], p=1).sum() / (len(w) - 1)


def by_sort(w: Tensor) -> Tensor:
    n = len(w)
    ranks = 2 * torch.arange(n, dtype=w.dtype) - (n - 1)
    return (torch.sort(w).values * ranks).sum() / (n - 1)


def error(n: int, found: tuple[Tensor, Tensor]) -> float:
    w = weights(n).double().requires_grad_()
    value = by_sort(w)
    value.backward()
    value = value.detach()
    ours, right = by_place(w.detach(), found[1].double()), by_place(w.detach(), w.grad)
    return max(float((found[0].double() - value).abs() / value), float((ours - right).abs().max() / right.abs().max()))


def by_place(w: Tensor, gradient: Tensor) -> Tensor:
    """The mean of a gradient over weights of one value: of these any order will do."""
    _, place, counts = torch.unique(w, return_inverse=True, return_counts=True)
    return torch.zeros(len(counts), dtype=torch.float64).index_add(0, place, gradient) / counts


def task(find):
    def make(n: int) -> Task:
        w, value = weights(n).requires_grad_(), []

        def run() -> None:
            w.grad = None
            value[:] = [find(w)]
            value[0].backward()

        return Task(run, lambda: (value[0].detach(), w.grad))

    return make


CONTEST = Contest(
    title="The pairwise penalty and its gradient",
    text=("`R(w)` and its gradient, float32; the error is relative, of both, against float64."),
    unit="weights",
    sizes=(1_000, 10_000, 100_000, 1_000_000),
    shown=(1_000, 1_000_000),
    tiny=31,
    error=error,
    off="relative error",
    ways={
        "ws.pairwise_penalty": Way(task(ws.pairwise_penalty), ours=True),
        "torch.sort times ranks": Way(task(by_sort), "sums in float32, and equal weights have no common rank"),
        "all pairs": Way(task(all_pairs), "a table of n by n", most=10_000),
        "torch.pdist": Way(task(by_pdist), "n(n − 1)/2 distances", most=10_000),
    },
)
