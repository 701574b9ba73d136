"""Regression with the penalty: three methods, an independent solver, the certificate, the ends of the path."""

from itertools import combinations
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Lasso
import torch
from torch import Tensor

from tests.support import bits
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values.pairwise import subdifferential_distance
from weightshare.values.solve import greatest_eigenvalue, one_value_strength, regress_shared

METHODS = ("plain", "momentum", "fista")


def data(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    w = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)[torch.arange(d) % 3]
    return x, x @ w + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)


def objective(x: Tensor, y: Tensor, w: Tensor, strength: float, l1: float) -> float:
    """Pair by pair, from the definition."""
    d = len(w)
    pairs = sum(abs(float(w[i] - w[j])) for i, j in combinations(range(d), 2)) / max(d - 1, 1)
    return float((x @ w - y).square().sum()) / (2 * len(x)) + strength * pairs + l1 * float(w.abs().sum())


def by_slacks(x: Tensor, y: Tensor, strength: float, l1: float) -> np.ndarray:
    """The same problem as a smooth one with a bound above each absolute value, for scipy."""
    a, b, d = x.numpy(), y.numpy(), x.shape[1]
    rows = [np.eye(d)[i] - np.eye(d)[j] for i, j in combinations(range(d), 2)] + list(np.eye(d))
    differences = np.array(rows)
    pairs = len(rows) - d
    prices = np.r_[np.full(pairs, strength / (d - 1)), np.full(d, l1)]
    both = np.block([[-differences, np.eye(len(rows))], [differences, np.eye(len(rows))]])
    found = minimize(
        lambda v: np.square(a @ v[:d] - b).sum() / (2 * len(a)) + prices @ v[d:],
        np.r_[np.zeros(d), np.ones(len(rows))],
        jac=lambda v: np.r_[a.T @ (a @ v[:d] - b) / len(a), prices],
        constraints={"type": "ineq", "fun": lambda v: both @ v, "jac": lambda v: both},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x[:d]


@pytest.mark.parametrize("n", [5, 13])
@pytest.mark.parametrize(("strength", "l1"), [(0.1, 0.0), (0.4, 0.0), (0.2, 0.3), (0.0, 0.3)])
def test_it_is_what_a_quadratic_program_gives(n, strength, l1):
    x, y = data(n, 7)
    w = regress_shared(x, y, strength, l1, tolerance=1e-12, max_iterations=50_000).coefficients
    other = torch.from_numpy(by_slacks(x, y, strength, l1))
    assert torch.allclose(w, other, rtol=0, atol=2e-4)
    assert objective(x, y, w, strength, l1) <= objective(x, y, other, strength, l1) + 1e-10


@pytest.mark.parametrize(("n", "strength", "l1"), [(23, 1.0, 0.1), (41, 0.1, 0.0), (41, 0.3, 0.1)])
def test_three_methods_find_one_answer(n, strength, l1):
    x, y = data(n, 31)
    found = [regress_shared(x, y, strength, l1, method, 1e-7, 50_000) for method in METHODS]
    assert all(each.converged for each in found)
    assert all(torch.allclose(each.coefficients, found[0].coefficients, rtol=0, atol=1e-3) for each in found)
    assert all(torch.equal(each.labels, found[0].labels) for each in found)
    assert 2 < int(found[0].labels.max()) + 1 < 31
    plain, momentum, fista = (each.iterations for each in found)
    assert max(momentum, fista) < plain / 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("strength", "l1"), [(1.0, 0.0), (0.5, 0.2), (0.0, 0.5), (0.0, 0.0)])
def test_no_objective_is_lower_by_more_than_the_gap(method, strength, l1):
    x, y = data(13, 17)
    found = regress_shared(x, y, strength, l1, method, 1e-6, 50_000)
    least = regress_shared(x, y, strength, l1, tolerance=1e-10, max_iterations=50_000).objectives.min()
    assert bool((found.objectives - least <= found.gaps + 1e-12).all())
    assert float(found.gaps[-1]) <= 1e-6 * float(y.square().sum()) / (2 * len(y))
    assert len(found.objectives) == len(found.gaps) == found.iterations + 1
    assert float(found.objectives[-1]) == pytest.approx(objective(x, y, found.coefficients, strength, l1), rel=1e-12)


@pytest.mark.parametrize("n", [23, 41])
def test_the_gradient_is_one_of_the_penalty(n):
    x, y = data(n, 31)
    w = regress_shared(x, y, 0.2, tolerance=1e-12, max_iterations=50_000).coefficients
    assert subdifferential_distance(w, (y - x @ w) @ x / n / 0.2) < 1e-5
    assert subdifferential_distance(w, (y - x @ w) @ x / n / 0.19) > 1e-2


def test_plain_steps_never_rise():
    x, y = data(41, 31)
    assert bool((regress_shared(x, y, 0.1, 0.05, "plain").objectives.diff() < 1e-14).all())


@pytest.mark.parametrize("n", [23, 41])
@pytest.mark.parametrize("method", METHODS)
def test_without_a_penalty_it_is_least_squares(n, method):
    x, y = data(n, 31)
    found = regress_shared(x, y, 0.0, method=method, tolerance=1e-9, max_iterations=50_000)
    assert found.converged
    assert torch.allclose(found.coefficients, torch.linalg.pinv(x) @ y, rtol=0, atol=1e-2)
    assert len(found.labels.unique()) == 31


@pytest.mark.parametrize("n", [23, 41])
def test_from_a_known_strength_on_there_is_one_value(n):
    x, y = data(n, 31)
    most = one_value_strength(x, y)
    above, below, far = (regress_shared(x, y, most * by, tolerance=1e-10) for by in (1.001, 0.99, 1e3))
    sums = x.sum(1)
    for found in (above, far):
        assert not found.labels.any()
        assert torch.allclose(found.coefficients, (sums @ y / (sums @ sums)).expand(31), rtol=0, atol=1e-3)
    assert len(below.labels.unique()) > 1


@pytest.mark.parametrize("l1", [0.03, 0.3])
def test_with_l1_alone_it_is_the_lasso(l1):
    x, y = data(41, 31)
    other = Lasso(alpha=l1, fit_intercept=False, tol=1e-10).fit(x.numpy(), y.numpy()).coef_
    w = regress_shared(x, y, 0.0, l1, tolerance=1e-12).coefficients
    assert torch.allclose(w, torch.from_numpy(other), rtol=0, atol=1e-5)
    assert torch.equal(w == 0, torch.from_numpy(other == 0))


def test_zeros_are_one_cluster():
    x, y = data(41, 31)
    found = regress_shared(x, y, 0.05, 0.3)
    w, zero = found.coefficients, found.coefficients == 0
    assert 3 < int(zero.sum()) < 31
    assert len(found.labels[zero].unique()) == 1
    assert len(found.labels.unique()) == int(found.labels.max()) + 1 == len(w.unique()) < 31
    assert bool((found.labels[w.argsort()].diff() >= 0).all())
    assert not torch.signbit(w[zero]).any()


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_do_not_meet(method):
    x, y = data(41, 31)
    several = torch.stack([y, -3 * y.flip(0), x[:, 0]], dim=1)
    found = regress_shared(x, several, 0.3, 0.1, method, 1e-7, 50_000)
    assert found.coefficients.shape == found.labels.shape == (3, 31)
    assert found.objectives.shape == found.gaps.shape == (found.iterations + 1, 3)
    for k in range(3):
        alone = regress_shared(x, several[:, k], 0.3, 0.1, method, 1e-7, 50_000)
        assert torch.allclose(alone.coefficients, found.coefficients[k], rtol=0, atol=1e-3)
        assert torch.equal(alone.labels, found.labels[k])
        assert torch.allclose(alone.objectives[:10], found.objectives[:10, k], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_computed_wide(dtype):
    x, y = (tensor.to(dtype) for tensor in data(23, 31))
    found, wide = regress_shared(x, y, 0.2), regress_shared(x.double(), y.double(), 0.2)
    assert found.coefficients.dtype == dtype
    assert torch.equal(found.coefficients, wide.coefficients.to(dtype))
    assert torch.equal(found.labels, wide.labels)
    clusters = [found.coefficients[found.labels == k] for k in found.labels.unique()]
    assert all(bits(cluster) == bits(cluster[:1]) * len(cluster) for cluster in clusters)


def test_a_start_at_the_answer_stays_there():
    x, y = data(23, 31)
    found = regress_shared(x, y, 0.2, tolerance=1e-10)
    again = regress_shared(x, y, 0.2, tolerance=1e-9, start=found.coefficients)
    assert again.iterations == 1
    assert torch.equal(again.labels, found.labels)


def test_steps_that_run_out_are_said():
    x, y = data(23, 31)
    found = regress_shared(x, y, 0.01, max_iterations=3)
    assert not found.converged
    assert found.iterations == 3
    assert float(found.gaps[-1]) > 0


def test_data_are_left_alone_and_nothing_is_recorded():
    x, y = (tensor.requires_grad_() for tensor in data(7, 5))
    before = bits(x), bits(y)
    found = regress_shared(x, y, 0.1)
    assert not found.coefficients.requires_grad
    assert (bits(x), bits(y)) == before


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 5), (5, 1), (3, 2)])
@pytest.mark.parametrize("l1", [0.0, 0.1])
def test_few_of_either(n, d, l1):
    x, y = data(n, d)
    found = regress_shared(x, y, 0.1, l1, tolerance=1e-9)
    assert found.converged
    assert found.coefficients.shape == (d,)


def test_nothing_to_learn_from():
    x, y = data(7, 5)
    for found in (regress_shared(torch.zeros_like(x), y, 0.1), regress_shared(x, torch.zeros_like(y), 0.1)):
        assert found.converged
        assert not found.coefficients.any()
    assert one_value_strength(torch.zeros_like(x), y) == one_value_strength(x, x.sum(1)) == 0


@pytest.mark.parametrize(("n", "d"), [(1, 7), (7, 1), (23, 31), (101, 31)])
def test_the_eigenvalue_is_bounded_from_above(n, d):
    x, _ = data(n, d)
    true = float(torch.linalg.matrix_norm(x, 2)) ** 2 / n
    assert true * (1 - 1e-12) <= greatest_eigenvalue(x) <= 1.01 * true


def test_almost_equal_eigenvalues_are_bounded_too():
    x = torch.diag(torch.linspace(1, 1.001, 31, dtype=torch.float64))
    assert 1.001**2 / 31 <= greatest_eigenvalue(x) <= 1.01 / 31


X, Y = torch.ones(3, 2), torch.ones(3)
WRONG = {
    "rows": ({"y": torch.ones(2)}, r"\(3, 2\) and \(2,\)"),
    "flat": ({"x": Y}, r"shape \(n, d\)"),
    "deep": ({"y": torch.ones(3, 1, 1)}, r"\(n, targets\)"),
    "empty": ({"x": torch.ones(3, 0)}, "at least 1"),
    "none": ({"x": torch.ones(0, 2), "y": torch.ones(0)}, "at least 1"),
    "dtype": ({"y": Y.double()}, "one dtype.*float64"),
    "integers": ({"x": X.long()}, "int64"),
    "list": ({"y": [1.0, 2.0, 3.0]}, "regress_shared's y needs a tensor, got list"),
    "nan": ({"x": X * math.nan}, "x holds NaN"),
    "infinite": ({"y": Y * math.inf}, "y holds NaN or infinity"),
    "strength": ({"strength": -1.0}, "strength needs a finite number of at least 0"),
    "l1": ({"l1": math.inf}, "l1 needs"),
    "tolerance": ({"tolerance": math.nan}, "tolerance needs"),
    "method": ({"method": "newton"}, "method is one of .*'fista'.*got 'newton'"),
    "steps": ({"max_iterations": 0}, "whole number of at least 1, got 0"),
    "part of a step": ({"max_iterations": 1.5}, "got 1.5"),
    "start": ({"start": torch.ones(3)}, r"start holds finite coefficients of shape \(2,\).*got \(3,\)"),
    "start nan": ({"start": torch.tensor([0.0, math.nan])}, "start holds finite"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_refused(what):
    changed, message = WRONG[what]
    with pytest.raises(SpecError, match=message):
        regress_shared(**{"x": X, "y": Y, "strength": 0.1, **changed})


def test_one_value_strength_takes_one_y():
    with pytest.raises(SpecError, match=r"y of shape \(n\), all at least 1, got \(3, 2\) and \(3, 2\)"):
        one_value_strength(X, X)


def test_the_map_of_both_penalties_is_one_after_the_other():
    """On orthogonal columns the answer is one proximal step from the data."""
    y = 5 * torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = regress_shared(torch.eye(7, dtype=torch.float64), y, 1 / 7, 0.5 / 7, tolerance=1e-13)
    z = ws.prox_pairwise(y, 1.0)
    assert torch.allclose(found.coefficients, z.sign() * (z.abs() - 0.5).clamp(min=0), rtol=0, atol=1e-5)
