"""The proximal map of each row of a weight by itself, against batched isotonic regression."""

import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
import weightshare as ws

WIDTH, STEP = 256, 0.01


def weights(rows: int) -> Tensor:
    return 0.05 * torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0))


def moved(w: Tensor) -> tuple[Tensor, Tensor]:
    places, order = torch.sort(w, dim=1)
    ranks = torch.arange(WIDTH, dtype=torch.float64)
    return places.double() + STEP * (WIDTH - 1 - 2 * ranks) / (WIDTH - 1), order


def exact(w: Tensor, by_row) -> Tensor:
    free, order = moved(w)
    found = torch.stack([torch.from_numpy(by_row(row.numpy())) for row in free])
    return torch.empty_like(w).scatter_(1, order, found.to(w.dtype))


def by_scipy(w: Tensor) -> Tensor:
    from scipy.optimize import isotonic_regression

    return exact(w, lambda row: isotonic_regression(row).x)


def by_sklearn(w: Tensor) -> Tensor:
    from sklearn.isotonic import isotonic_regression

    return exact(w, isotonic_regression)


def by_torchisotonic(w: Tensor) -> Tensor:
    from torchisotonic import isotonic

    free, order = moved(w)
    return torch.empty_like(w).scatter_(1, order, isotonic(free).to(w.dtype))


def by_loop(w: Tensor) -> Tensor:
    return torch.stack([ws.prox_pairwise(row, STEP) for row in w])


def task(find):
    def make(rows: int) -> Task:
        w, found = weights(rows), []

        def run() -> None:
            found[:] = [find(w)]

        return Task(run, lambda: found[0])

    return make


CONTEST = Contest(
    title="The proximal map, each row by itself",
    text=(
        'Rows of 256 float32 weights of `N(0, 0.05²)`, step 0.01, as `Proximal(granularity="row")` has them; size'
        " is how many rows. The error is against scipy's isotonic regression in float64."
    ),
    unit="rows",
    sizes=(16, 128, 1024, 8192),
    shown=(128, 8192),
    tiny=3,
    error=lambda rows, found: float((found - by_scipy(weights(rows))).abs().max()),
    checked=1024,
    off="largest difference at 1,024 and below",
    ways={
        "ws.prox_pairwise(batch_dims=1)": Way(task(lambda w: ws.prox_pairwise(w, STEP, batch_dims=1)), ours=True),
        "torch.sort + torchisotonic": Way(
            task(by_torchisotonic), "batched too: its home ground", goal=0.7, needs="torchisotonic"
        ),
        "torch.sort + scipy by row": Way(task(by_scipy), "a call for each row", goal=0.4),
        "torch.sort + scikit-learn by row": Way(task(by_sklearn), "a call for each row", goal=0.4),
        "ws.prox_pairwise by row": Way(task(by_loop), "ours, a call for each row", ours=True),
    },
)
