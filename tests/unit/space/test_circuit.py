"""The circuit and its theory: batches, types, limits, and what they refuse."""

import math

import pytest
import torch

from weightshare.errors import SpecError
from weightshare.space import circuit, noisy, theory
from weightshare.space.circuit import Circuit
from weightshare.space.measure import snr

W, X = torch.ones(5, 3), torch.ones(7, 3)
RATES = {theory.simulate: torch.ones(7), circuit.simulate: torch.ones(7, 11)}
BOTH = pytest.mark.parametrize("simulate", list(RATES))


def normal(*shape, seed=0, mean=0.0):
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@BOTH
def test_a_problem_does_not_see_the_others(simulate):
    start, x = normal(3, 1, 5, 3, mean=1.0), normal(2, 7, 3, seed=1)
    found = simulate(start, x, 0.01 * RATES[simulate].double(), torch.tensor([0.1, 0.3]).double(), at=(0, 4, 7))
    assert found.weights.shape == (3, 2, 5, 3)
    assert found.curve.shape == (3, 2, 3)
    alone = simulate(start[2, 0], x[1], 0.01 * RATES[simulate].double(), float(torch.tensor(0.3)), at=(0, 4, 7))
    assert torch.allclose(found.weights[2, 1], alone.weights, rtol=0, atol=1e-14)
    assert torch.allclose(found.curve[2, 1], alone.curve, rtol=0, atol=1e-12)


@BOTH
def test_where_it_stops_does_not_matter_to_what_was_before(simulate):
    """Also across the inputs that are looked at together."""
    start, x, rates = normal(5, 3, mean=1.0), normal(307, 3, seed=1), 0.01 / (1 + torch.arange(307.0)).double()
    steps = {theory.simulate: rates, circuit.simulate: rates[:, None].expand(307, 7)}[simulate]
    whole = simulate(start, x, steps, 0.1, at=(199, 200, 201, 307))
    for index, end in enumerate((199, 200, 201)):
        part = simulate(start, x[:end], steps[:end], 0.1)
        assert float(whole.curve[index]) == pytest.approx(-math.log(float(snr(part.weights))), rel=1e-9)


@BOTH
def test_float32_is_float64_to_rounding(simulate):
    start, x = normal(5, 3, mean=1.0), normal(7, 3, seed=1)
    fine = simulate(start, x, 0.01 * RATES[simulate].double(), 0.1)
    coarse = simulate(start.float(), x.float(), 0.01 * RATES[simulate], 0.1)
    assert coarse.weights.dtype == torch.float32
    assert torch.allclose(coarse.weights.double(), fine.weights, rtol=0, atol=1e-4)
    assert fine.curve.shape == (0,)


@BOTH
def test_without_learning_nothing_moves(simulate):
    start = normal(5, 3)
    assert torch.equal(simulate(start, normal(7, 3), 0 * RATES[simulate], 0.1).weights, start)


@BOTH
def test_nothing_that_comes_in_is_changed(simulate):
    start, x, rates = normal(5, 3), normal(7, 3, seed=1), 0.1 * RATES[simulate]
    before = [t.clone() for t in (start, x, rates)]
    simulate(start, x, rates, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, (start, x, rates), strict=True))


def test_what_neurons_answer_on_the_average_comes_to_what_they_settle_at():
    alphas = torch.tensor([1.0, 10.0], dtype=torch.float64)
    gain, alpha = Circuit(alphas).presented(10_007)
    assert gain.tolist() == pytest.approx([1, 1], abs=0.01)
    assert alpha.tolist() == pytest.approx(alphas.tolist(), rel=0.02)
    gain, alpha = Circuit(alphas).presented(150)
    assert bool((gain < 0.9).all())
    assert float(alpha[1]) < 7


def test_slow_learning_ends_at_the_fixed_point_of_its_presentations():
    """With much more time than rates need and with little: eq. 24 of what neurons answer on the average."""
    start, unit = normal(11, 3, mean=1.0), torch.eye(3, dtype=torch.float64)
    x = math.sqrt(3) * torch.cat((unit, -unit)).repeat(600, 1)  # inputs of mean 0 and covariance I
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))]
    found = circuit.simulate(start, x, torch.full((3600, 30), 1e-3), 0.2, Circuit(5.0), momentum=0.0)
    gain, alpha = Circuit(5.0).presented(30)
    near = theory.fixed_point(start, gain * unit, 0.2, alpha)
    far = theory.fixed_point(start, unit, 0.2, 5.0)
    assert float((found.weights - near).norm() / (far - near).norm()) < 0.25


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"alpha": math.inf}, "Euler's step|finite"),
        ({"alpha": "10"}, "alpha='10'"),
        ({"alpha": True}, "alpha=True"),
        ({"alpha": 60.0}, "Euler's step has to be above 0 and below 0.984"),
        ({"alpha": torch.tensor([1.0, 60.0])}, "alpha up to 60"),
        ({"bias": -0.1}, "bias=-0.1"),
        ({"tau": -30.0}, "tau=-30.0"),
        ({"tau": 0.0}, "Euler's step"),
        ({"step": 0.0}, "Euler's step"),
        ({"step": math.nan}, "step=nan"),
    ],
)
def test_circuits_that_are_none(changed, match):
    with pytest.raises(SpecError, match=match):
        Circuit(**changed)


@pytest.mark.parametrize("drive", [torch.ones(()), torch.ones(0), torch.ones(3).int(), [1.0]])
def test_drives_that_are_none(drive):
    with pytest.raises(SpecError, match="needs a drive"):
        Circuit().settled(drive)
    with pytest.raises(SpecError, match="needs a drive"):
        Circuit().euler(torch.ones(3), torch.ones(()), drive)


def test_a_presentation_has_steps():
    with pytest.raises(SpecError, match="steps=0"):
        Circuit().presented(0)


@BOTH
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"w_init": torch.ones(3)}, "weights"),
        ({"w_init": torch.ones(0, 3)}, "at least one of each"),
        ({"w_init": torch.ones(5, 3).half()}, "float32 or float64"),
        ({"w_init": torch.full((5, 3), math.nan)}, "NaN"),
        ({"inputs": torch.ones(7, 2)}, r"inputs \(7, 2\).*do not fit weights \(5, 3\)"),
        ({"inputs": X.double()}, "float64"),
        ({"inputs": torch.full((7, 3), math.inf)}, "infinite"),
        ({"inputs": torch.ones(3)}, "patterns"),
        ({"w_init": torch.ones(2, 5, 3), "inputs": torch.ones(4, 7, 3)}, "do not go together"),
        ({"gamma": -0.1}, "gamma=-0.1"),
        ({"gamma": math.nan}, "gamma=nan"),
        ({"gamma": None}, "gamma=None"),
        ({"gamma": torch.tensor([1, 2])}, "gamma=tensor"),
        ({"rates": torch.ones(6)}, "rates"),
        ({"rates": torch.ones(6, 11)}, "rates"),
        ({"rates": -torch.ones(7)}, "rates"),
        ({"rates": -torch.ones(7, 11)}, "rates"),
        ({"momentum": 1.0}, "momentum=1"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"at": (8,)}, "whole numbers from 0 to 7"),
        ({"at": (1.0,)}, "whole numbers"),
        ({"at": (3, 1)}, "ascend"),
        ({"at": (3, 3)}, "each iteration once"),
    ],
)
def test_simulations_that_are_none(simulate, changed, match):
    given = {"w_init": W, "inputs": X, "rates": RATES[simulate], "gamma": 0.1}
    with pytest.raises(SpecError, match=match):
        simulate(**{**given, **changed})


@pytest.mark.parametrize("call", [theory.loss, theory.gradient])
def test_losses_and_updates_that_are_none(call):
    with pytest.raises(SpecError, match="same neurons"):
        call(W, torch.ones(4, 3), X, 0.1)
    with pytest.raises(SpecError, match="gamma=-1"):
        call(W, W, X, -1)
    with pytest.raises(SpecError, match="do not go together"):
        call(W.expand(2, 5, 3), W.expand(3, 5, 3), X, 0.1)


def test_updates_with_levels_that_do_not_fit():
    with pytest.raises(SpecError, match="do not go together"):
        theory.gradient(W, W, X, torch.ones(2), torch.ones(3))
    with pytest.raises(SpecError, match="alpha=-1"):
        theory.gradient(W, W, X, 0.1, -1)


def test_fixed_points_that_are_none():
    with pytest.raises(SpecError, match=r"symmetric covariance \(..., 3, 3\), got one of shape \(2, 2\)"):
        theory.fixed_point(W, torch.eye(2), 0.1)
    with pytest.raises(SpecError, match="symmetric"):
        theory.fixed_point(W, torch.eye(3).cumsum(0), 0.1)
    with pytest.raises(SpecError, match="Use gamma > 0"):
        theory.fixed_point(W, torch.zeros(3, 3), 0.0)
    with pytest.raises(SpecError, match="alpha=-1"):
        theory.fixed_point(W, torch.eye(3), 0.1, -1)
    with pytest.raises(SpecError, match="do not go together"):
        theory.fixed_point(W, torch.eye(3), torch.ones(2), torch.ones(3))


def test_inputs_that_are_none():
    with pytest.raises(SpecError, match="inputs=0"):
        theory.normal_covariance(0)
    with pytest.raises(SpecError, match="mean=nan"):
        theory.normal_covariance(3, math.nan)
    with pytest.raises(SpecError, match="covariance needs"):
        theory.covariance(torch.ones(3))
    with pytest.raises(SpecError, match="gamma=-1"):
        theory.minus_log_snr_limit(-1)


def test_without_a_pull_the_weights_end_at_their_mean():
    w = normal(5, 3)
    assert torch.allclose(theory.fixed_point(w, torch.eye(3), 0.0), w.mean(0).expand(5, 3), rtol=0, atol=1e-14)


def test_bounds_that_are_none():
    with pytest.raises(SpecError, match="noise=-1"):
        noisy.noise_bound(W, X, torch.ones(2), 0.1, -1.0)
    with pytest.raises(SpecError, match="rates"):
        noisy.noise_bound(W, X, -torch.ones(2), 0.1, 1.0)
    with pytest.raises(SpecError, match="rates"):
        noisy.noise_bound(W, X, torch.ones(2, 2), 0.1, 1.0)
    with pytest.raises(SpecError, match="noise=-1"):
        noisy.noisy_moment(X, -1)
    with pytest.raises(SpecError, match="Use gamma > 0"):
        noisy.noise_floor(W, X, 0.0, 1.0)
