"""Weights to pull together: random, tied, sorted, reversed and adversarial ones, and slow exact answers."""

from itertools import pairwise, product

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
import torch
from torch import Tensor

from weightshare import kernels
from weightshare.kernels import plain

KINDS = (
    "normal",
    "tied",
    "equal",
    "sorted",
    "reversed",
    "outlier",
    "far",
    "half_zero",
    "cauchy",
    "two",
    "cascade",
    "mirror",
)


def weights(kind: str, n: int, seed: int = 0, step: float = 0.1) -> Tensor:
    """`n` float64 weights of a kind."""
    normal = 0.05 * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    made = {
        "normal": lambda: normal,
        "tied": lambda: (normal * 100).round() / 100,
        "equal": lambda: torch.full_like(normal, 0.3),
        "sorted": lambda: normal.sort().values,
        "reversed": lambda: normal.sort(descending=True).values,
        "outlier": lambda: normal.index_fill(0, torch.tensor([0]), 1e3),
        "far": lambda: normal.index_fill(0, torch.tensor([n // 2]), 1e30),
        "half_zero": lambda: torch.where(torch.arange(n) % 2 == 0, 0.0, normal),
        "cauchy": lambda: torch.tan(20 * normal),
        "two": lambda: (normal > 0).double(),
        "cascade": lambda: cascade(n, step),
        "mirror": lambda: -cascade(n, step),
    }
    return made[kind]()


def cascade(n: int, step: float) -> Tensor:
    """Weights of which, once the upper half has met, one more meets at a time: the worst case of merging in rounds."""
    gaps = torch.full((max(n - 1, 0),), 2.0001 * step / max(n - 1, 1), dtype=torch.float64)
    gaps[n // 2 :] = 0
    return torch.cat([gaps.new_zeros(min(n, 1)), gaps.cumsum(0)])


def moved(w: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """In order of the weights: where each would stand alone after unit time; and the order."""
    order, d = np.argsort(w, kind="stable"), w.size
    velocities = step * (d - 1 - 2 * np.arange(d)) / max(d - 1, 1)
    return w[order] + velocities, order


def exact(w: Tensor, step: float) -> Tensor:
    """The proximal map by scipy's isotonic regression, in float64."""
    flat = w.detach().double().reshape(-1).numpy()
    ends, order = moved(flat, step)
    found = np.empty_like(flat)
    found[order] = isotonic_regression(ends).x
    return torch.from_numpy(found).view(w.shape)


def penalty(w: Tensor) -> float:
    """`R(w)` pair by pair."""
    flat = w.detach().double().reshape(-1)
    return float((flat[:, None] - flat).abs().sum() / 2 / max(flat.numel() - 1, 1))


def objective(z: Tensor, w: Tensor, step: float) -> float:
    """What the proximal map minimises."""
    return float((z.double() - w.double()).square().sum() / 2) + step * penalty(z)


def best_partition(w: Tensor, step: float) -> Tensor:
    """The proximal map by trying every way to cut the sorted weights into clusters."""
    ends, order = moved(w.double().numpy(), step)
    candidates = []
    for cuts in product([False, True], repeat=w.numel() - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), w.numel()]
        z = np.empty(w.numel())
        for start, stop in pairwise(edges):
            z[order[start:stop]] = ends[start:stop].mean()
        candidates.append(torch.from_numpy(z))
    return min(candidates, key=lambda z: objective(z, w, step))


@pytest.fixture(params=["chosen", "plain"])
def each_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test with the kernels of this machine, and again with those in plain torch."""
    chosen = {"chosen": kernels._module, "plain": lambda kind: plain}[request.param]
    monkeypatch.setattr(kernels, "_module", chosen)
    return request.param
