"""The exact proximal map: types, shapes, groups, masses, gradients, paths."""

import pytest
import torch

from tests.particles import each_kernel, exact, weights  # noqa: F401
from tests.support import bits
import weightshare as ws
from weightshare.values.prox import prox_clusters, prox_path

pytestmark = pytest.mark.usefixtures("each_kernel")
FORWARD = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch calls it for forward mode


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    w = weights("normal", 1009).to(dtype)
    z = ws.prox_pairwise(w, 0.01)
    assert z.dtype == dtype
    assert torch.equal(z, ws.prox_pairwise(w.float(), 0.01).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_that_met_are_equal_to_the_bit(dtype):
    w = weights("normal", 101).to(dtype)
    z, labels = prox_clusters(w, 0.05)
    members = [z[labels == k] for k in labels.unique()]
    assert 1 < len(members) < 101
    assert all(bits(cluster) == bits(cluster[:1]) * len(cluster) for cluster in members)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_weights_stay_equal_however_weak_the_step(dtype):
    w = torch.full((101,), 0.1, dtype=dtype)
    w[:13] = 0.3
    for step in (0.0, 1e-30, 1e-18, 1e-9):
        assert len(ws.prox_pairwise(w, step).unique()) == 2


def test_a_step_of_nothing_changes_nothing():
    w = weights("tied", 101)
    assert torch.equal(ws.prox_pairwise(w, 0), w)
    assert torch.equal(ws.prox_pairwise(w, 0, torch.rand(101) + 1), w)


def test_zeros_of_both_signs_are_one_value():
    w = torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0])
    assert torch.equal(ws.prox_pairwise(w, 1e-6)[:4], ws.prox_pairwise(w, 1e-6)[:1].expand(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_input_is_left_alone_whatever_its_strides(dtype):
    w = weights("normal", 105).to(dtype).view(3, 5, 7).permute(2, 0, 1)[::2]
    before = w.clone()
    z = ws.prox_pairwise(w, 0.05)
    assert z.shape == w.shape
    assert torch.equal(w, before)
    assert torch.allclose(z.double(), exact(w, 0.05), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_problems_of_a_batch_do_not_meet(dtype):
    w = weights("normal", 105).to(dtype).view(3, 5, 7)
    for dims in range(4):
        rows = w.flatten(0, dims - 1) if dims else w[None]
        alone = torch.stack([ws.prox_pairwise(row, 0.05) for row in rows]).view(w.shape)
        assert torch.equal(ws.prox_pairwise(w, 0.05, batch_dims=dims), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_of_a_list_do_not_meet(dtype):
    several = [weights("normal", n, seed=n).to(dtype) for n in (7, 0, 1, 13)] + [
        weights("tied", 6).to(dtype).view(2, 3)
    ]
    together = ws.prox_pairwise(several, 0.05)
    assert all(torch.equal(z, ws.prox_pairwise(w, 0.05)) for z, w in zip(together, several, strict=True))
    assert [z.shape for z in together] == [w.shape for w in several]
    labels = torch.cat([part.flatten() for part in prox_clusters(several, 0.05)[1]])
    assert torch.equal(labels.unique(), torch.arange(int(labels.max()) + 1))
    assert ws.prox_pairwise([], 0.05) == []


def test_masses_of_a_list():
    several, masses = [weights("normal", 7), weights("tied", 5)], [torch.arange(1, 8), torch.arange(2, 7)]
    together = ws.prox_pairwise(several, 0.05, masses)
    alone = [ws.prox_pairwise(w, 0.05, mass) for w, mass in zip(several, masses, strict=True)]
    assert all(torch.equal(z, one) for z, one in zip(together, alone, strict=True))


def test_a_mass_counts_as_so_many_weights():
    w, counts = weights("normal", 11), torch.tensor([1, 3, 2, 1, 7, 5, 1, 1, 2, 3, 1])
    written = ws.prox_pairwise(w.repeat_interleave(counts), 0.05)
    first = counts.cumsum(0) - counts
    assert torch.allclose(ws.prox_pairwise(w, 0.05, counts), written[first], rtol=0, atol=1e-15)


def test_the_gradient_is_that_of_finite_differences():
    w = weights("normal", 35).view(5, 7).requires_grad_()
    mass = 0.5 + torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    for prox in (
        lambda w: ws.prox_pairwise(w, 0.05),
        lambda w: ws.prox_pairwise(w, 0.05, mass, batch_dims=1),
        lambda w: ws.prox_pairwise([w[0], w[1:]], 0.05)[1],
    ):
        assert torch.autograd.gradcheck(prox, w, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(prox, w)


@FORWARD
def test_forward_mode_gives_the_same_jacobian():
    w = weights("normal", 11)
    prox = lambda w: ws.prox_pairwise(w, 0.05)  # noqa: E731
    forward, backward = torch.func.jacfwd(prox)(w), torch.func.jacrev(prox)(w)
    assert torch.allclose(forward, backward, rtol=0, atol=1e-15)


def test_the_jacobian_takes_the_mean_over_clusters():
    w = weights("normal", 11)
    labels = prox_clusters(w, 0.05)[1]
    together = (labels[:, None] == labels).double()
    jacobian = torch.autograd.functional.jacobian(lambda w: ws.prox_pairwise(w, 0.05), w)
    assert torch.allclose(jacobian, together / together.sum(1), rtol=0, atol=1e-15)
    assert 1 < len(labels.unique()) < 11


def test_under_vmap():
    w = weights("normal", 35).view(5, 7)
    prox = lambda w: ws.prox_pairwise(w, 0.05)  # noqa: E731
    rows = ws.prox_pairwise(w, 0.05, batch_dims=1)
    assert torch.equal(torch.vmap(prox)(w), rows)
    assert torch.equal(torch.vmap(prox, in_dims=1, out_dims=1)(w.T.contiguous()), rows.T)
    labels = torch.vmap(lambda w: prox_clusters(w, 0.05)[1])(w)
    assert torch.equal(labels, torch.stack([prox_clusters(row, 0.05)[1] for row in w]))
    gradient = torch.vmap(torch.func.grad(lambda w: prox(w).square().sum()))(w)
    assert torch.allclose(gradient, 2 * rows, rtol=0, atol=1e-15)


def test_without_gradient_nothing_is_recorded():
    w = weights("normal", 11).requires_grad_()
    with torch.no_grad():
        assert not ws.prox_pairwise(w, 0.05).requires_grad
    assert ws.prox_pairwise(w, 0.05).requires_grad
    assert not prox_clusters(w, 0.05)[1].requires_grad


@pytest.mark.parametrize("kind", ["normal", "tied", "cascade", "outlier"])
def test_a_path_is_the_map_at_each_strength(kind):
    w, strengths = weights(kind, 105).view(5, 21), [0, 1e-3, 0.01, 0.01, 0.1, 10]
    for dims in (0, 1):
        path = prox_path(w, strengths, batch_dims=dims)
        each = torch.stack([ws.prox_pairwise(w, step, batch_dims=dims) for step in strengths])
        assert torch.allclose(path, each, rtol=0, atol=1e-13 * float(w.abs().max()))


def test_a_path_with_masses():
    w, mass = weights("normal", 13), torch.arange(1, 14)
    path = prox_path(w, [0.01, 0.1], mass)
    each = torch.stack([ws.prox_pairwise(w, step, mass) for step in (0.01, 0.1)])
    assert torch.allclose(path, each, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(0,), (), (1,), (3, 0), (0, 3)])
def test_one_weight_or_none_stays(shape):
    w = torch.full(shape, 0.7)
    for dims in range(len(shape) + 1):
        assert torch.equal(ws.prox_pairwise(w, 1.0, batch_dims=dims), w)
        assert torch.equal(prox_path(w, [1.0, 2.0], batch_dims=dims), w.expand(2, *shape))
    assert torch.equal(ws.prox_pairwise_binned(w, 1.0)[0], w)


def test_clusters_with_masses():
    w, mass = weights("normal", 13), torch.arange(1, 14)
    z, labels = prox_clusters(w, 0.05, mass)
    assert torch.equal(z, ws.prox_pairwise(w, 0.05, mass))
    assert not torch.equal(labels, prox_clusters(w, 0.05)[1])
    assert torch.equal(labels, torch.unique(z, return_inverse=True)[1])
