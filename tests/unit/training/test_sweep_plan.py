"""What a sweep is: its runs, their names, and what is refused before anything starts."""

from itertools import pairwise

import pytest

from weightshare.errors import ConfigError
from weightshare.training.recipe import strict
from weightshare.training.sweep_plan import LONGEST, Range, SweepConfig, planned, run_name, short_keys, text_of

BASE = {"model": "torus-mlp:2/3", "device": "cpu", "train": {"epochs": 4, "regularise": [{"strength": 0.1}]}}


def sweep(**changes):
    grid = {"train.regularise.0.strength": ["1e-3", 0.1], "seed": [0, 1]}
    return strict(SweepConfig, {"base": BASE, "grid": grid, **changes})


def test_every_combination_is_a_run_with_a_name_that_can_be_read(tmp_path):
    runs = planned(sweep(out=str(tmp_path / "a b")))
    assert [run.name for run in runs] == [
        "strength=0.001_seed=0",
        "strength=0.001_seed=1",
        "strength=0.1_seed=0",
        "strength=0.1_seed=1",
    ]
    config = runs[1].config
    assert (config.seed, config.train.regularise[0].strength, config.train.epochs) == (1, 0.001, 4)
    assert config.out == str(tmp_path / "a b" / "strength=0.001_seed=1")
    assert BASE["train"]["regularise"] == [{"strength": 0.1}]


def test_what_is_drawn_is_the_same_again_and_within_its_range():
    ranges = {"train.lr": {"low": 1e-3, "high": 0.1, "scale": "log"}, "train.momentum": {"low": 0.25, "high": 0.75}}
    grid = {"train.optimizer": ["sgd"], "seed": [0, 1]}
    made = sweep(grid=grid, samples={"count": 5, "ranges": ranges, "seed": 3})
    runs = planned(made)
    assert runs == planned(made)
    assert len({run.name for run in runs}) == 10
    rates = [run.config.train.lr for run in runs]
    assert all(0.001 <= rate <= 0.1 for rate in rates)
    assert rates[0::2] == rates[1::2]  # both seeds of a sample
    assert len(set(rates)) == 5
    assert planned(sweep(grid=grid, samples={"count": 5, "ranges": ranges, "seed": 4}))[0].name != runs[0].name


def test_on_a_logarithmic_scale_each_factor_has_the_same_chance():
    values = [Range(0.01, 100.0, "log").drawn(at / 4) for at in range(5)]
    assert values == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert [b - a for a, b in pairwise(Range(1.0, 3.0).drawn(at / 4) for at in range(5))] == [0.5] * 4


def test_short_keys_are_told_apart():
    assert short_keys(["a.x", "b.x", "c.y"]) == ["a.x", "b.x", "y"]
    assert short_keys(["prepare.seed"]) == ["prepare.seed"]
    assert short_keys(["prepare.seed", "seed"]) == ["prepare.seed", "seed"]


def test_names_are_those_of_files_and_differ_where_values_do():
    assert text_of("timm:resnet18") != text_of("timm/resnet18")
    assert text_of(["fc1", 2]) == "fc1,2"
    assert text_of(None) == "null"
    long = [run_name({"where": "x" * 200 + end}) for end in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= LONGEST
    assert not set("/\\: *?") & set(run_name({"a": "../b c", "d": {"e": "*?:"}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {}}, "grid={}: need a list of values for one key or more"),
        ({"grid": {"seed": 3}}, "grid.seed=3: need a list"),
        ({"grid": {"seed": [0, 1, 0]}}, "a value is there twice"),
        ({"grid": {"train.lr": ["1e-3", 0.001]}}, "a value is there twice"),
        ({"grid": {"train.lrr": [0.1]}}, "Unknown key 'train.lrr': did you mean 'train.lr'"),
        ({"grid": {"train.regularise.1.strength": [0.1]}}, "leads nowhere: there is no '1' in a list of 1"),
        ({"grid": {"model.size": [1]}}, "leads nowhere: there is no 'size' in 'torus-mlp:2/3'"),
        ({"grid": {"train.lr": [-1.0, -2.0]}}, "train.lr=-1.0: need above 0"),
        ({"grid": {"train.lr": [float("nan")]}}, "need plain values"),
        ({"metric": "accuracy"}, "metric='accuracy': need one of epoch, lr"),
        ({"base": {**BASE, "out": "x"}}, "no 'out'"),
        ({"base": {**BASE, "devices": 2}}, "each run of a sweep has one process"),
        ({"base": {**BASE, "device": "cuda"}}, "say how many GPUs"),
        ({"asha": {"grace_epochs": 5}}, "a run has 4 epochs"),
        ({"asha": {"reduction": 1}}, "reduction above 1"),
        ({"asha": {"grace": 1}}, "did you mean 'asha.grace_epochs'"),
        ({"cpus": 0}, "cpus=0: need 1 or more"),
        ({"samples": {"count": 2, "ranges": {"seed": {"low": 0, "high": 1}}}}, "seed is both in the grid and drawn"),
        ({"samples": {"count": 2, "ranges": {"train.lr": {"low": 0, "high": 1, "scale": "log"}}}}, "low above 0"),
        ({"samples": {"count": 2, "ranges": {"train.lr": [0, 1]}}}, "need low, high and perhaps scale"),
        ({"samples": {"count": 99, "ranges": {"train.lr": {"low": 1, "high": 1.001}}}}, "the same values"),
    ],
)
def test_what_cannot_be_swept_is_refused(changes, message):
    with pytest.raises(ConfigError) as refused:
        planned(sweep(**changes))
    assert message in str(refused.value)


def test_one_run_whose_values_do_not_go_together_does_not_stop_the_others():
    runs = planned(sweep(grid={"train.lr": [-1.0, 0.1]}))
    assert [run.name for run in runs] == ["lr=-1.0", "lr=0.1"]
    with pytest.raises(ConfigError, match=r"train\.lr=-1\.0"):
        runs[0].config  # noqa: B018 - making it refuses
