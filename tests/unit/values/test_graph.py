"""Total variation on a graph: against the pairwise map, chains, scales, labels, what comes in wrong."""

import math
import sys

import pytest
import torch
from torch import Tensor

from tests.particles import weights
import weightshare as ws
from weightshare.errors import ConfigError, SpecError
from weightshare.values.convex import convex_clustering
from weightshare.values.graph import graph_clusters, prox_graph


def chain(n: int) -> Tensor:
    return torch.stack([torch.arange(n - 1), torch.arange(1, n)])


def grid(h: int, w: int) -> Tensor:
    at = torch.arange(h * w).view(h, w)
    across, down = (at[:, :-1], at[:, 1:]), (at[:-1], at[1:])
    return torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in (across, down)], 1)


KINDS = ["normal", "tied", "equal", "two", "outlier", "cauchy", "cascade", "half_zero"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0.0, 1e-3, 0.03, 0.1, 10.0])
def test_a_complete_graph_is_the_pairwise_map(kind, step):
    w = weights(kind, 31)
    found = graph_clusters(w, None, None, step)
    assert torch.allclose(found.z, ws.prox_pairwise(w, step), rtol=0, atol=1e-13 * float(w.abs().max()))
    written = prox_graph(w, torch.triu_indices(31, 31, 1), torch.full((465,), 1 / 30, dtype=torch.float64), step)
    assert torch.allclose(written, found.z, rtol=0, atol=1e-13 * float(w.abs().max()))


@pytest.mark.parametrize("step", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("edges", [chain(35), grid(5, 7)], ids=["chain", "grid"])
def test_two_ways_to_one_answer(edges, step):
    w = weights("normal", 35)
    cut, smooth = graph_clusters(w, edges, None, step), convex_clustering(w, step, edges=edges)
    assert torch.allclose(cut.z, smooth.z, rtol=0, atol=1e-10)
    assert torch.equal(cut.labels, smooth.labels)
    assert cut.gap < 1e-15


def test_pieces_are_connected_and_equal_to_the_bit():
    w = weights("normal", 1009)
    z, labels, _, _ = graph_clusters(w, chain(1009), None, 0.03)
    assert 1 < len(labels.unique()) < 1009
    steps = labels.diff()
    assert bool(((steps == 0) | (steps == 1)).all())  # numbered along the chain
    assert torch.equal(z.diff() == 0, steps == 0)


def test_unlike_parts_do_not_meet():
    w = torch.tensor([0.0, 1.0, 5.0, 7.0, 9.0])
    z, labels, _, _ = graph_clusters(w, torch.tensor([[0, 2], [1, 3]]), None, 10.0)
    assert torch.equal(z, torch.tensor([0.5, 0.5, 6.0, 6.0, 9.0]))
    assert labels.tolist() == [0, 0, 1, 1, 2]


def test_a_pair_listed_twice_pulls_twice_and_a_loop_not_at_all():
    w = torch.tensor([0.0, 4.0])
    twice = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]])
    assert torch.equal(prox_graph(w, twice, None, 0.5), torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize("scale", [1e100, 1e-100])
def test_scales(scale):
    w = weights("normal", 35)
    z = prox_graph(w, grid(5, 7), None, 0.03)
    scaled = prox_graph(w * scale, grid(5, 7), None, 0.03 * scale)
    assert torch.allclose(scaled / scale, z, rtol=0, atol=1e-14)


def test_weights_of_very_unlike_sizes():
    w = weights("normal", 35)
    pulls = torch.logspace(-12, 12, 34, dtype=torch.float64)
    z, _, gap, _ = graph_clusters(w, chain(35), pulls, 1.0)
    assert gap < 1e-15
    assert torch.allclose(z.sum(), w.sum(), rtol=0, atol=1e-14)


def test_what_cannot_move_stays():
    w = weights("normal", 6).view(2, 3)
    assert torch.equal(prox_graph(w, chain(6), None, 0.0), w)
    assert torch.equal(prox_graph(w, chain(6), torch.zeros(5), 1.0), w)
    assert torch.equal(prox_graph(w, torch.empty(2, 0, dtype=torch.int64), None, 1.0), w)
    same = torch.full((7,), 0.1)
    assert torch.equal(prox_graph(same, chain(7), None, 1.0), same)


@pytest.mark.parametrize("shape", [(0,), (), (1,), (3, 0)])
def test_one_weight_or_none_stays(shape):
    w = torch.full(shape, 0.7)
    z, labels, gap, _ = graph_clusters(w, None, None, 1.0)
    assert torch.equal(z, w)
    assert (gap, len(labels)) == (0.0, w.numel())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_types_are_computed_in_float64(dtype):
    w = weights("normal", 35).to(dtype)
    z = prox_graph(w, chain(35), None, 0.02)
    assert z.dtype == dtype
    assert torch.equal(z, prox_graph(w.double(), chain(35), None, 0.02).to(dtype))


def test_an_image_of_some_size():
    w = weights("normal", 41 * 43).view(41, 43)
    found = graph_clusters(w, grid(41, 43), None, 0.02)
    assert found.gap < 1e-14
    assert found.iterations < 20
    assert torch.allclose(found.z.mean(), w.mean(), rtol=0, atol=1e-14)


W = torch.tensor([0.3, 0.1, 0.2])
WRONG = {
    "integers": ((torch.arange(3), chain(3), None, 0.1), "int64"),
    "complex": ((W + 1j, chain(3), None, 0.1), "complex"),
    "sparse": ((W.to_sparse(), chain(3), None, 0.1), "sparse"),
    "NaN": ((W * math.nan, chain(3), None, 0.1), "NaN or infinite"),
    "infinity": ((W / 0, chain(3), None, 0.1), "NaN or infinite"),
    "negative step": ((W, chain(3), None, -0.1), "at least 0"),
    "endless step": ((W, chain(3), None, math.inf), "finite"),
    "negative weights": ((W, chain(3), -torch.ones(2), 0.1), "at least 0"),
    "weights missing": ((W, chain(3), torch.ones(1), 0.1), "2 edges"),
    "edges too far": ((W, chain(5), None, 0.1), "from 0 to 2"),
    "edges turned": ((W, chain(4).T, None, 0.1), r"\(3, 2\)"),
    "asymmetric": ((W, None, torch.ones(3, 3).triu(1), 0.1), "symmetric"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input(what):
    arguments, named = WRONG[what]
    with pytest.raises(SpecError, match=named):
        prox_graph(*arguments)


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match="pip install 'weightshare\\[graph\\]'"):
        prox_graph(W, chain(3), None, 0.1)
