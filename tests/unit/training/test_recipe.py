"""Configurations: strict about keys and kinds, and the same after a trip through YAML."""

from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st
import pytest
import yaml

from weightshare.depth.fuse import WeightedMean
from weightshare.depth.tie import Tie
from weightshare.depth.topology import front, random, strided
from weightshare.errors import ConfigError
from weightshare.training.recipe import Recipe, RunConfig, Share, read_yaml, strict


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model": "m", "modle_args": {}}, "Unknown key 'modle_args': did you mean 'model_args'"),
        ({"model": "m", "train": {"epoch": 3}}, "Unknown key 'train.epoch': did you mean 'train.epochs'"),
        (
            {"model": "m", "share": [{"oder": "strided"}]},
            r"Unknown key 'share\[0\].oder': did you mean 'share\[0\].order'",
        ),
        ({"data": "digits"}, "The key 'model' is missing"),
        ({"model": 3}, "model=3 is a int, need str"),
        ({"model": "m", "seed": "one"}, "seed='one' is a str, need int"),
        ({"model": "m", "seed": True}, "seed=True is a bool, need int"),
        ({"model": "m", "share": [{"order": "stride"}]}, "did you mean 'strided'"),
        ({"model": "m", "share": {"rate": 2}}, "share={'rate': 2} is a dict"),
        ({"model": "m", "seed": -1}, "seed=-1: need 0 to"),
        ({"model": "m", "seed": 2**40}, "seed=1099511627776: need 0 to"),
        ({"model": "m", "out": ""}, "out='': need the name of a folder"),
        ({"model": "m", "precision": "bf16-true"}, "did you mean 'bf16-mixed'"),
        ({"model": "m", "model_args": {1: 2}}, "need names as keys"),
        ({"model": "m", "model_args": {"a": {3}}}, "need plain values"),
        ({"model": "m", "share": [{"slots": [0, 0, "x"]}]}, r"share\[0\].slots\[2\]='x' is a str, need int"),
        ({"model": "m", "train": {"lr": "fast"}}, "train.lr='fast' is a str, need float"),
        ({"model": "m", "train": {"lr": -1}}, "train.lr=-1.0: need above 0"),
        ({"model": "m", "train": {"epochs": 0}}, "train.epochs=0: need 1 or more"),
        ({"model": "m", "train": {"warmup": 1.5}}, "train.warmup=1.5: need 0 to 1"),
        ({"model": "m", "train": {"optimizer": "sgd", "fused": True}}, "train.fused=True: need false, or adamw"),
        ({"model": "m", "train": {"fused": True}, "precision": "16-mixed"}, "Leave one of the three out"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(data, message):
    with pytest.raises(ConfigError, match=message):
        strict(RunConfig, data)


def test_names_stand_for_specs():
    share = Share(rate=3, order="random", order_seed=5, spread="front", fuse="weighted_mean", weights=[1.0, 0.5])
    assert share.spec == Tie(3, random(5), None, WeightedMean((1.0, 0.5)), front)
    assert Share(rate=2, order="strided").spec == Tie(2, strided)
    assert Share(slots=[0, 1, 0]).spec == Tie(slots=(0, 1, 0))


def test_weights_and_weighted_mean_go_together():
    with pytest.raises(ConfigError, match="weights go with"):
        _ = Share(rate=2, weights=[1.0]).spec
    with pytest.raises(ConfigError, match="weights go with"):
        _ = Share(rate=2, fuse="weighted_mean").spec


@given(
    rate=st.one_of(st.none(), st.floats(1, 9)),
    where=st.one_of(st.none(), st.text(max_size=9), st.lists(st.text(max_size=9), max_size=3)),
    lr=st.floats(1e-9, 10),
    epochs=st.integers(1, 999),
)
def test_yaml_gives_the_same_configuration_back(rate, where, lr, epochs):
    config = RunConfig("convmixer:8/2/1/3", share=[Share(rate=rate, where=where)], train=Recipe(epochs=epochs, lr=lr))
    assert asdict(strict(RunConfig, yaml.safe_load(config.to_yaml()))) == asdict(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "is a list, need keys"),
        ("model: [", "Cannot read"),
        ("model: !!python/object/apply:os.system ['true']", "Cannot read"),
    ],
)
def test_yaml_that_is_no_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="Cannot read"):
        read_yaml(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    "values",
    [{"checkpoint_minutes": float("inf")}, {"train": {"clip": float("inf")}}, {"model_args": {"width": float("nan")}}],
)
def test_numbers_that_no_summary_could_hold_are_refused_before_training(values):
    with pytest.raises(ConfigError, match=r"clip|checkpoint_minutes|model_args"):
        strict(RunConfig, {"model": "convmixer:8/4/2/3", **values})
