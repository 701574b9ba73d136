"""The figures of the sleep in small: curves come to theory, and the files say what came out."""

import json

import pytest
import torch

from weightshare.cli import main
from weightshare.errors import ConfigError
from weightshare.experiments.studies.figures import FIGURES, figure
from weightshare.experiments.studies.sleep_theory import (
    Figure,
    Layer,
    circuit_rates,
    draw,
    hebbian_rates,
    sleep_figure,
    times,
)

SMALL = Layer(kernels=(2, 3), gammas=(0.1, 0.01), neurons=29)
FEWER = {
    "4A": Figure("4A", 1000),
    "5A": Figure("5A", 2000, 10.0),
    "4B": Figure("4B", 1500, 10.0, neural=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sleep")


@pytest.fixture(scope="module")
def found(folder):
    return {name: sleep_figure(name, folder, [0, 1], SMALL, FEWER) for name in FEWER}


def cells(data):
    return {(cell["kernel"], cell["gamma"]): cell for cell in data["cells"]}


def test_the_unbiased_update_comes_to_its_fixed_point(found):
    assert len(cells(found["4A"])) == 4
    assert all(abs(cell["distance"]) < 0.25 for cell in found["4A"]["cells"])
    assert all(cell["curve"][0] > -1 for cell in found["4A"]["cells"])


@pytest.mark.parametrize("name", ["5A", "4B"])
def test_finite_inhibition_shares_first_and_takes_the_weights_away_then(found, name):
    for cell in found[name]["cells"]:
        assert cell["minimum_at"] > 0
        assert cell["limit"] < cell["minimum"] < cell["theory"] + 0.5
    strong = cells(found[name])[2, 0.1]
    assert strong["minimum_at"] < found[name]["times"][-1] * 0.9
    assert strong["end"] > strong["minimum"] + 0.02


def test_inhibition_lags_in_the_circuit_only(found):
    assert all(cell["presented"] == cell["theory"] for cell in found["5A"]["cells"])
    assert all(cell["presented"] > cell["theory"] + 0.3 for cell in found["4B"]["cells"])


def test_the_files_hold_what_was_found(found, folder):
    for name, data in found.items():
        path = folder / "pogodin2021" / f"fig{name.lower()}" / "mean-0.json"
        assert json.loads(path.read_text()) == json.loads(json.dumps(data))
        assert path.stat().st_size < 200_000
        picture = path.with_suffix(".png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000
        assert data["seeds"] == [0, 1]
        assert data["config"]["momentum"] == 0.95
        assert data["config"]["alpha"] == FEWER[name].alpha
        assert data["seconds"] > 0
        for cell in data["cells"]:
            assert len(cell["curve"]) == len(data["times"]) == 121
            assert sum(cell["ends"]) / 2 == pytest.approx(cell["end"], abs=1e-4)
            assert cell["distance"] == pytest.approx(cell["end"] - cell["theory"], abs=1e-12)


def test_a_run_is_the_same_whatever_runs_beside_it(found, folder):
    alone = sleep_figure("4A", folder / "alone", [1], Layer(kernels=(3,), gammas=(0.01,), neurons=29), FEWER)
    assert alone["cells"][0]["ends"][0] == pytest.approx(cells(found["4A"])[3, 0.01]["ends"][1], abs=2e-4)


def test_a_shorter_figure_is_the_beginning_of_a_longer_one():
    (short, x), (long, y) = (draw(3, [5], steps, Layer()) for steps in (4000, 10_000))
    assert torch.equal(short, long)
    assert torch.equal(x, y[:, :4000])
    assert torch.equal(circuit_rates(7), circuit_rates(11)[:7])


def test_weights_and_inputs_are_drawn_as_the_text_says():
    start, x = draw(3, [0, 1], 2003, Layer(input_mean=1.0))
    assert start.shape == (2, 100, 9)
    assert x.shape == (2, 2003, 9)
    for drawn in (start, x):
        assert float(drawn.mean()) == pytest.approx(1, abs=0.1)
        assert float(drawn.std()) == pytest.approx(1, abs=0.1)
    assert abs(float(draw(3, [0], 2003, Layer())[1].mean())) < 0.05


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
    assert len(times(2000)) == 121


def test_the_command_writes_a_figure(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["figure", "4A", "--out", str(tmp_path), "--seeds", "1", "--input-mean", "1"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "distance" in text
    assert (tmp_path / "pogodin2021" / "fig4a" / "mean-1.png").exists()


def test_figures_that_are_none(capsys, tmp_path):
    assert {"4A", "4B", "5A", "5B"} <= set(FIGURES)
    with pytest.raises(SystemExit) as stopped:
        main(["figure", "7C", "--out", str(tmp_path)])
    assert stopped.value.code == 1
    assert "need one of 4A, 4B, 5A, 5B" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="need one of 4A"):
        figure("4a", tmp_path)
    with pytest.raises(ConfigError, match="need one of"):
        sleep_figure("6", tmp_path)
    with pytest.raises(ConfigError, match="need at least one"):
        sleep_figure("4A", tmp_path, seeds=())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changed", [{"kernels": ()}, {"kernels": (0,)}, {"gammas": ()}, {"gammas": (0.0,)}, {"neurons": 0}]
)
def test_layers_that_are_none(changed):
    with pytest.raises(ConfigError, match="kernel sizes and neurons of at least 1"):
        Layer(**changed)


def test_inputs_need_a_finite_mean():
    with pytest.raises(ConfigError, match="finite input_mean"):
        Layer(input_mean=float("nan"))


@pytest.mark.slow
def test_all_of_figure_4a_comes_within_a_quarter_of_theory(tmp_path):
    data = sleep_figure("4A", tmp_path)
    assert len(data["cells"]) == 9
    assert all(abs(cell["distance"]) < 0.25 for cell in data["cells"])


@pytest.mark.slow
def test_figure_5b_has_its_minima_near_two_thousand_inputs_and_settles_later(tmp_path):
    data = cells(sleep_figure("5B", tmp_path))
    middle = sorted(cell["minimum_at"] for cell in data.values())
    assert middle[0] > 500
    assert 1500 < middle[4] < 2500
    assert middle[-1] < 5000
    assert all(cell["end"] > cell["minimum"] + 0.2 for cell in data.values())
    assert all(abs(data[k, 0.1]["end"] - data[k, 0.1]["presented"]) < 0.1 for k in (3, 6, 9))
