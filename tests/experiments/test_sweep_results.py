"""Results of a sweep: one for each configuration, and none of a sweep that is not done."""

import pytest

from weightshare.errors import TrainingError
from weightshare.experiments.studies.results import Result
from weightshare.experiments.studies.sweep_results import collect
from weightshare.training import sweep as module
from weightshare.training.sweep import SweepConfig, sweep
from weightshare.training.sweep_runs import carry_out

REGULARISED = [{"strength": 0.1, "where": "head"}]
TINY = {"model": "convmixer:4/2/2/3", "device": "cpu", "prepare": {"fraction": 0.1}}
TINY |= {"train": {"epochs": 1, "optimizer": "sgd", "regularise": REGULARISED}}


def test_each_configuration_is_a_result_over_its_seeds(tmp_path, monkeypatch):
    settings = SweepConfig(TINY, {"train.lr": [0.01, 0.1], "seed": [0, 3]}, out=str(tmp_path / "sweep"))
    monkeypatch.setattr(module, "on_ray", lambda config, found, ended: None)
    sweep(settings)
    with pytest.raises(TrainingError, match=r"is not done: lr=0\.01_seed=0, lr=0\.01_seed=3"):
        collect(tmp_path / "sweep", "tiny", tmp_path)
    monkeypatch.setattr(module, "on_ray", lambda config, found, ended: [carry_out(one.planned) for one in found])
    found = sweep(settings)
    written = collect(tmp_path / "sweep", "tiny", tmp_path)
    assert [result.run for result in written] == ["lr-0.01", "lr-0.1"]
    assert written[0] == Result.read(tmp_path / "sweep" / "tiny" / "lr-0.01.json")
    assert written[0].seeds == [0, 3]
    assert written[0].values == [one.summary["accuracy"] for one in found[:2]]
    assert written[0].numbers["starts"] == 2
    assert 0 < written[0].numbers["distinct_share"] <= 1
    folder = tmp_path / "sweep" / "tiny"
    assert (folder / "picture.png").stat().st_size > 1000
    assert "Best test accuracy: lr=" in (folder / "table.txt").read_text()
