"""The regression in small: the sharing is found, and the result files say what came out."""

from dataclasses import asdict
import math

import pytest

from weightshare.errors import ConfigError
from weightshare.experiments.studies.regression import PROBLEMS, ROWS, Problem, draw, picture, regression

SMALL = asdict(Problem(rows=70, values=(-1.0, 0.0, 0.0, 1.0, 2.0), coefficients=60, validation=40))


@pytest.fixture(scope="module")
def rows():
    return {row: regression(row, "more", SMALL, seed=0) for row in ROWS}


def numbers(rows, row):
    return {key.removeprefix("more/"): value for key, value in rows[row].metrics.items()}


def test_the_sharing_is_found(rows):
    found, oracle, lasso = (numbers(rows, row) for row in ("rewound-refit", "oracle", "lasso"))
    assert found["distinct"] == oracle["distinct"] == 4
    assert found["rand"] == 1
    assert found["error"] == pytest.approx(oracle["error"], rel=1e-6)
    assert found["error"] < lasso["error"] / 4
    assert found["error"] < numbers(rows, "least-squares")["error"] / 8
    assert found["r2"] > lasso["r2"]


def test_the_convex_answer_shares_less_but_is_better_than_no_penalty(rows):
    convex, refit, plain = (numbers(rows, row) for row in ("shared", "shared-refit", "least-squares"))
    assert max(convex["error"], refit["error"]) < plain["error"]
    assert refit["error"] < numbers(rows, "lasso")["error"]
    assert 10 < refit["distinct"] < plain["distinct"] == 60


def test_acceleration_saves_steps(rows):
    plain, momentum, fista = (numbers(rows, f"steps-{method}")["steps"] for method in ("plain", "momentum", "fista"))
    assert fista < plain / 3
    assert momentum < plain / 2


def test_curves_say_what_was_found_and_how_fast(rows):
    assert len(rows["lasso"].curves["truth"]) == len(rows["lasso"].curves["found"]) == 60
    way = rows["steps-fista"].curves
    assert way["step"][0] == 0
    assert way["step"][-1] == numbers(rows, "steps-fista")["steps"]
    assert way["gap"][0] > 100 * way["gap"][-1] > 0
    axes = picture({(row, "more"): {0: outcome} for row, outcome in rows.items()}).axes
    assert "4 values" in axes[2].get_title()
    assert len(axes[3].lines) == 3


def test_the_data_of_a_seed_are_the_same_and_as_described():
    problem = PROBLEMS["more"]
    data, again, other = draw(problem, 3), draw(problem, 3), draw(problem, 4)
    assert data.x.equal(again.x)
    assert data.y.equal(again.y)
    assert not data.y.equal(other.y)
    assert data.x.shape == (140, 120)
    assert [len(x) for x, _ in (data.validation, data.test)] == [60, 1000]
    assert data.truth.unique(return_counts=True)[1].tolist() == [24, 48, 24, 24]
    x, y = data.test
    noise = float((y - x @ data.truth).std() / data.truth.norm())
    assert noise == pytest.approx(0.05, abs=4 * 0.05 / math.sqrt(2000))


@pytest.mark.parametrize(
    "changed", [{"rows": 0}, {"validation": 0}, {"values": (0.0, 0.0)}, {"values": ()}, {"coefficients": 3}]
)
def test_problems_that_are_none(changed):
    with pytest.raises(ConfigError, match="needs observations to learn from"):
        Problem(**{"rows": 10, "values": (0.0, 1.0, 2.0, 3.0), **changed})


def test_what_cannot_be_run():
    with pytest.raises(ConfigError, match="row='most': need one of least-squares"):
        regression("most", "more", SMALL, 0)
