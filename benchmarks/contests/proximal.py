"""The proximal map of the pairwise penalty, against isotonic regression, the paper's algorithms and a convex solver."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest import Contest, Task, Way
import weightshare as ws
from weightshare.values.collisions import end_collisions, imminent_collisions, search_collisions

STEP = 0.01


def weights(n: int) -> Tensor:
    return 0.05 * torch.randn(n, generator=torch.Generator().manual_seed(0))


def moved(w: Tensor) -> tuple[Tensor, Tensor]:
    """Where particles would go if they passed through each other, in order, and their order."""
    places, order = torch.sort(w)
    n = len(w)
    return places.double() + STEP * (n - 1 - 2 * torch.arange(n, dtype=torch.float64)) / (n - 1), order


def back(found: Tensor, order: Tensor, w: Tensor) -> Tensor:
    return torch.empty_like(w).index_copy_(0, order, found.to(w.dtype))


def by_scipy(w: Tensor) -> Tensor:
    from scipy.optimize import isotonic_regression

    free, order = moved(w)
    return back(torch.from_numpy(isotonic_regression(free.numpy()).x), order, w)


def by_sklearn(w: Tensor) -> Tensor:
    from sklearn.isotonic import isotonic_regression

    free, order = moved(w)
    return back(torch.from_numpy(isotonic_regression(free.numpy())), order, w)


def by_torchisotonic(w: Tensor) -> Tensor:
    from torchisotonic import isotonic

    free, order = moved(w)
    return back(isotonic(free), order, w)


def by_cvxpy(w: Tensor) -> Tensor:
    import cvxpy
    from scipy import sparse

    n = len(w)
    one, other = np.tril_indices(n, -1)
    row = np.arange(len(one))
    shape = (len(one), n)
    pairs = sparse.csr_array((np.ones(len(one)), (row, one)), shape) - sparse.csr_array(
        (np.ones(len(one)), (row, other)), shape
    )
    z = cvxpy.Variable(n)
    cost = cvxpy.sum_squares(z - w.double().numpy()) / 2 + STEP / (n - 1) * cvxpy.norm1(pairs @ z)
    cvxpy.Problem(cvxpy.Minimize(cost)).solve()
    return torch.from_numpy(z.value).to(w.dtype)


def error(n: int, found: Tensor) -> float:
    w = weights(n)
    from scipy.optimize import isotonic_regression

    free, order = moved(w)
    return float((found.double()[order] - torch.from_numpy(isotonic_regression(free.numpy()).x)).abs().max())


def task(find):
    def make(n: int) -> Task:
        w, found = weights(n), []

        def run() -> None:
            found[:] = [find(w)]

        return Task(run, lambda: found[0])

    return make


CONTEST = Contest(
    title="The proximal map of the pairwise penalty",
    text=(
        "float32 weights of `N(0, 0.05²)`, step 0.01; size is how many. Isotonic regression needs the weights "
        "sorted and moved first and put back afterwards, which `torch.sort` does and counts. The error is against"
        " scipy's in float64."
    ),
    unit="weights",
    sizes=(100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    shown=(1_000, 1_000_000),
    tiny=31,
    error=error,
    ways={
        "ws.prox_pairwise": Way(task(lambda w: ws.prox_pairwise(w, STEP)), ours=True),
        "ws.prox_pairwise_binned": Way(
            task(lambda w: ws.prox_pairwise_binned(w, STEP)[0]),
            "no sort: 65,536 bins, an error of one at most",
            ours=True,
        ),
        "torch.sort + scipy": Way(task(by_scipy), "a stable sort of float and index, and float64 throughout", goal=0.4),
        "torch.sort + scikit-learn": Way(task(by_sklearn), "the same, by scikit-learn", goal=0.4),
        "torch.sort + torchisotonic": Way(
            task(by_torchisotonic), "the same, compiled for torch", goal=0.4, needs="torchisotonic"
        ),
        "imminent collisions": Way(
            task(lambda w: imminent_collisions(w, STEP)),
            "the paper's: a round for each generation of collisions",
            goal=0.4,
        ),
        "search collisions": Way(
            task(lambda w: search_collisions(w, STEP)), "the paper's: a binary search in each round", goal=0.1, most=1e6
        ),
        "end collisions": Way(
            task(lambda w: end_collisions(w, STEP)), "the paper's: merges in turn from the end", goal=0.1, most=1e6
        ),
        "cvxpy": Way(task(by_cvxpy), "states all n(n − 1)/2 pairs, an interior point method", most=300, needs="cvxpy"),
    },
)
