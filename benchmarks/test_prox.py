"""What pulling weights together costs, in turn with rivals: read the ratios, not the seconds.

float32 weights of `N(0, 0.05²)`, strength 0.01, two CPU cores. Every line compares with `numpy.argsort` of the same
weights; errors are against scipy's isotonic regression in float64.

| map | goal over `numpy.argsort` | goal over imminent collisions |
|---|---|---|
| exact | at most 2.5 × | at least 4 × faster |
| sort-free, 65,536 bins | at most 0.5 × | at least 20 × faster; error at most range/65,536 |
"""

from importlib.util import find_spec
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from sklearn.isotonic import isotonic_regression as sklearn_isotonic
import torch

from benchmarks.contest import TINY
import weightshare as ws
from weightshare.values.collisions import end_collisions, imminent_collisions, search_collisions

RESULTS = "values"
STEP = 0.01
SIZES = (101,) if TINY else (10**6, 10**7)


def weights(n):
    return 0.05 * torch.randn(n, generator=torch.Generator().manual_seed(0))


def ends(w):
    places, order = torch.sort(w)
    d = len(w)
    return places.double() + STEP * (d - 1 - 2 * torch.arange(d, dtype=torch.float64)) / (d - 1), order


def by_scipy(w):
    moved, order = ends(w)
    return torch.empty_like(w).index_copy_(0, order, torch.from_numpy(isotonic_regression(moved.numpy()).x).to(w.dtype))


def by_sklearn(w):
    moved, order = ends(w)
    return torch.empty_like(w).index_copy_(0, order, torch.from_numpy(sklearn_isotonic(moved.numpy())).to(w.dtype))


def by_torchisotonic(w):
    from torchisotonic import isotonic

    moved, order = ends(w)
    return torch.empty_like(w).index_copy_(0, order, isotonic(moved).to(w.dtype))


def of_the_paper(algorithm):
    return lambda w: algorithm(w, STEP)


MAPS = {
    "exact": lambda w: ws.prox_pairwise(w, STEP),
    "sort_free": lambda w: ws.prox_pairwise_binned(w, STEP)[0],
    "torch_sort_and_scipy": by_scipy,
    "torch_sort_and_sklearn": by_sklearn,
    "torchisotonic": by_torchisotonic,
    "imminent": of_the_paper(imminent_collisions),
    "search": of_the_paper(search_collisions),
    "end": of_the_paper(end_collisions),
}
SLOW = {"end"}  # not for more than a million
MISSING = {"torchisotonic"} - {name for name in MAPS if find_spec(name)}  # a rival that need not be installed
CASES = [(name, n) for n in SIZES for name in MAPS if name not in MISSING | (SLOW if n > 10**6 else set())]


@pytest.mark.parametrize(("name", "n"), CASES, ids=[f"{name}-{n:.0e}" for name, n in CASES])
def test_over_argsort(name, n, against):
    w = weights(n)
    exact = torch.from_numpy(isotonic_regression(ends(w)[0].numpy()).x)
    off = float((MAPS[name](w).sort().values.double() - exact).abs().max())
    print(f"\nerror {off:.2e}, a bin {float(w.max() - w.min()) / 65536:.2e}")
    against(lambda: MAPS[name](w), lambda: np.argsort(w.numpy()), rounds=5 if n > 10**6 else 11)


@pytest.mark.parametrize("n", SIZES, ids=[f"{n:.0e}" for n in SIZES])
@pytest.mark.parametrize("name", ["exact", "sort_free"])
def test_over_imminent_collisions(name, n, against):
    w = weights(n)
    rounds = 5 if n > 10**6 else 11
    against(lambda: MAPS[name](w), lambda: imminent_collisions(w, STEP), rounds=rounds)


MEMORY = """
import threading, time, torch, weightshare as ws

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def watch():
    while not done.is_set():
        seen.append(resident())
        time.sleep(0.001)

ws.prox_pairwise_binned(torch.randn(1_000_003), 0.01)
w = torch.empty({n}).normal_(0, 0.05)
seen, done = [resident()], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
z, bound = ws.prox_pairwise_binned(w, 0.01)
seen.append(resident())
done.set()
watcher.join()
print((max(seen) - seen[0]) / (w.numel() * 4))
"""


@pytest.mark.parametrize("n", [101] if TINY else [10**7, 10**8], ids=lambda n: f"{n:.0e}")
def test_memory_without_sorting(n):
    out = subprocess.run([sys.executable, "-c", MEMORY.format(n=n)], check=True, capture_output=True, text=True)
    print(f"\nn = {n:.0e}: {float(out.stdout):.2f} times the tensor, beyond it")
    assert TINY or float(out.stdout) < 3


def test_sort_free_for_a_hundred_million(against):
    """Linear: a hundred times a million, in turn with it."""
    large, small = weights(1001 if TINY else 10**8), weights(101 if TINY else 10**6)
    against(lambda: MAPS["sort_free"](large), lambda: MAPS["sort_free"](small), rounds=3)
