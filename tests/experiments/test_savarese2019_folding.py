"""Folding on digits in small: a network is trained, folded and trained on, and what came out is written."""

from dataclasses import asdict, replace

import pytest

from weightshare.experiments.studies import savarese2019_folding as folding
from weightshare.experiments.studies.results import Result
from weightshare.files.atomic import read_json
from weightshare.training.data import load_data
from weightshare.training.recipe import Recipe
from weightshare.training.run import trained
from weightshare.training.share import Share

RECIPE = Recipe(epochs=1, batch_size=32, lr=0.1, warmup=0.0, optimizer="sgd")
SMALL = ("convmixer:7/3/2/3", [Share(templates=3, where=["blocks.*.pointwise", "blocks.*.depthwise"])])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(folding.NETWORKS, "convmixer", SMALL)
    monkeypatch.setitem(folding.STRENGTHS, "convmixer", (0.0, 0.5, 5.0))


def test_one_training_is_folded_and_goes_on(small, tmp_path):
    fold = folding.fold_one(tmp_path, "convmixer", 2, 5, RECIPE, RECIPE, echo=[].append)
    assert (fold.arm, fold.strength, fold.threshold) == ("much", 5.0, 0.99)
    assert fold.similarity > 0.99
    assert (fold.layers, fold.left, fold.loops) == (6, 2, [["blocks", "3 × (0)"]])
    assert fold.stored_after < fold.stored_before
    assert folding.fold_one(tmp_path, "convmixer", 2, 5, RECIPE, RECIPE) == fold
    again, other = replace(fold, left=4), replace(fold, arm=folding.FORCED)
    text = folding.table([fold, again, other])
    assert "2–4" in text
    assert max(map(len, text.splitlines())) < 121


@pytest.mark.slow
def test_networks_are_folded_and_all_is_written(small, tmp_path):
    said = []
    after = replace(RECIPE, batch_size=128)
    folds = folding.folding(
        tmp_path / "runs", tmp_path / "results", [5], ["convmixer"], RECIPE, after, echo=said.append
    )
    assert [fold.arm for fold in folds] == [*folding.ARMS, folding.FORCED]
    without, _, much, forced = folds
    assert (without.layers, without.left, without.loops) == (6, 6, [])
    assert (without.accuracy, without.output_error) == (without.folded, pytest.approx(0, abs=1e-5))
    assert much.similarity > 0.99
    assert (much.left, much.loops) == (2, [["blocks", "3 × (0)"]])
    assert much.stored_after < much.stored_before
    assert (forced.left, forced.strength, forced.accuracy) == (2, 0.0, without.accuracy)
    assert forced.unfolded_after == without.unfolded_after
    folder = tmp_path / "results" / "savarese2019" / "folding"
    assert [asdict(fold) for fold in folds] == read_json(folder / "folds.json")
    result = Result.read(folder / "convmixer-much.json")
    assert (result.values, result.seeds) == ([much.folded_after], [5])
    assert "/" not in str({k: v for k, v in result.config.items() if k != "model"})
    assert (folder / "lsm-convmixer-without.png").is_file()
    assert (folder / "loops-convmixer-much.png").is_file()
    assert not (folder / "loops-convmixer-without.png").exists()
    assert (folder / "table.txt").read_text() == f"{folding.table(folds)}\n"
    count = len(said)
    assert (
        folding.folding(tmp_path / "runs", tmp_path / "again", [5], ["convmixer"], RECIPE, after, said.append) == folds
    )
    assert len(said) == count + 1


def test_the_threshold_that_takes_so_many_layers_is_the_highest_one(small, tmp_path):
    made = folding.config(tmp_path, "convmixer", 0, 0, RECIPE)
    folding.run(made)
    model, _ = trained(made.out)
    data = load_data("digits")
    plans = [folding.as_far(model, data, removed) for removed in range(5)]
    assert [plan.removed >= removed for removed, plan in enumerate(plans)] == [True] * 5
    thresholds = [plan.threshold for plan in plans]
    assert thresholds == sorted(thresholds, reverse=True)
    above = folding.plan(model, data, min(1.0, plans[2].threshold + 1e-6))
    assert above.removed < 2
