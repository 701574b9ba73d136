"""Runs that are asked to stop, diverge or find the disk full: the last good state is kept, and the run goes on."""

from dataclasses import replace
import os
import signal

from lightning_fabric import Fabric
import pytest
import torch
from torch import nn

from weightshare.depth.fuse import mean
from weightshare.depth.tie import Tie
from weightshare.errors import FileError, TrainingError
from weightshare.models import convmixer
from weightshare.training import workplace
from weightshare.training.data import Augment, load_data
from weightshare.training.keeper import CHECKPOINT, METRICS
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe
from weightshare.training.workplace import Stopped
from weightshare.verbs import share_

RECIPE = Recipe(epochs=3, batch_size=64, augment=Augment(crop=1, mixup=0.2))  # 22 steps an epoch


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def network() -> nn.Module:
    torch.manual_seed(1)
    model = convmixer(8, 4, 2, 3, classes=10, in_channels=1)
    share_(model, Tie(rate=2, fuse=mean), where="blocks.*.pointwise")
    return model


def trained(data, folder=None, model=None, **options) -> nn.Module:
    model = model or network()
    fit(model, data, RECIPE, seed=3, folder=folder, fabric=Fabric(accelerator="cpu", devices=1), **options)
    return model


def calling(model: nn.Module, step: int, action) -> nn.Module:
    """A network that does something when it sees its so-manieth training batch."""
    seen = []

    def count(module: nn.Module, inputs: object) -> None:
        seen.append(module.training)
        if sum(seen) == step and module.training:
            action()

    model.register_forward_pre_hook(count)
    return model


def check_equal(one: nn.Module, other: nn.Module) -> None:
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("step", [1, 17, 22, 23, 65], ids="step {}".format)
def test_a_run_that_is_terminated_keeps_its_state_and_goes_on(digits, tmp_path, step):
    with pytest.raises(Stopped, match=r"Stopped (in|after) epoch .*the state is in") as stopped:
        trained(digits, tmp_path, calling(network(), step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert stopped.value.status == 143
    resumed = []
    check_equal(trained(digits, tmp_path, calling(network(), 1, lambda: resumed.append(1))), trained(digits))
    assert resumed


def test_steps_that_are_done_are_not_repeated(digits, tmp_path):
    with pytest.raises(Stopped):
        trained(digits, tmp_path, calling(network(), 30, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    left = []
    model = network()
    model.register_forward_pre_hook(lambda module, inputs: left.append(1) if module.training else None)
    trained(digits, tmp_path, model)
    assert len(left) == 3 * 22 - 30


def test_an_interrupt_is_an_interrupt_but_the_state_is_kept(digits, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="after step 5 of 22"):
        trained(digits, tmp_path, calling(network(), 5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert signal.getsignal(signal.SIGINT) is before
    check_equal(trained(digits, tmp_path), trained(digits))


def test_an_interrupt_that_is_repeated_later_does_not_wait(digits, tmp_path, monkeypatch):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(workplace, "PATIENCE", -1.0)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        trained(digits, tmp_path, calling(network(), 5, twice))
    assert str(stopped.value) == ""
    assert not (tmp_path / CHECKPOINT).exists()


def test_signals_that_come_together_are_one(digits, tmp_path):
    def thrice() -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        trained(digits, tmp_path, calling(network(), 5, thrice))
    assert stopped.value.status == 143
    assert (tmp_path / CHECKPOINT).exists()


def test_without_a_folder_signals_are_not_touched(digits):
    seen = []
    trained(digits, None, calling(network(), 5, lambda: seen.append(signal.getsignal(signal.SIGTERM))))
    assert seen == [signal.SIG_DFL]


def test_state_inside_an_epoch_ends_with_the_same_weights(digits, tmp_path):
    check_equal(trained(digits, tmp_path, checkpoint_minutes=0.0), trained(digits))


def test_a_state_that_diverged_inside_an_epoch_is_not_kept(digits, tmp_path):
    model = network()
    spoilt = calling(model, 9, lambda: model.head.weight.data.fill_(float("nan")))
    with pytest.raises(TrainingError, match=r"nan in training from step 9 .*in epoch 1: it diverged.*last good state"):
        trained(digits, tmp_path, spoilt, checkpoint_minutes=0.0)
    check_equal(trained(digits, tmp_path), trained(digits))


def test_a_disk_that_fills_up_later_leaves_the_last_state(digits, tmp_path, monkeypatch):
    class Full(OSError):
        strerror = "No space left on device"

    def fsync(descriptor: int) -> None:
        raise Full

    model = calling(network(), 30, lambda: monkeypatch.setattr(os, "fsync", fsync))
    with pytest.raises(FileError, match=r"Cannot write .*No space left on device\. What was there is unchanged"):
        trained(digits, tmp_path, model)
    monkeypatch.undo()
    assert len((tmp_path / METRICS).read_text().splitlines()) == 1
    check_equal(trained(digits, tmp_path), trained(digits))


def test_replaced_recipes_are_other_runs(digits, tmp_path):
    trained(digits, tmp_path)
    other = replace(RECIPE, augment=Augment(crop=2))
    with pytest.raises(TrainingError, match=r"another run: recipe\.augment\.crop is 1 there and 2 here"):
        fit(network(), digits, other, seed=3, folder=tmp_path, fabric=Fabric(accelerator="cpu", devices=1))
