"""Clusters of scalars: the weight's own values, k-means as scikit-learn has it, quantiles; zeros stay zero."""

import sys

from jaxtyping import config
import numpy as np
import pytest
from sklearn.cluster import KMeans
import torch

from tests.support import bits
from weightshare.decoding import index_bits, index_dtype
from weightshare.errors import SpecError
from weightshare.values import clusters
from weightshare.values.clusters import find_clusters

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def read(codebook: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return codebook[index.long()]


@pytest.mark.parametrize("dtype", DTYPES)
def test_own_values_lose_nothing(dtype: torch.dtype) -> None:
    w = (torch.randint(-5, 6, (13, 17)) / 4).to(dtype)
    w[2, 3] = -0.0
    codebook, index = find_clusters(w)
    assert bits(read(codebook, index)) == bits(w)
    assert codebook.dtype == dtype
    assert codebook.tolist() == sorted(codebook.tolist())
    assert len(codebook) == 12  # eleven, and the other zero


@pytest.mark.parametrize("values", [1, 2, 256, 257, 700])
def test_labels_take_the_least_that_serves(values: int) -> None:
    codebook, index = find_clusters(torch.arange(values).repeat(3).float())
    assert (len(codebook), index.dtype) == (values, index_dtype(values))
    assert index.dtype == (torch.uint8 if values <= 256 else torch.int32)
    assert 2 ** (index_bits(values) - 1) < max(2, values) <= 2 ** index_bits(values)


def test_kmeans_is_that_of_sklearn_on_all_numbers() -> None:
    """Groups that lie apart have one best clustering, which every start finds."""
    w = torch.cat([torch.randn(101) * 0.01 + centre for centre in (-3.0, -1.0, 2.0, 5.0, 9.0)])[torch.randperm(505)]
    codebook, index = find_clusters(w, clusters=5)
    rival = KMeans(5, n_init=3, random_state=0).fit(w[:, None].double().numpy())
    order = np.argsort(rival.cluster_centers_[:, 0])
    np.testing.assert_allclose(codebook.numpy(), rival.cluster_centers_[order, 0], rtol=1e-6)
    assert index.tolist() == np.argsort(order)[rival.labels_].tolist()


def test_masses_count_as_sklearn_counts_repeated_numbers() -> None:
    """Mostly zeros-and-a-half values that occur many times: distinct values with weights stand for all numbers."""
    w = torch.randint(1, 40, (3001,)).float() ** 2
    codebook, index = find_clusters(w, clusters=7)
    error = float((read(codebook, index) - w).double().square().sum())
    rival = KMeans(7, n_init=1, random_state=0).fit(w[:, None].double().numpy())
    assert error == pytest.approx(rival.inertia_, rel=0.2)
    best = KMeans(7, n_init=20, random_state=0).fit(w[:, None].double().numpy())
    assert error >= best.inertia_ * (1 - 1e-6)


@pytest.mark.parametrize("init", ["kmeans", "quantiles"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_value_is_the_mean_of_its_members(init: clusters.Init, dtype: torch.dtype) -> None:
    w = torch.randn(19, 23).to(dtype)
    codebook, index = find_clusters(w, clusters=11, init=init)
    assert index.shape == w.shape
    for label, value in enumerate(codebook):
        assert torch.equal(w[index == label].double().mean().to(dtype), value)


@pytest.mark.parametrize("init", ["kmeans", "quantiles"])
def test_exact_zeros_stay_exact_and_have_a_cluster_of_their_own(init: clusters.Init) -> None:
    w = torch.randn(19, 23)
    w[torch.rand(19, 23) < 0.5] = 0.0
    w[0, 0] = -0.0
    codebook, index = find_clusters(w, clusters=5, init=init)
    assert len(codebook) == 5
    assert torch.equal(read(codebook, index) == 0, w == 0)


def test_few_values_are_taken_as_they_are() -> None:
    w = torch.tensor([[0.0, 0.25], [-0.0, 0.5]])
    codebook, index = find_clusters(w, clusters=7)
    assert codebook.tolist() == [0.0, 0.25, 0.5]
    assert index.tolist() == [[0, 1], [0, 2]]


def test_the_seed_decides() -> None:
    w = torch.randn(997)
    first, again = (find_clusters(w, clusters=13, seed=3) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert any(not torch.equal(first[0], find_clusters(w, clusters=13, seed=seed)[0]) for seed in range(4, 9))


def test_many_points_are_clustered_by_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly worse than without, and each value still is its members' mean."""
    w = torch.randn(2003)
    full = find_clusters(w, clusters=5)
    monkeypatch.setattr(clusters, "MOST_POINTS", 101)
    codebook, index = find_clusters(w, clusters=5)
    errors = [float((read(*found) - w).square().sum()) for found in (full, (codebook, index))]
    assert errors[1] < 1.05 * errors[0]
    for label, value in enumerate(codebook):
        assert torch.equal(w[index == label].double().mean().float(), value)


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "NaN or infinite"),
        (torch.tensor([1.0, float("inf")]), "NaN or infinite"),
        (torch.arange(5), "needs float16"),
        (torch.ones(3, device="meta"), "meta"),
        (torch.eye(3).to_sparse(), "dense"),
    ],
)
def test_what_has_no_clusters(w: torch.Tensor, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        find_clusters(w, clusters=2)


@pytest.mark.parametrize("clusters", [0, 2.0, 2.5, True, "2"])
def test_a_count_of_clusters_is_a_whole_number(clusters: object) -> None:
    config.update("jaxtyping_disable", True)  # as it is for users: in tests, annotations are checked first
    try:
        with pytest.raises(SpecError, match="need a whole number of at least 1"):
            find_clusters(torch.arange(5.0), clusters=clusters)
    finally:
        config.update("jaxtyping_disable", False)


def test_one_cluster_for_zeros_and_others() -> None:
    with pytest.raises(SpecError, match="clusters=2"):
        find_clusters(torch.tensor([0.0, 1.0]), clusters=1)


def test_without_scikit_learn_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(SpecError, match=r"pip install 'weightshare\[cluster\]'.*quantiles"):
        find_clusters(torch.randn(11), clusters=2)
    assert len(find_clusters(torch.randn(11), clusters=2, init="quantiles")[0]) == 2
