"""The torus experiment on digits: every row trains, the results say what they should, nothing is repeated."""

from dataclasses import replace
import json

import pytest
import torch

from weightshare.errors import ConfigError
from weightshare.experiments.studies import torus as settings
from weightshare.experiments.studies.results import Result
from weightshare.experiments.studies.torus_results import first_layer, sweep, torus
from weightshare.training.data import Prepare, load_data


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(settings, "RECIPE", replace(settings.RECIPE, epochs=2, batch_size=128))
    monkeypatch.setattr(settings, "WIDTHS", "2/3")


@pytest.mark.usefixtures("_small")
def test_every_row_of_the_table(tmp_path):
    said = []
    rows = {row: [0] for row in settings.ROWS} | {"plain": [0, 1], "regularised-256": [0]}
    results = torus(tmp_path / "runs", rows, tmp_path / "results", data="digits", echo=said.append)
    folder = tmp_path / "results" / "shakerinava2023" / "torus"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{row}.json" for row in rows), "accuracy.png", "curves.json", "distinct.png", "filters.png", "zero.png"]
    )
    assert [result.run for result in results] == list(rows)
    plain = Result.read(folder / "plain.json")
    assert (len(plain.values), plain.paper_value) == (2, 0.924)
    assert plain.config["prepare"]["shift"]
    by_row = {result.run: result for result in results}
    assert by_row["cnn"].numbers.keys() == {"stored", "folded_file_bytes"}
    assert by_row["regularised"].numbers["distinct_share"] <= 1
    assert by_row["l1"].numbers.keys() >= {"distinct_share", "zero_share", "penalty"}
    assert 9 / 16 < by_row["plain"].numbers["window_energy"] <= 1
    retrained = by_row["regularised-256"]
    assert retrained.numbers["distinct_share"] < 1 == round(plain.numbers["distinct_share"], 2)
    assert retrained.numbers["stored"] < by_row["regularised"].numbers["stored"]
    assert retrained.numbers["folded_file_bytes"] < by_row["regularised"].numbers["folded_file_bytes"]
    curves = json.loads((folder / "curves.json").read_text())
    assert len(curves["plain"]) == 2
    assert len(curves["subgradient"][0]["distinct_share"]) == 2
    assert all(row in said[0] for row in rows)
    again = torus(tmp_path / "runs", rows, tmp_path / "results", data="digits", echo=said.append)
    assert [result.seconds for result in again] == [result.seconds for result in results]


@pytest.mark.usefixtures("_small")
def test_the_sweep_measures_on_held_out_training_images(tmp_path):
    rows = ["plain", "rewind-0.98-to-0.9"]
    results = sweep(tmp_path / "runs", tmp_path / "results", rows, data="digits", echo=lambda _: None)
    assert [result.metric for result in results] == ["validation_accuracy"] * 2
    assert results[1].config["prepare"]["validation"] == 0.1
    assert results[1].config["train"]["regularise"][0]["rewind_to"] == 0.9
    assert results[1].paper_value is None


def test_filters_of_shuffled_pixels_are_put_back(tmp_path, monkeypatch):
    prepare = Prepare(shuffle=True)
    run = replace(settings.config("regularised-shuffled", 0, tmp_path), prepare=prepare)
    data = load_data("digits")
    seen = prepare(data).train.images[:5].flatten(1).float()  # as the first layer sees them
    monkeypatch.setattr("weightshare.experiments.studies.torus_results.tensors", lambda _: {"fc1.weight": seen})
    assert torch.equal(first_layer(run), data.train.images[:5, 0].float())


def test_rows_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="There is no row 'l2': need one of plain"):
        settings.config("l2", 0, tmp_path)
    with pytest.raises(ConfigError, match="There is no row"):
        settings.sweep_config("l2", tmp_path)
