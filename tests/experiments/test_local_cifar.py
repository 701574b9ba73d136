"""The reduced table 1: configurations, and the first rows on small data."""

from dataclasses import replace
import json

import pytest

from weightshare.errors import ConfigError
from weightshare.experiments.studies import local_cifar, local_cifar_results
from weightshare.experiments.studies.local_cifar import ROWS, config
from weightshare.experiments.studies.results import Result


def test_rows_are_what_they_say():
    made = {row: config(row, 3, "runs") for row in ROWS}
    assert [row for row, one in made.items() if one.localise] == [row for row in ROWS if row.startswith("lc")]
    assert {row: [phase.every for phase in one.train.sleep] for row, one in made.items() if one.train.sleep} == {
        "lc-ws1": [1],
        "lc-ws10": [10],
        "lc-ws100": [100],
    }
    repeated = made["lc-4reps"].train
    assert (repeated.augment.repeats, repeated.epochs * 4) == (4, made["lc"].train.epochs)
    assert {one.train.augment.pad for one in made.values()} == {"mean"}
    assert config("lc", 0, "runs", whole=True).prepare != made["lc"].prepare
    with pytest.raises(ConfigError, match="no row 'lc-ws2'"):
        config("lc-ws2", 0, "runs")


@pytest.fixture
def on_digits(monkeypatch):
    """Tiny networks on images that a dependency carries."""
    monkeypatch.setattr(local_cifar, "MODEL", "resnet20:2/3/5")
    tiny = replace(local_cifar.RECIPE, epochs=4, augment=replace(local_cifar.CROP, crop=1))
    monkeypatch.setattr(local_cifar, "RECIPE", tiny)
    monkeypatch.setattr(local_cifar, "CROP", tiny.augment)
    monkeypatch.setattr(local_cifar, "FRACTION", 0.3)


def test_first_rows_on_digits(tmp_path, on_digits):
    shown = []
    rows = {"conv": [0], "lc-ws1": [0], "lc-4reps": [0]}
    made = local_cifar_results.table1(tmp_path / "runs", rows, tmp_path, data="digits", echo=shown.append)
    folder = tmp_path / "pogodin2021" / "table1-reduced"
    assert [one.run for one in made] == list(rows)
    assert Result.read(folder / "lc-ws1.json").numbers["noise_within_modules"] == 0
    assert made[2].numbers["noise_within_modules"] > 0
    assert made[1].numbers["stored"] > made[0].numbers["stored"]
    assert {"accuracy.png", "training.png", "snr.png"} <= {path.name for path in folder.iterdir()}
    assert len(json.loads((folder / "curves.json").read_text())["lc-4reps"][0]["test_accuracy"]) == 1
    assert shown == [local_cifar_results.table(made)]
