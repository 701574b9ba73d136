"""The figures of the sleep in small: curves come to theory, and say what came out."""

from pathlib import Path

import pytest
import torch

from weightshare.experiments.jobs import Place
from weightshare.experiments.papers import table_named
from weightshare.experiments.studies.sleep_theory import (
    NEURONS,
    POINTS,
    circuit_rates,
    draw,
    hebbian_rates,
    sleeping,
    times,
)

CELLS = [(kernel, gamma) for kernel in (2, 3) for gamma in (0.1, 0.01)]
FEWER = {
    "4A": {"steps": 1000},
    "5A": {"steps": 2000, "alpha": 10.0},
    "4B": {"steps": 1500, "alpha": 10.0, "neural": True},
}


@pytest.fixture(scope="module")
def found():
    """Of each figure, for kernels and `γ`, the outcomes of two runs."""
    return {name: {cell: sleeping([0, 1], *cell, neurons=29, **of) for cell in CELLS} for name, of in FEWER.items()}


def runs(cells):
    return [one for outcomes in cells.values() for one in outcomes.values()]


def test_the_unbiased_update_comes_to_its_fixed_point(found):
    assert len(runs(found["4A"])) == 8
    assert all(abs(one.metrics["distance"]) < 0.35 for one in runs(found["4A"]))
    assert all(one.curves["minus_log_snr"][0] > -1 for one in runs(found["4A"]))


@pytest.mark.parametrize("name", ["5A", "4B"])
def test_finite_inhibition_shares_first_and_takes_the_weights_away_then(found, name):
    for one in runs(found[name]):
        assert one.metrics["minimum-at"] > 0
        assert one.numbers["limit"] < one.metrics["minimum"] < one.metrics["theory"] + 0.5
    for strong in found[name][2, 0.1].values():
        assert strong.metrics["minimum-at"] < FEWER[name]["steps"] * 0.9
        assert strong.metrics["end"] > strong.metrics["minimum"] + 0.02


def test_inhibition_lags_in_the_circuit_only(found):
    assert all(one.numbers["presented"] == one.metrics["theory"] for one in runs(found["5A"]))
    assert all(one.numbers["presented"] > one.metrics["theory"] + 0.3 for one in runs(found["4B"]))


def test_an_outcome_holds_its_curve(found):
    for name, cells in found.items():
        for one in runs(cells):
            inputs, curve = one.curves["inputs"], one.curves["minus_log_snr"]
            assert len(curve) == len(inputs) == POINTS + 1
            assert inputs[-1] == FEWER[name]["steps"]
            assert curve[-1] == pytest.approx(one.metrics["end"], abs=1e-4)
            assert min(curve) == curve[inputs.index(one.metrics["minimum-at"])]
            assert one.metrics["distance"] == one.metrics["end"] - one.metrics["theory"]


def test_a_run_is_the_same_whatever_runs_beside_it(found):
    alone = sleeping([1], 3, 0.01, neurons=29, **FEWER["4A"])
    assert alone[1].metrics == pytest.approx(found["4A"][3, 0.01][1].metrics, abs=2e-4)


def test_a_shorter_figure_is_the_beginning_of_a_longer_one():
    (short, x), (long, y) = (draw(3, [5], steps) for steps in (4000, 10_000))
    assert torch.equal(short, long)
    assert torch.equal(x, y[:, :4000])
    assert torch.equal(circuit_rates(7), circuit_rates(11)[:7])


def test_weights_and_inputs_are_drawn_as_the_text_says():
    start, x = draw(3, [0, 1], 2003, input_mean=1.0)
    assert start.shape == (2, NEURONS, 9)
    assert x.shape == (2, 2003, 9)
    for drawn in (start, x):
        assert float(drawn.mean()) == pytest.approx(1, abs=0.1)
        assert float(drawn.std()) == pytest.approx(1, abs=0.1)
    assert abs(float(draw(3, [0], 2003)[1].mean())) < 0.05


def test_learning_rates_are_the_papers():
    assert hebbian_rates(3).tolist() == pytest.approx([0.5 / 1000, 0.5 / 1001, 0.5 / 1002])
    rates = circuit_rates(3)
    assert rates.shape == (3, 150)
    assert rates[0, 49] == 0
    assert float(rates[0, 50]) == pytest.approx(0.0003 / 26**0.5)
    assert float(rates[2, 10]) == pytest.approx(0.0003 / (1 + 310 / 2) ** 0.5)


def test_points_are_spread_and_not_repeated():
    assert times(5) == [0, 1, 2, 3, 4, 5]
    assert times(2000)[0] == 0
    assert times(2000)[-1] == 2000
    assert len(times(2000)) == POINTS + 1


def whole(key):
    """The means over the runs of all rows of a figure, as the paper has it."""
    table, means = table_named(f"pogodin2021/{key}"), {}
    for row, column in table.cells:
        outcomes = table.job(row, column, "paper").work(range(10), Place(Path("runs")))
        names = next(iter(outcomes.values())).metrics
        means[row] = {name: sum(one.metrics[name] for one in outcomes.values()) / 10 for name in names}
        means[row]["presented"] = sum(one.numbers["presented"] for one in outcomes.values()) / 10
    return means


@pytest.mark.slow
def test_all_of_figure_4a_comes_within_a_quarter_of_theory():
    means = whole("figure4a")
    assert len(means) == 9
    assert all(abs(one["distance"]) < 0.25 for one in means.values())


@pytest.mark.slow
def test_figure_5b_has_its_minima_near_two_thousand_inputs_and_settles_later():
    means = whole("figure5b")
    middle = sorted(one["minimum-at"] for one in means.values())
    assert middle[0] > 500
    assert 1500 < middle[4] < 2500
    assert middle[-1] < 5000
    assert all(one["end"] > one["minimum"] + 0.2 for one in means.values())
    assert all(abs(means[f"k{k}-gamma0.1"]["end"] - means[f"k{k}-gamma0.1"]["presented"]) < 0.1 for k in (3, 6, 9))
