"""Layers that mix templates in a training: by configuration, pulled together, kept to the bit through a stop, shown."""

from dataclasses import replace

from lightning_fabric import Fabric
import pytest
import torch

from tests.support import bits, same_bits
import weightshare as ws
from weightshare.depth.lsm import layer_similarity, mean_similarity, mixtures
from weightshare.depth.regularise import SimilarityPenalty
from weightshare.errors import ConfigError, NoMatch, SpecError
from weightshare.files.evolution import load_evolution
from weightshare.models import convmixer
from weightshare.training.data import Prepare, load_data
from weightshare.training.keeper import EVOLUTION, METRICS
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe, RunConfig, strict
from weightshare.training.regularise import Regularise
from weightshare.training.run import read_history, rewrite_page, run
from weightshare.training.share import Share
from weightshare.values.proximal import Ramp

RECIPE = Recipe(
    epochs=3,
    batch_size=64,
    lr=0.1,
    warmup=0.0,
    optimizer="sgd",
    regularise=[Regularise("layer_similarity", strength=5.0, warmup=0.5)],
)
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def data():
    return Prepare(fraction=0.5, pool=2)(load_data("digits"))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = convmixer(5, 5, 1, 3, classes=10, in_channels=1)
    ws.share_(model, ws.Templates(3), "blocks.*.pointwise")
    return model


def trained(model, data, folder=None, recipe=RECIPE, minutes=10.0):
    cpu = Fabric(accelerator="cpu", devices=1)
    return fit(model, data, recipe, folder=folder, fabric=cpu, checkpoint_minutes=minutes)


def untimed(history):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in history]


def test_names_stand_for_specs():
    assert Share(templates=3).spec == ws.Templates(3)
    given = {"templates": 2, "init": "sparse", "within": "model"}
    assert strict(Share, given).spec == ws.Templates(2, "sparse", "model")
    given = {"budget": 700, "within": "model", "across_widths": True}
    assert strict(Share, given).spec == ws.Templates(budget=700, within="model", across_widths=True)
    assert strict(Share, {"budget": 0.5}).spec == ws.Templates(budget=0.5)
    spec = Regularise("layer_similarity", strength=0.5, warmup=0.25).spec(40)
    assert isinstance(spec, SimilarityPenalty)
    assert (spec.strength, spec.schedule) == (0.5, Ramp(0.0, 1.0, 10))
    assert Regularise("layer_similarity", strength=0.5).spec(40).schedule is None


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"templates": 2, "rate": 2}, ConfigError, "share.rate goes with a rate or slots, not with templates"),
        ({"templates": 2, "lora": 2}, ConfigError, "share.lora goes with a rate or slots"),
        ({"rate": 2, "init": "sparse"}, ConfigError, "share.init goes with templates, not with a rate or slots"),
        ({"templates": 2, "budget": 9}, SpecError, "not both"),
        ({"budget": 0.5, "rate": 2}, ConfigError, "share.rate goes with"),
        ({"templates": 0}, SpecError, "at least 1"),
        ({"templates": 2, "init": "orthogonl"}, ConfigError, "did you mean 'orthogonal'"),
    ],
)
def test_sharing_that_is_wrong(given, error, said):
    with pytest.raises(error, match=said):
        _ = strict(Share, given, "share.").spec


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"kind": "layer_similarity"}, ConfigError, "there is nothing to do"),
        ({"kind": "layer_similarity", "strength": 1.0, "rewind": 0.5}, ConfigError, "goes with kind: proximal"),
        ({"kind": "proximal", "strength": 1.0, "warmup": 0.5}, ConfigError, "goes with kind: layer_similarity"),
        ({"kind": "layer_similarity", "strength": 1.0, "warmup": 1.5}, SpecError, "warmup"),
    ],
)
def test_regularisers_that_are_wrong(given, error, said):
    with pytest.raises(error, match=said):
        strict(Regularise, given, "regularise.")


def test_a_network_that_mixes_nothing_has_nothing_to_regularise(data):
    with pytest.raises(NoMatch, match="mix templates"):
        trained(convmixer(5, 2, 1, 3, classes=10, in_channels=1), data)


def test_layers_are_pulled_together_and_counted(data):
    pulled, free = network(), network()
    history = trained(pulled, data)
    assert [len(row) for row in history] == [9] * 3
    assert history[-1]["layer_similarity"] == mean_similarity(layer_similarity(pulled))
    plain = trained(free, data, recipe=replace(RECIPE, regularise=[]))
    assert history[-1]["layer_similarity"] > plain[-1]["layer_similarity"] + 0.1


def test_a_stopped_training_keeps_the_same_record(data, tmp_path):
    whole, cut = network(), network()
    history = trained(whole, data, tmp_path / "whole")
    kept = load_evolution(tmp_path / "whole" / EVOLUTION)
    assert kept.steps == (0, 1, 3, 11, 16, 22, 33)
    last = next(iter(mixtures(whole).values())).bank.coefficients
    assert bits(kept.coefficients["blocks.*.pointwise.weight"][-1]) == bits(last)

    class Enough(Exception):
        pass

    calls = []

    def stop_in_the_second_epoch(*_):
        calls.append(1)
        if len(calls) == 15:
            raise Enough

    hook = cut.register_forward_pre_hook(stop_in_the_second_epoch)
    with pytest.raises(Enough):
        trained(cut, data, tmp_path / "cut", minutes=0.0)
    hook.remove()
    halted = load_evolution(tmp_path / "cut" / EVOLUTION)
    assert halted.steps == (0, 1, 3, 11)
    again = trained(network(), data, tmp_path / "cut", minutes=0.0)
    assert untimed(again) == untimed(history)
    resumed = load_evolution(tmp_path / "cut" / EVOLUTION)
    assert (resumed.steps, resumed.layers) == (kept.steps, kept.layers)
    assert same_bits(resumed.coefficients.values(), kept.coefficients.values())


def test_a_run_by_configuration_shows_it(tmp_path):
    config = RunConfig(
        "convmixer:5/5/1/3",
        data="digits",
        prepare=Prepare(fraction=0.5, pool=2),
        share=[Share(templates=3, where="blocks.*.pointwise"), Share(rate=5, where="blocks.*.depthwise")],
        train=replace(RECIPE, epochs=2),
        out=str(tmp_path / "run"),
        device="cpu",
    )
    summary = run(config)
    assert summary["folded_output_difference"] < 1e-3
    folder = tmp_path / "run"
    assert all("layer_similarity" in row for row in read_history(folder))
    page = (folder / "report.html").read_text()
    assert "Layers that became alike" in page
    assert "step 22" in page
    (folder / "report.html").unlink()
    assert rewrite_page(folder).read_text() == page
    assert run(config) == summary
    assert (folder / METRICS).is_file()
