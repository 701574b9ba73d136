"""What is seen of a run: TensorBoard's scalars and pictures, and a progress line on any terminal."""

import io
import os
import signal
import sys

from lightning_fabric import Fabric
import pytest
import torch

from weightshare.depth.tie import Tie
from weightshare.errors import ConfigError
from weightshare.models import convmixer
from weightshare.training.data import Augment, load_data
from weightshare.training.loop import fit
from weightshare.training.progress import progress
from weightshare.training.recipe import Recipe
from weightshare.training.workplace import Stopped
from weightshare.verbs import share_

RECIPE = Recipe(epochs=2, batch_size=64, augment=Augment(crop=1))


def network():
    torch.manual_seed(1)
    model = convmixer(8, 4, 2, 3, classes=10, in_channels=1)
    share_(model, Tie(rate=2), where="blocks.*.pointwise")
    return model


def fitted(folder, model=None, **options):
    model = model or network()
    cpu = Fabric(accelerator="cpu", devices=1)
    return model, fit(model, load_data("digits"), RECIPE, folder=folder, fabric=cpu, **options)


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def test_scalars_and_pictures_are_written_and_change_nothing(tmp_path):
    model, history = fitted(tmp_path, tensorboard=True)
    events = read(tmp_path)
    accuracies = events.Scalars("test_accuracy")
    assert [event.value for event in accuracies] == pytest.approx([row["test_accuracy"] for row in history])
    assert [event.step for event in accuracies] == [22, 44]
    assert len(events.Scalars("batch_loss")) == 22
    assert {"plan/blocks.*.pointwise", "data/images", "data/augmented"} <= set(events.Tags()["images"])
    without, _ = fitted(None)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), without.parameters(), strict=True))


def test_a_resumed_run_has_each_step_once(tmp_path):
    model, seen = network(), []

    def stop(module, inputs):
        seen.append(1)
        if len(seen) == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        fitted(tmp_path, model, tensorboard=True)
    fitted(tmp_path, tensorboard=True)
    steps = [event.step for event in read(tmp_path).Scalars("batch_loss")]
    assert steps == sorted(set(steps))
    assert len(steps) == 22


def test_a_run_that_was_killed_before_it_kept_anything_has_each_step_once(tmp_path):
    model, seen = network(), []

    def die(module, inputs):
        seen.append(1)
        if len(seen) == 15:
            raise ZeroDivisionError

    model.register_forward_pre_hook(die)
    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, model, tensorboard=True)
    fitted(tmp_path, tensorboard=True)
    for name in ("batch_loss", "lr"):
        steps = [event.step for event in read(tmp_path).Scalars(name)]
        assert steps == sorted(set(steps))


def test_nothing_is_written_unless_asked_for(tmp_path):
    fitted(tmp_path)
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'weightshare\[tensorboard\]'"):
        fitted(tmp_path, tensorboard=True)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch):
    """What a run of forty steps shows on a terminal of a kind."""

    def show(kind):
        monkeypatch.setenv("TERM", kind)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("a run", total=40, done=0) as advance:
            for step in range(40):
                advance(f"epoch {step // 20}")
        return stream.getvalue()

    return show


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(shown, kind):
    text = shown(kind)
    assert "\x1b" not in text
    assert "\r" not in text
    assert len(text.splitlines()) == 10


def test_a_terminal_gets_a_bar(shown):
    assert "\x1b" in shown("xterm-256color")


def test_nothing_is_shown_by_other_processes_or_when_nothing_is_left(capsys):
    for options in ({"shown": False, "done": 0}, {"done": 5}):
        with progress("a run", total=5, **options) as advance:
            advance("step")
    assert capsys.readouterr().err == ""
