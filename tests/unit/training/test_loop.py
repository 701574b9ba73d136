"""The loop: it learns, it resumes to the last bit, and it says what is wrong."""

from dataclasses import replace
import json

from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
import pytest
import torch
from torch import nn

from weightshare.depth.fuse import mean
from weightshare.depth.tie import Tie
from weightshare.errors import FileError, ModelChanged, TrainingError
from weightshare.models import convmixer
from weightshare.training import loop
from weightshare.training.data import Data, InMemory, load_data
from weightshare.training.keeper import CHECKPOINT, METRICS
from weightshare.training.loop import evaluate, fit
from weightshare.training.recipe import Recipe
from weightshare.verbs import share_

SHORT = Recipe(epochs=4, batch_size=64)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture
def cpu():
    return Fabric(accelerator="cpu", devices=1)


def network(shared=True):
    torch.manual_seed(1)
    model = convmixer(16, 4, 2, 3, classes=10, in_channels=1)
    if shared:
        share_(model, Tie(rate=2, fuse=mean), where="blocks.*.pointwise")
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_shared_network_learns_and_stays_shared(digits, cpu):
    model = network()
    history = fit(model, digits, replace(SHORT, epochs=8), fabric=cpu)
    assert history[-1]["test_accuracy"] > 0.8
    assert model.blocks[0].pointwise.weight is model.blocks[1].pointwise.weight
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert history[-1]["lr"] < history[0]["lr"] < SHORT.lr * 1.001


def test_evaluation_counts_every_image_once_and_restores_the_mode(digits):
    model = network().train()
    loss, accuracy = evaluate(model, digits.test, batch_size=17)
    assert model.training
    model.eval()
    images, labels = digits.test[:]
    logits = model(images)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("fused", [False, True], ids=["step by step", "fused"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(digits, cpu, tmp_path, monkeypatch, fused):
    recipe = replace(SHORT, fused=fused)
    whole = network()
    history = fit(whole, digits, recipe, seed=3, folder=tmp_path / "whole", fabric=cpu)

    class Stopped(Exception):
        pass

    calls = []

    def stop_in_third_epoch(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", stop_in_third_epoch)
    with pytest.raises(Stopped):
        fit(network(), digits, recipe, seed=3, folder=tmp_path / "cut", fabric=cpu)
    monkeypatch.undo()

    resumed = network()
    later = fit(resumed, digits, recipe, seed=3, folder=tmp_path / "cut", fabric=cpu)
    for name, tensor in state(whole).items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert [row["test_loss"] for row in later] == [row["test_loss"] for row in history]
    lines = (tmp_path / "cut" / METRICS).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_a_finished_run_is_not_trained_again(digits, cpu, tmp_path):
    model = network()
    first = fit(model, digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu)
    again = network()
    assert fit(again, digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu) == first
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state(model).items())


def test_a_checkpoint_of_another_recipe_is_refused(digits, cpu, tmp_path):
    fit(network(), digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu)
    with pytest.raises(TrainingError, match=r"another run: recipe\.epochs is 1 there and 2 here, seed is 0"):
        fit(network(), digits, replace(SHORT, epochs=2), seed=5, folder=tmp_path, fabric=cpu)


def test_a_checkpoint_of_a_model_that_shares_otherwise_is_refused(digits, cpu, tmp_path):
    fit(network(), digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu)
    with pytest.raises(FileError, match="shares otherwise"):
        fit(network(shared=False), digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu)


def test_a_damaged_checkpoint_is_refused(digits, cpu, tmp_path):
    fit(network(), digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu)
    content = bytearray((tmp_path / CHECKPOINT).read_bytes())
    content[-7] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(FileError, match="checksum"):
        fit(network(), digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(digits, cpu, tmp_path, monkeypatch):
    real = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda recipe, step, total: real(recipe, step, total) if step < 22 else 1e38
    )
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) in training .* epoch 2.*last good state is in"):
        fit(network(), digits, SHORT, folder=tmp_path, fabric=cpu)
    assert len((tmp_path / METRICS).read_text().splitlines()) == 1
    monkeypatch.undo()
    assert len(fit(network(), digits, SHORT, folder=tmp_path, fabric=cpu)) == 4


def test_a_run_that_diverges_in_its_last_step_is_no_success(digits, cpu, tmp_path):
    once = Recipe(epochs=1, batch_size=1437, lr=1e30)
    with pytest.raises(TrainingError, match=r"test images in epoch 1: it diverged\. Nothing was kept"):
        fit(network(), digits, once, folder=tmp_path, fabric=cpu)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_scale_of_mixed_precision_is_resumed(digits, tmp_path):
    half = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu"))
    fit(network(), digits, replace(SHORT, epochs=2), folder=tmp_path, fabric=half)
    scale = half.strategy.precision.scaler.state_dict()
    fresh = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu"))
    fit(network(), digits, replace(SHORT, epochs=2), folder=tmp_path, fabric=fresh)
    assert fresh.strategy.precision.scaler.state_dict() == scale
    assert scale["_growth_tracker"] > 0


def test_a_model_that_does_not_fit_the_data_is_named(digits, cpu):
    with pytest.raises(TrainingError, match=r"ConvMixer cannot run on images of shape \(2, 1, 8, 8\)"):
        fit(convmixer(16, 2, 2, 3, classes=10, in_channels=3), digits, SHORT, fabric=cpu)
    with pytest.raises(TrainingError, match=r"gives \(2, 7\) for 2 images, need a tensor \(2, 10\)"):
        fit(convmixer(16, 2, 2, 3, classes=7, in_channels=1), digits, SHORT, fabric=cpu)


def test_a_model_that_gives_no_tensor_is_named(digits, cpu):
    class Dictionary(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = convmixer(16, 2, 2, 3, classes=10, in_channels=1)

        def forward(self, x):
            return {"logits": self.net(x)}

    with pytest.raises(TrainingError, match="Dictionary gives dict for 2 images"):
        fit(Dictionary(), digits, SHORT, fabric=cpu)


def test_a_checkpoint_of_another_run_does_not_change_the_model(digits, cpu, tmp_path):
    fit(network(), digits, replace(SHORT, epochs=1), folder=tmp_path, fabric=cpu)
    model = network()
    before = state(model)
    with pytest.raises(TrainingError, match="another run"):
        fit(model, digits, replace(SHORT, epochs=2), folder=tmp_path, fabric=cpu)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_ties_that_have_come_undone_are_refused(digits, cpu):
    model = network()
    model.blocks[1].pointwise.weight = nn.Parameter(model.blocks[1].pointwise.weight.detach().clone())
    with pytest.raises(ModelChanged, match="retie_"):
        fit(model, digits, SHORT, fabric=cpu)


def test_progress_without_a_terminal_is_plain_lines_with_the_time_left(digits, cpu, capsys):
    fit(network(), digits, replace(SHORT, epochs=2), fabric=cpu, label="a run")
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 12
    assert all(line.startswith("a run, epoch ") and line.endswith(" s left") for line in lines)


def test_a_batch_larger_than_the_data_is_the_data(cpu):
    split = InMemory(torch.rand(11, 1, 8, 8), torch.randint(10, (11,)), scale=1.0, mean=(0.5,), std=(0.5,))
    tiny = Data("tiny", split, split, classes=10)
    assert len(fit(network(), tiny, Recipe(epochs=1, batch_size=64), fabric=cpu)) == 1


def test_images_with_channels_last_give_the_same_up_to_rounding(digits, cpu):
    seen = []
    model = network()
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].stride(1)) if module.training else None
    )
    last = fit(model, digits, replace(SHORT, epochs=1, channels_last=True), fabric=cpu)
    first = fit(network(), digits, replace(SHORT, epochs=1), fabric=cpu)
    assert set(seen) == {1}
    assert last[0]["test_loss"] == pytest.approx(first[0]["test_loss"], rel=1e-3)


def test_a_fused_step_is_the_same_up_to_rounding(digits, cpu):
    fused, plain = network(), network()
    recipe = replace(SHORT, epochs=1, batch_size=479, lr=1e-3)  # three steps
    fit(fused, digits, replace(recipe, fused=True), fabric=cpu)
    fit(plain, digits, recipe, fabric=cpu)
    for name, tensor in state(plain).items():
        torch.testing.assert_close(fused.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_only_a_recipe_that_asks_for_it_gets_a_fused_step(digits, cpu, monkeypatch):
    asked = []
    made = torch.optim.AdamW

    def seen(groups, **options):
        asked.append(options["fused"])
        return made(groups, **options)

    monkeypatch.setattr(torch.optim, "AdamW", seen)
    for fused in (False, True):
        fit(network(), digits, replace(SHORT, epochs=1, batch_size=1437, fused=fused), fabric=cpu)
    assert asked == [None, True]
