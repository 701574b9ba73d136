"""Regularisers in a training: by configuration, resumed to the bit, finished and counted."""

from dataclasses import replace

import pytest
import torch

from tests.support import bits
from weightshare.errors import ConfigError, SpecError, TrainingError
from weightshare.models import build
from weightshare.training.data import Prepare, load_data
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe, RunConfig, strict
from weightshare.training.regularise import Regularise
from weightshare.training.run import read_history, run
from weightshare.values.baselines import BetaLasso, Subgradient
from weightshare.values.proximal import Proximal, Ramp

RECIPE = Recipe(
    epochs=4,
    batch_size=128,
    lr=0.1,
    weight_decay=0.0,
    warmup=0.0,
    clip=None,
    optimizer="sgd",
    regularise=[
        Regularise(strength=3e-2, l1=1e-3, every=3, rewind=0.9, rewind_to=0.1, where="fc1"),
        Regularise("beta_lasso", strength=1e-4, where="fc2.weight"),
    ],
)


@pytest.fixture(scope="module")
def data():
    return Prepare(shift=True)(load_data("digits"))


def network(data) -> torch.nn.Module:
    torch.manual_seed(0)
    return build("torus-mlp:2/3", in_channels=1, classes=10, size=data.train.shape[1:])


def test_names_stand_for_specs():
    assert Regularise(strength=0.1, l1=0.2, every=3, granularity="row", exact_every=7, l1_per_step=False).spec(
        9
    ) == Proximal(0.1, 0.2, 0.0, 3, "row", 7, False)
    assert Regularise(strength=0.1, rewind=0.9, rewind_to=0.2).spec(9).rewind == Ramp(0.9, 0.2, 9)
    assert Regularise("subgradient", strength=0.1).spec(9) == Subgradient(0.1)
    assert Regularise("beta_lasso", strength=0.1, beta=7.0).spec(9) == BetaLasso(0.1, 7.0)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"kind": "lasso"}, ConfigError, "did you mean 'beta_lasso'"),
        ({"strenght": 0.1}, ConfigError, "did you mean 'regularise.strength'"),
        ({"kind": "subgradient", "l1": 0.1}, ConfigError, "regularise.l1 goes with kind: proximal"),
        ({"beta": 3.0}, ConfigError, "regularise.beta goes with kind: beta_lasso"),
        ({"strength": -1.0}, SpecError, "strength"),
        ({"rewind_to": 2.0}, SpecError, "Ramp"),
        ({"granularity": "column"}, ConfigError, "granularity"),
        ({"where": "fc1.weight"}, ConfigError, "there is nothing to do; give strength, or l1"),
    ],
)
def test_configurations_that_are_wrong(given, error, said):
    with pytest.raises(error, match=said):
        strict(Regularise, given, "regularise.")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum"),
        ({"momentum": 0.9}, "momentum=0.9: need 0 for adamw"),
    ],
)
def test_optimizers_that_are_wrong(given, said):
    with pytest.raises(ConfigError, match=said):
        Recipe(**given)


def test_a_stopped_training_ends_with_the_same_bits(data, tmp_path):
    model, twin = network(data), network(data)
    history = fit(model, data, RECIPE, folder=tmp_path / "whole")

    class Enough(Exception):
        pass

    calls = []

    def stop_in_the_third_epoch(*_):
        calls.append(1)
        if len(calls) == 27:
            raise Enough

    hook = twin.register_forward_pre_hook(stop_in_the_third_epoch)
    with pytest.raises(Enough):
        fit(twin, data, RECIPE, folder=tmp_path / "cut", checkpoint_minutes=0.0)
    hook.remove()
    twin = network(data)
    again = fit(twin, data, RECIPE, folder=tmp_path / "cut", checkpoint_minutes=0.0)
    assert [bits(t) for t in twin.state_dict().values()] == [bits(t) for t in model.state_dict().values()]
    untimed = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in history]
    assert [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in again] == untimed
    with pytest.raises(TrainingError, match=r"recipe\.regularise is"):
        fit(network(data), data, replace(RECIPE, regularise=[]), folder=tmp_path / "cut")


def test_the_end_is_exact_and_counted(data):
    model = network(data)
    history = fit(model, data, replace(RECIPE, regularise=[Regularise(strength=0.1, where="fc1.weight")]))
    last = history[-1]
    assert last["distinct_share"] == pytest.approx(len(model.fc1.weight.unique()) / model.fc1.weight.numel())
    assert 0 < last["distinct_share"] < 0.9
    assert last["zero_share"] == 0
    assert 0 < last["penalty"] < history[0]["penalty"]


def test_nothing_is_left_on_the_optimizer_and_plain_rows_stay_as_they_were(data):
    model = network(data)
    history = fit(model, data, replace(RECIPE, epochs=1, regularise=[]))
    assert "distinct_share" not in history[0]


def test_a_run_by_configuration(tmp_path):
    config = RunConfig(
        "torus-mlp:2/3",
        data="digits",
        prepare=Prepare(fraction=0.5, pool=2, shift=True),
        train=replace(RECIPE, epochs=2),
        out=str(tmp_path / "run"),
        device="cpu",
    )
    summary = run(config)
    assert summary["config"]["prepare"]["pool"] == 2
    assert [row.keys() >= {"distinct_share", "zero_share", "penalty"} for row in read_history(tmp_path / "run")] == [
        True,
        True,
    ]
    assert run(config) == summary
    assert "Values that are shared" in (tmp_path / "run" / "report.html").read_text()


def test_a_training_that_diverges_says_so_whoever_finds_out(data):
    recipe = replace(RECIPE, lr=1e30, regularise=[Regularise(strength=1e-3, where="fc1.weight")])
    with pytest.raises(TrainingError, match="it diverged"):
        fit(network(data), data, recipe)
