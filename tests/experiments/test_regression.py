"""The regression in small: the sharing is found, and the result files say what came out."""

import math

import pytest

from weightshare.errors import ConfigError
from weightshare.experiments.studies.regression import PROBLEMS, Problem, draw, regression, shared_regression
from weightshare.experiments.studies.results import Result

SMALL = {"small": Problem(rows=70, values=(-1.0, 0.0, 0.0, 1.0, 2.0), coefficients=60, validation=40)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("regression")
    regression(out, seeds=[0, 1], problems=SMALL)
    return out / "shakerinava2023" / "regression"


@pytest.fixture(scope="module")
def rows(folder):
    return {path.stem.removeprefix("small-"): Result.read(path) for path in folder.glob("*.json")}


def test_the_sharing_is_found(rows):
    found, oracle = rows["rewound-refit"], rows["oracle"]
    assert found.numbers["distinct_values"] == oracle.numbers["distinct_values"] == 4
    assert found.numbers["adjusted_rand_index"] == found.numbers["rand_index"] == 1
    assert found.mean == pytest.approx(oracle.mean, rel=1e-6)
    assert found.mean < rows["lasso"].mean / 4
    assert found.mean < rows["least-squares"].mean / 8
    assert found.numbers["test_r2"] > rows["lasso"].numbers["test_r2"]


def test_the_convex_answer_shares_less_but_is_better_than_no_penalty(rows):
    convex, refit = rows["shared"], rows["shared-refit"]
    assert max(convex.mean, refit.mean) < rows["least-squares"].mean
    assert refit.mean < rows["lasso"].mean
    assert 10 < refit.numbers["distinct_values"] < rows["least-squares"].numbers["distinct_values"] == 60


def test_acceleration_saves_steps(rows):
    plain, momentum, fista = (rows[f"steps-{method}"] for method in ("plain", "momentum", "fista"))
    assert plain.metric == "iterations"
    assert all(fast < slow / 3 for fast, slow in zip(fista.values, plain.values, strict=True))
    assert all(fast < slow / 2 for fast, slow in zip(momentum.values, plain.values, strict=True))


def test_every_row_is_written_with_what_it_depends_on(rows, folder):
    assert len(rows) == 11
    assert all(row.seeds == [0, 1] and len(row.seconds) == 2 for row in rows.values())
    assert all(row.config["rows"] == 70 and row.environment["packages"]["scikit-learn"] for row in rows.values())
    picture = (folder / "recovered.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


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
    with pytest.raises(ConfigError, match="name='most': need one of more, fewer"):
        shared_regression(name="most")
    with pytest.raises(ConfigError, match="need at least one"):
        shared_regression(seeds=())
