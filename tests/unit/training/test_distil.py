"""Distillation: each loss against its equation, what is watched, and a training with a teacher."""

from dataclasses import replace
import json
import math

from lightning_fabric import Fabric
import pytest
import torch
from torch import nn

from tests.support import bits
from weightshare.cli import main
from weightshare.depth.fuse import mean
from weightshare.depth.tie import Tie
from weightshare.errors import ConfigError, FileError, NoMatch, TrainingError
from weightshare.files import archive
from weightshare.files.checkpoint import save
from weightshare.models import convmixer
from weightshare.training.data import Augment, Prepare, load_data
from weightshare.training.distil import Distil, hidden_loss, logits_loss, relation_loss
from weightshare.training.keeper import CHECKPOINT
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe, RunConfig, strict
from weightshare.training.run import run
from weightshare.training.tutor import Tutor, hidden_names, watched
from weightshare.verbs import fold, share_

DISTIL = Distil("teacher.safetensors", labels=0.5, logits=2.0, temperature=3.0, hidden=0.7)
RECIPE = Recipe(epochs=2, batch_size=64, augment=Augment(mixup=0.3), distil=DISTIL)


def softmax(numbers):
    powers = [math.exp(number) for number in numbers]
    return [power / sum(powers) for power in powers]


def divergence(target, given):
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(target, given, strict=True))


def test_the_logits_loss_is_its_equation():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    for temperature in (1.0, 0.5, 4.0):
        rows = [
            divergence(softmax([z / temperature for z in t]), softmax([z / temperature for z in s]))
            for s, t in zip(ours.tolist(), theirs.tolist(), strict=True)
        ]
        wanted = temperature**2 * sum(rows) / len(rows)
        assert float(logits_loss(ours, theirs, temperature)) == pytest.approx(wanted, rel=1e-12)


def test_its_gradient_is_that_of_the_cross_entropy():
    generator = torch.Generator().manual_seed(1)
    ours, theirs = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    ours.requires_grad_()
    (gradient,) = torch.autograd.grad(logits_loss(ours, theirs), ours)
    (wanted,) = torch.autograd.grad(nn.functional.cross_entropy(ours, theirs.softmax(1)), ours)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-15)


def relations(states):
    """`softmax(H Hᵀ / √d)`, number by number."""
    scale = math.sqrt(len(states[0]))
    return [
        softmax([sum(a * b for a, b in zip(one, other, strict=True)) / scale for other in states]) for one in states
    ]


def test_the_relation_loss_is_its_equation_whatever_the_widths():
    generator = torch.Generator().manual_seed(2)
    ours = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    theirs = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator)
    rows = [
        divergence(target, given)
        for s, t in zip(ours.tolist(), theirs.tolist(), strict=True)
        for target, given in zip(relations(t), relations(s), strict=True)
    ]
    assert float(relation_loss(ours, theirs)) == pytest.approx(sum(rows) / len(rows), rel=1e-12)


def test_the_hidden_loss_is_the_mean_over_layers_and_reads_maps_as_positions():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, 2, 5, 3, dtype=torch.float64, generator=generator)
    maps = torch.randn(2, 2, 3, 5, 7, dtype=torch.float64, generator=generator)
    wanted = (relation_loss(*tokens) + relation_loss(*maps.flatten(3).mT)) / 2
    torch.testing.assert_close(hidden_loss([tokens[0], maps[0]], [tokens[1], maps[1]]), wanted)
    squares = (((tokens[0] - tokens[1]) ** 2).mean() + ((maps[0] - maps[1]) ** 2).mean()) / 2
    torch.testing.assert_close(hidden_loss([tokens[0], maps[0]], [tokens[1], maps[1]], "mse"), squares)
    assert hidden_loss([tokens[0].bfloat16()], [tokens[0].bfloat16()]).dtype == torch.float32


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "said"),
    [
        ((2, 5, 3), (2, 7, 3), "relation", r"Hidden state 0 is \(2, 5, 3\) in the student, \(2, 7, 3\) in the teacher"),
        ((2, 5, 3), (2, 5, 7), "mse", "kind='mse' needs equal shapes"),
        ((2, 5), (2, 5), "relation", r"needs \(batch, n, width\)"),
        ((2, 5, 3), (2, 5), "mse", "equal shapes"),
    ],
)
def test_hidden_states_that_do_not_fit(ours, theirs, kind, said):
    with pytest.raises(TrainingError, match=said):
        hidden_loss([torch.zeros(ours)], [torch.zeros(theirs)], kind)
    with pytest.raises(TrainingError, match="gives 1 hidden states, the teacher 2"):
        hidden_loss([torch.zeros(ours)], [torch.zeros(theirs)] * 2, kind)


def network(shared=True, width=8, classes=10):
    torch.manual_seed(1)
    model = convmixer(width, 4, 2, 3, classes=classes, in_channels=1)
    if shared:
        share_(model, Tie(rate=2, fuse=mean), where="blocks.*.pointwise")
    return model


def test_blocks_are_the_hidden_states_unless_others_are_named():
    model = network(shared=False)
    blocks = [f"blocks.{index}" for index in range(4)]
    assert hidden_names(model) == blocks
    assert hidden_names(model, "blocks.*") == blocks  # the outermost that match, not what is inside
    assert hidden_names(model, ["blocks.*.pointwise"]) == [f"{block}.pointwise" for block in blocks]
    with pytest.raises(NoMatch, match=r"distil.where='stage' matches no module of .*Near: patches"):
        hidden_names(model, "stage")
    with pytest.raises(NoMatch, match="no repeated blocks"):
        hidden_names(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)))


def test_a_layer_that_runs_twice_is_watched_twice_and_nothing_stays():
    looped = nn.Sequential(*[nn.Linear(3, 3)] * 2, nn.LSTM(3, 5))
    modules = {name: looped.get_submodule(name) for name in ("0", "1", "2")}
    with watched(modules) as seen:
        looped(torch.ones(7, 3))
    assert [(name, tuple(states.shape)) for name, states in seen] == [("0", (7, 3)), ("0", (7, 3)), ("2", (7, 5))]
    assert not any(module._forward_hooks for module in modules.values())


def test_a_tutor_adds_up_the_terms_and_teaches_a_folded_network():
    data, teacher, model = load_data("digits"), network(shared=False), fold(network())
    images, _ = data.test[:5]
    tutor = Tutor(DISTIL, model, teacher, images)
    logits, loss = tutor(model.eval(), images)
    states = []
    for one in (model, teacher):
        with watched({f"blocks.{index}": one.blocks[index] for index in range(4)}) as seen:
            one(images)
        states.append([state for _, state in seen])
    wanted = 2.0 * logits_loss(model(images), teacher(images), 3.0) + 0.7 * hidden_loss(*states)
    torch.testing.assert_close(loss, wanted)
    assert loss.item() > 0
    torch.testing.assert_close(logits, model(images))
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.blocks.parameters())


@pytest.mark.parametrize(
    ("teacher", "distil", "error", "said"),
    [
        (lambda: network(classes=7), DISTIL, TrainingError, r"gives \(2, 7\) where the student gives \(2, 10\)"),
        (lambda: nn.Linear(3, 10), DISTIL, TrainingError, "The teacher, Linear, cannot run on images"),
        (lambda: network(width=5), replace(DISTIL, kind="mse"), TrainingError, r"\(2, 8, 4, 4\) in the student"),
        (lambda: network(), replace(DISTIL, where="stage.*"), NoMatch, "matches no module"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), replace(DISTIL, where="1"), NoMatch, "no module '1'"),
        (lambda: None, DISTIL, TrainingError, "go together"),
        (lambda: network(), None, TrainingError, "go together"),
    ],
)
def test_teachers_that_do_not_fit_are_refused_before_training(teacher, distil, error, said):
    data = Prepare(fraction=0.1)(load_data("digits"))
    model = network()
    before = [bits(tensor) for tensor in model.state_dict().values()]
    with pytest.raises(error, match=said):
        fit(model, data, replace(RECIPE, distil=distil), teacher=teacher())
    assert [bits(tensor) for tensor in model.state_dict().values()] == before


def test_a_training_with_a_teacher_that_was_stopped_ends_with_the_same_bits(tmp_path):
    data = Prepare(fraction=0.2)(load_data("digits"))
    teacher = network(shared=False)
    there = [bits(tensor) for tensor in teacher.state_dict().values()]
    fabric = Fabric(accelerator="cpu", devices=1)
    whole = network()
    history = fit(whole, data, RECIPE, folder=tmp_path / "whole", fabric=fabric, teacher=teacher)

    class Enough(Exception):
        pass

    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 10:
            raise Enough

    twin = network()
    hook = twin.register_forward_pre_hook(stop)
    with pytest.raises(Enough):
        fit(twin, data, RECIPE, folder=tmp_path / "cut", fabric=fabric, checkpoint_minutes=0.0, teacher=teacher)
    hook.remove()
    twin = network()
    later = fit(twin, data, RECIPE, folder=tmp_path / "cut", fabric=fabric, checkpoint_minutes=0.0, teacher=teacher)
    assert [bits(tensor) for tensor in twin.state_dict().values()] == [bits(t) for t in whole.state_dict().values()]
    assert [row["test_loss"] for row in later] == [row["test_loss"] for row in history]
    assert [bits(tensor) for tensor in teacher.state_dict().values()] == there
    kept = archive.read(tmp_path / "cut" / CHECKPOINT, "training").tensors
    assert sum(name.startswith("model.") for name in kept) == len(dict(twin.state_dict())) - 2 * 2  # ties: w and b
    with torch.no_grad():
        teacher.blocks[0].pointwise.bias += 1
    with pytest.raises(TrainingError, match="another run: teacher is"):
        fit(network(), data, RECIPE, folder=tmp_path / "cut", fabric=fabric, teacher=teacher)


def test_a_teacher_teaches():
    data = Prepare(fraction=0.5)(load_data("digits"))
    teacher = network(shared=False)
    fit(teacher, data, Recipe(epochs=4, batch_size=16))
    alone = Recipe(epochs=4, batch_size=16, distil=Distil("-", hidden=0.1))  # no labels at all
    model = network()
    history = fit(model, data, alone, teacher=teacher)
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 2
    assert history[-1]["test_accuracy"] > 0.6  # the teacher has 0.71
    assert model.blocks[0].pointwise.weight is model.blocks[1].pointwise.weight


def test_a_run_by_configuration_finds_its_teacher(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save(network(shared=False), path)
    settings = {
        "model": "convmixer:8/4/2/3",
        "prepare": {"fraction": 0.1},
        "share": [{"rate": 2, "fuse": "mean", "where": "blocks.*.pointwise"}],
        "train": {"epochs": 1, "distil": {"teacher": str(path), "hidden": "1e-1"}},
        "device": "cpu",
        "out": str(tmp_path / "run"),
    }
    config = strict(RunConfig, settings)
    assert config.train.distil == Distil(str(path), hidden=0.1)
    summary = run(config)
    assert summary["config"]["train"]["distil"]["kind"] == "relation"
    assert run(config) == summary
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    (tmp_path / "teacher.safetensors").unlink()
    lost = replace(config, out=str(tmp_path / "lost"))
    with pytest.raises(FileError, match=r"train\.distil\.teacher: .*teacher\.safetensors.*weightshare\.save"):
        run(lost)
    save(network(shared=False, width=5), path)
    with pytest.raises(FileError, match=r"train\.distil\.teacher: .*Need a file .* of convmixer:8/4/2/3"):
        run(lost)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"The key 'distil\.teacher' is missing"),
        ({"teacher": ""}, r"distil\.teacher=''"),
        ({"teacher": "t", "temprature": 1}, r"did you mean 'distil\.temperature'"),
        ({"teacher": "t", "temperature": 0}, r"distil\.temperature=0\.0: need a finite number above 0"),
        ({"teacher": "t", "logits": -1}, r"distil\.logits=-1\.0"),
        ({"teacher": "t", "logits": 0}, "nothing is learnt from the teacher"),
        ({"teacher": "t", "kind": "cosine"}, "distil.kind='cosine': did you mean"),
        ({"teacher": "t", "where": "blocks.*"}, r"go with distil\.hidden above 0"),
    ],
)
def test_configurations_that_are_wrong(given, said):
    with pytest.raises(ConfigError, match=said):
        strict(Recipe, {"distil": given})
    assert strict(Recipe, {"distil": None}).distil is None


def test_the_command_line_puts_options_over_the_file(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("model: convmixer:8/4/2/3\ntrain: {distil: {teacher: lost.safetensors, logits: 0, hidden: 0.5}}\n")
    out = tmp_path / "run"
    for given, said in (("hidden=0", "nothing is learnt"), ("kind=mse", "There is no file 'lost.safetensors'")):
        with pytest.raises(SystemExit):
            main(["train", "--config", str(path), "--out", str(out), "--device", "cpu", "--distil", given])
        assert said in capsys.readouterr().err
    assert "kind: mse" in (out / "config.yaml").read_text()
