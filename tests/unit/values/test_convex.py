"""Convex clustering of rows: shapes, scales, clusters, warm starts, what it does when it cannot finish."""

import math

import pytest
import torch
from torch import Tensor

from tests.particles import weights
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values.convex import convex_clustering, prox_filters
from weightshare.values.pairwise import pairwise_penalty


def blobs(n: int, k: int, centres: int = 5, spread: float = 0.02) -> Tensor:
    generator = torch.Generator().manual_seed(n * k)
    middle = torch.randn(centres, k, generator=generator, dtype=torch.float64)
    return middle[torch.arange(n) % centres] + spread * torch.randn(n, k, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["normal", "tied", "equal", "two", "cauchy"])
@pytest.mark.parametrize("step", [0.0, 1e-3, 0.03, 0.1, 10.0])
def test_rows_of_one_number_are_scalars(kind, step):
    w = weights(kind, 31)
    found = convex_clustering(w[:, None], step)
    assert torch.allclose(found.z[:, 0], ws.prox_pairwise(w, step), rtol=0, atol=1e-12 * float(w.abs().max()))
    assert torch.equal(convex_clustering(w, step).z, found.z[:, 0])


def test_next_to_an_outlier_the_tolerance_has_to_be_small():
    """It is a part of the whole energy, of which the outlier has all but a millionth."""
    w = weights("outlier", 31)
    exact = ws.prox_pairwise(w, 0.03)
    loose, tight = (convex_clustering(w, 0.03, tolerance=tolerance) for tolerance in (1e-12, 1e-17))
    assert float((loose.z - exact).square().sum()) / 2 <= loose.gap
    assert torch.allclose(tight.z, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("strength", [0.3, 0.4, 0.6])
def test_a_cluster_is_one_row_to_the_bit(strength):
    found = convex_clustering(blobs(31, 7), strength)
    assert torch.equal(found.labels.unique(), torch.arange(int(found.labels.max()) + 1))
    assert torch.equal(found.z[:, None].eq(found.z).all(-1), found.labels[:, None] == found.labels)


def test_blobs_are_found():
    found = convex_clustering(blobs(31, 7), 0.6)
    assert torch.equal(found.labels, torch.arange(31) % 5)


def test_a_strong_pull_makes_all_rows_their_mean():
    w = blobs(31, 7)
    for strength in (1e2, 1e300):
        z, labels, _, _ = convex_clustering(w, strength)
        assert torch.allclose(z, w.mean(0).expand(31, 7), rtol=0, atol=1e-14)
        assert int(labels.max()) == 0


def test_more_numbers_than_rows_are_turned_and_turned_back():
    w = blobs(7, 101, spread=0.05)
    wide = convex_clustering(w, 3.0)
    basis = torch.linalg.qr((w - w.mean(0)).T)[0]
    turned = convex_clustering((w - w.mean(0)) @ basis, 3.0)
    assert torch.allclose(wide.z, turned.z @ basis.T + w.mean(0), rtol=0, atol=1e-12)
    assert torch.equal(wide.labels, turned.labels)
    assert 1 < len(wide.labels.unique()) < 7


@pytest.mark.parametrize("scale", [1e150, 1e300, 1e-30, 1e-200])
def test_scales(scale):
    w = blobs(13, 3)
    one, other = convex_clustering(w, 0.3), convex_clustering(w * scale, 0.3 * scale)
    assert torch.allclose(other.z / scale, one.z, rtol=0, atol=1e-13)
    assert torch.equal(other.labels, one.labels)


def test_equal_rows_stay_one_whatever_the_pull():
    w = blobs(5, 3)[torch.arange(11) % 5]
    for strength in (0.0, 1e-9, 0.1):
        z, labels, _, _ = convex_clustering(w, strength)
        assert torch.equal(z[:5].repeat(3, 1)[:11], z)
        assert torch.equal(labels, torch.arange(11) % 5)
    same = torch.full((5, 3), 0.1)
    z, labels, gap, _ = convex_clustering(same, 1.0)
    assert torch.equal(z, same)
    assert (gap, int(labels.max())) == (0.0, 0)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (3, 0), (0,), (1,)])
def test_one_row_or_nothing_in_it_stays(shape):
    w = torch.full(shape, 0.7)
    z, labels, gap, _ = convex_clustering(w, 1.0)
    assert torch.equal(z, w)
    assert (gap, len(labels)) == (0.0, shape[0])
    assert torch.equal(prox_filters(w, 1.0, rewind=0.5), w)


def test_uncoupled_rows_do_not_meet():
    w = blobs(13, 3)
    edges = torch.tensor([[0, 5, 1, 6], [5, 10, 6, 11]])
    z, labels, _, _ = convex_clustering(w, 10.0, edges=edges)
    assert torch.allclose(z[[0, 5, 10]], w[[0, 5, 10]].mean(0).expand(3, 3), rtol=0, atol=1e-14)
    alone = [2, 3, 4, 7, 8, 9, 12]
    assert torch.allclose(z[alone], w[alone], rtol=0, atol=1e-15)
    assert labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 0, 1, 8]
    nothing = convex_clustering(w, 10.0, weights=torch.zeros(13, 13))
    assert torch.equal(nothing.z, w)


def test_forms_of_one_coupling():
    w = blobs(13, 3)
    dense = torch.ones(13, 13) / 12
    one, other = torch.triu_indices(13, 13, 1)
    found = [
        convex_clustering(w, 0.3),
        convex_clustering(w, 0.3, weights=dense),
        convex_clustering(w, 0.3, weights=dense.to_sparse()),
        convex_clustering(w, 0.3, weights=dense[one, other], edges=torch.stack([other, one])),
    ]
    assert all(torch.allclose(f.z, found[0].z, rtol=0, atol=1e-6) for f in found)
    assert all(torch.equal(f.labels, found[0].labels) for f in found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_types_are_computed_in_float64(dtype):
    w = blobs(13, 3).to(dtype)
    found = convex_clustering(w, 0.3)
    assert found.z.dtype == dtype
    assert torch.equal(found.z, convex_clustering(w.double(), 0.3).z.to(dtype))


def test_a_start_at_the_answer_is_soon_done():
    w = blobs(31, 7)
    cold = convex_clustering(w, 0.5)
    warm = convex_clustering(w, 0.5, start=cold.z)
    assert warm.iterations < cold.iterations
    assert torch.allclose(warm.z, cold.z, rtol=0, atol=1e-6)
    far = convex_clustering(w, 0.5, start=w.flip(0) * 7)
    assert torch.allclose(far.z, cold.z, rtol=0, atol=1e-6)


def test_it_says_when_it_could_not_finish():
    w = blobs(31, 7)
    with pytest.warns(RuntimeWarning, match="after 1 of 1 iterations at a gap of"):
        found = convex_clustering(w, 0.5, max_iterations=1)
    best = convex_clustering(w, 0.5).z
    assert found.gap < math.inf
    assert float((found.z - best).square().sum()) / 2 <= found.gap


def test_the_gap_asked_for_is_the_gap_there_is():
    w = blobs(31, 7)
    energy = float((w - w.mean(0)).square().sum()) / 2
    for tolerance in (1e-3, 1e-12):
        assert convex_clustering(w, 0.5, tolerance=tolerance).gap <= tolerance * energy


def test_filters_of_a_convolution():
    w = blobs(13, 2 * 3 * 5).float().view(13, 2, 3, 5)
    z = prox_filters(w, 0.5)
    assert z.shape == w.shape
    assert torch.equal(z.flatten(1), convex_clustering(w.flatten(1), 0.5, tolerance=1e-10).z)
    assert not prox_filters(w.requires_grad_(), 0.5).requires_grad


@pytest.mark.parametrize("rewind", [0.25, 1.0])
def test_rewound_filters_merge_and_go_part_of_their_way(rewind):
    w = blobs(31, 7)
    z, labels, _, _ = convex_clustering(w, 0.6)
    means = torch.stack([w[labels == k].mean(0) for k in labels])
    rewound = prox_filters(w, 0.6, rewind=rewind)
    assert torch.allclose(rewound, means + (1 - rewind) * (z - means), rtol=0, atol=1e-9)
    assert len(rewound.unique(dim=0)) == 5


def test_the_input_is_left_alone_whatever_its_strides():
    w = blobs(13, 30).view(13, 5, 6).transpose(1, 2)
    before = w.clone()
    assert torch.equal(convex_clustering(w, 0.5).z, convex_clustering(w.contiguous(), 0.5).z)
    assert torch.equal(w, before)


W = torch.ones(3, 2)
WRONG = {
    "integers": ({"rows": torch.ones(3, 2, dtype=torch.int32)}, "int32"),
    "complex": ({"rows": W + 1j}, "complex"),
    "sparse": ({"rows": W.to_sparse()}, "sparse"),
    "NaN": ({"rows": W * math.nan}, "NaN or infinite"),
    "infinity": ({"rows": W * math.inf}, "NaN or infinite"),
    "a number": ({"rows": torch.tensor(1.0)}, "single number"),
    "negative": ({"strength": -0.1}, "strength needs a finite number of at least 0"),
    "not finite": ({"strength": math.nan}, "strength needs a finite number"),
    "tolerance": ({"tolerance": -1.0}, "tolerance"),
    "iterations": ({"max_iterations": 0}, "at least 1"),
    "half an iteration": ({"max_iterations": 2.5}, "whole number"),
    "asymmetric": ({"weights": torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]])}, "symmetric"),
    "repelling": ({"weights": -torch.ones(3, 3)}, "at least 0"),
    "start": ({"start": torch.ones(2, 2)}, "one shape"),
    "start of NaN": ({"start": W * math.nan}, "NaN or infinite"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input(what):
    arguments, named = WRONG[what]
    with pytest.raises(SpecError, match=named):
        convex_clustering(**({"rows": W, "strength": 0.1} | arguments))


@pytest.mark.parametrize("rewind", [-0.1, 1.1, math.nan])
def test_rewinding_out_of_range(rewind):
    with pytest.raises(SpecError, match="rewind"):
        prox_filters(W, 0.1, rewind=rewind)


def test_filters_of_one_number_have_less_penalty_left():
    w = weights("normal", 31)
    assert float(pairwise_penalty(prox_filters(w, 0.05))) < float(pairwise_penalty(w))
