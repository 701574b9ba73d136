"""The penalty, its subgradient, its conjugate and the distance to its subdifferential."""

import math

import pytest
from scipy.optimize import minimize
import torch

from tests.particles import each_kernel, penalty, weights  # noqa: F401
import weightshare as ws
from weightshare.values.pairwise import pairwise_conjugate, pairwise_subgradient, subdifferential_distance

pytestmark = pytest.mark.usefixtures("each_kernel")


def test_the_gradient_is_that_of_finite_differences():
    w = weights("normal", 7).view(7, 1).requires_grad_()
    assert torch.autograd.gradcheck(ws.pairwise_penalty, w)
    mass = 0.5 + torch.rand(5, 7, dtype=torch.float64)
    many = weights("normal", 35).view(5, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: ws.pairwise_penalty(w, mass, batch_dims=1), many)


def test_problems_of_a_batch_do_not_meet():
    w = weights("tied", 105).view(3, 5, 7)
    for dims, rows in ((0, w.view(1, 105)), (1, w.view(3, 35)), (2, w.view(15, 7)), (3, w.view(105, 1))):
        found = ws.pairwise_penalty(w, batch_dims=dims)
        assert found.shape == w.shape[:dims]
        assert found.flatten().tolist() == pytest.approx([penalty(row) for row in rows], rel=1e-12)


def test_under_vmap_and_grad():
    w = weights("tied", 35).view(5, 7)
    assert torch.equal(torch.vmap(ws.pairwise_penalty)(w), ws.pairwise_penalty(w, batch_dims=1))
    assert torch.equal(torch.vmap(ws.pairwise_penalty, in_dims=1)(w), ws.pairwise_penalty(w.T, batch_dims=1))
    gradient = torch.vmap(torch.func.grad(ws.pairwise_penalty))(w)
    assert torch.equal(gradient, pairwise_subgradient(w, batch_dims=1))


def test_a_mass_counts_as_so_many_weights():
    w, counts = weights("normal", 5), torch.tensor([1, 3, 2, 1, 7])
    written = w.repeat_interleave(counts)
    assert float(ws.pairwise_penalty(w, counts)) == pytest.approx(float(ws.pairwise_penalty(written)), rel=1e-13)
    sums = torch.zeros_like(w).index_add(0, torch.arange(5).repeat_interleave(counts), pairwise_subgradient(written))
    assert torch.allclose(pairwise_subgradient(w, counts), sums, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_summed_wide(dtype):
    w = (1000 + weights("normal", 1009)).to(dtype).requires_grad_()
    found = ws.pairwise_penalty(w)
    found.backward()
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(penalty(w), rel=1e-6, abs=1e-6)
    assert w.grad is not None
    assert torch.equal(w.grad, pairwise_subgradient(w))


@pytest.mark.parametrize("shape", [(0,), (), (1,), (1, 1, 1)])
def test_one_weight_or_none_has_no_penalty(shape):
    w = torch.ones(shape)
    assert float(ws.pairwise_penalty(w)) == 0
    assert torch.equal(pairwise_subgradient(w), torch.zeros(shape))
    assert pairwise_conjugate(torch.zeros(shape)) == 0
    assert subdifferential_distance(w, torch.zeros(shape)) == 0


def test_a_batch_of_nothing():
    assert ws.pairwise_penalty(torch.ones(3, 0), batch_dims=1).tolist() == [0, 0, 0]
    assert ws.pairwise_penalty(torch.ones(0, 3), batch_dims=1).shape == (0,)


def test_the_subgradient_is_the_shortest_one():
    w = torch.tensor([0.0, 2.0, 2.0, 2.0, 5.0], dtype=torch.float64)
    g = pairwise_subgradient(w)
    assert subdifferential_distance(w, g) < 1e-15
    sideways = torch.tensor([0.0, -0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    assert subdifferential_distance(w, g + sideways) < 1e-15
    assert float((g + sideways).norm()) > float(g.norm())
    assert subdifferential_distance(w, g + 1.5 * sideways) > 0.1


def test_the_distance_to_the_subdifferential_is_the_least_one():
    """Subgradients at equal weights are mixtures of their orders; look for the nearest one by quadratic programming."""
    w = torch.tensor([2.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    ranks = torch.tensor([-1.0, 1.0, 3.0]) / 3
    orders = torch.cartesian_prod(*[torch.arange(3)] * 3)
    orders = orders[[len(set(order.tolist())) == 3 for order in orders]]
    corners = torch.full((6, 4), -1.0, dtype=torch.float64)
    corners[:, [0, 2, 3]] = ranks[orders].double()
    for seed in range(5):
        g = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        distance = lambda mix: float((torch.from_numpy(mix) @ corners - g).square().sum())  # noqa: B023, E731
        inside = {"type": "eq", "fun": lambda mix: mix.sum() - 1}
        found = minimize(distance, [1 / 6] * 6, bounds=[(0, 1)] * 6, constraints=inside, tol=1e-14)
        assert subdifferential_distance(w, g) ** 2 == pytest.approx(found.fun, abs=1e-6)


def test_the_conjugate_knows_the_corners():
    corner = pairwise_subgradient(weights("normal", 11))
    assert pairwise_conjugate(corner) == 0
    assert pairwise_conjugate(0.7 * corner) == 0
    assert pairwise_conjugate(1.001 * corner) == math.inf
    assert pairwise_conjugate(corner + 0.01) == math.inf
    assert pairwise_conjugate(corner * math.nan) == math.inf


def test_the_conjugate_with_masses():
    mass = torch.tensor([1.0, 3.0, 2.5], dtype=torch.float64)
    corner = pairwise_subgradient(torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64), mass)
    assert pairwise_conjugate(corner, mass) == 0
    assert pairwise_conjugate(1.001 * corner, mass) == math.inf


def test_the_conjugate_at_its_edge():
    corner = torch.tensor([-1.0, 1.0, 0.0])
    assert pairwise_conjugate(corner, tolerance=0.0) == 0
    assert pairwise_conjugate(corner * (1 + 2**-20), tolerance=0.0) == math.inf
