"""The proximal map against isotonic regression elsewhere, and against trying every partition."""

import numpy as np
import pytest
from sklearn.isotonic import isotonic_regression as sklearn_isotonic
import torch

from tests.particles import KINDS, best_partition, each_kernel, exact, moved, objective, weights  # noqa: F401
import weightshare as ws
from weightshare.values.collisions import end_collisions, imminent_collisions, search_collisions
from weightshare.values.prox import prox_clusters

SIZES = (1, 2, 3, 7, 101, 1009)
STEPS = (0.0, 1e-4, 0.1, 3.0)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
THREE = (end_collisions, imminent_collisions, search_collisions)


def error(z, w, step):
    """Relative to the greatest weight."""
    return float((z.double() - exact(w, step)).abs().max() / w.double().abs().max().clamp(min=1e-300))


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_is_scipy(kind, dtype):
    for n in SIZES:
        for step in STEPS:
            w = weights(kind, n, seed=n).to(dtype)
            assert error(ws.prox_pairwise(w, step), w, step) <= TOLERANCE[dtype], (n, step)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_is_scipy_for_a_million(kind, dtype):
    w = weights(kind, 1_000_003, step=0.01).to(dtype)
    assert error(ws.prox_pairwise(w, 0.01), w, 0.01) <= TOLERANCE[dtype]


def test_exact_is_sklearn():
    w = weights("normal", 1009)
    ends, order = moved(w.numpy(), 0.1)
    assert np.allclose(ws.prox_pairwise(w, 0.1).numpy()[order], sklearn_isotonic(ends), rtol=0, atol=1e-14)


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("n", range(1, 9))
def test_exact_is_the_best_partition(n):
    for seed, step in enumerate((0.01, 0.05, 0.1, 0.3)):
        for kind in ("normal", "tied", "cascade"):
            w = weights(kind, n, seed)
            z, best = ws.prox_pairwise(w, step), best_partition(w, step)
            assert torch.allclose(z, best, rtol=0, atol=1e-12)
            assert objective(z, w, step) <= objective(best, w, step) + 1e-14


@pytest.mark.parametrize("algorithm", THREE)
@pytest.mark.parametrize("kind", KINDS[:-2])
def test_the_papers_algorithms_are_exact(algorithm, kind):
    for n in (*SIZES, 4093):
        for step in STEPS:
            w = weights(kind, n, seed=n)
            assert error(algorithm(w, step), w, step) <= 1e-12, (n, step)


@pytest.mark.parametrize("algorithm", THREE)
@pytest.mark.parametrize("kind", ["cascade", "mirror"])
def test_the_papers_algorithms_are_exact_in_their_worst_cases(algorithm, kind):
    for n in (2, 3, 7, 101, 4096):
        w = weights(kind, n)
        assert error(algorithm(w, 0.1), w, 0.1) <= 1e-10, n


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [imminent_collisions, search_collisions])
def test_the_papers_fast_algorithms_are_exact_for_many_weights(algorithm):
    for step in (1e-3, 0.01, 0.1):
        w = weights("normal", 100_003)
        assert error(algorithm(w, step), w, step) <= 1e-10


@pytest.mark.usefixtures("each_kernel")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_without_sorting_never_exceeds_the_bound(kind, dtype):
    for n in (*SIZES, 10_007):
        for step in STEPS:
            for bins in (2, 13, 257, 65536):
                w = weights(kind, n, seed=n).to(dtype)
                z, bound = ws.prox_pairwise_binned(w, step, bins)
                off = float((z.double() - exact(w, step)).abs().max())
                width = float(w.max().double() - w.min().double()) / bins
                assert off <= bound + 1e-13 * float(w.abs().max()), (n, step, bins)  # scipy rounds too
                assert bound <= 1.001 * width + 2e-6 * float(w.abs().max()), (n, step, bins)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_without_sorting_is_under_a_bin_for_a_million(kind):
    for step in (1e-5, 0.01, 1.0):
        w = weights(kind, 1_000_003, step=step).float()
        z, bound = ws.prox_pairwise_binned(w, step)
        off = float((z.double() - exact(w, step)).abs().max())
        assert off <= bound + 1e-13 * float(w.abs().max())  # scipy rounds too
        assert off <= float(w.max() - w.min()) / 65536 + 1e-6 * float(w.abs().max())


def test_clusters_are_the_ones_of_the_best_partition():
    w = weights("normal", 7)
    z, labels = prox_clusters(w, 0.05)
    best = best_partition(w, 0.05)
    assert torch.equal(labels[:, None] == labels, (best[:, None] - best).abs() < 1e-13)
    assert torch.equal(z[:, None] == z, labels[:, None] == labels)
    assert 1 < len(labels.unique()) < 7
