"""The command line: the same words in, the same text out, and errors without a traceback."""

import json
import subprocess
import sys

import pytest

from tests.unit.training.made_up_folder import fill
from weightshare.cli import main
from weightshare.cli.options import Entry
from weightshare.errors import ConfigError
from weightshare.models.by_name import OURS
from weightshare.planning import Plan
from weightshare.training.data import listed
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.run import read_config

OUT = "run"


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_plan_prints_the_counts_and_writes_json(capsys, tmp_path):
    out = tmp_path / "plan.json"
    assert call("plan", "convmixer:16/4/2/3", "--rate", "2", "--where", "blocks.*.pointwise", "--json", str(out)) == 0
    text = capsys.readouterr().out
    plan = Plan.from_json(out.read_text())
    assert f"{plan.stored_after:,}" in text
    assert "blocks.*.pointwise.weight" in text


def test_all_of_a_tie_can_be_said_by_options(capsys, tmp_path):
    out = tmp_path / "plan.json"
    options = [
        "--slots",
        "0,1,1,0",
        "--fuse",
        "weighted_mean",
        "--weights",
        "1,0.5,1,2",
        "--where",
        "blocks.*.pointwise",
    ]
    assert call("plan", "convmixer:16/4/2/3", *options, "--where", "blocks.*.depthwise", "--json", str(out)) == 0
    plan = Plan.from_json(out.read_text())
    assert [group.assignment.labels.tolist() for group in plan.groups] == [[0, 1, 1, 0]] * 4
    assert repr(plan.spec) == "Tie(slots=(0, 1, 1, 0), fuse=weighted_mean(weights=(1.0, 0.5, 1.0, 2.0)))"
    assert capsys.readouterr().err == ""


def test_transforms_and_what_is_trained_through_can_be_said_by_options(capsys):
    options = ["--rate", "2", "--fuse", "channel_weighted", "--through", "--lora", "3", "--where", "blocks.*.pointwise"]
    assert call("plan", "convmixer:16/4/2/3", *options) == 0
    assert "fuse=through(channel_weighted), own=LoRA(rank=3))" in capsys.readouterr().out
    assert call("plan", "convmixer:16/4/2/3", *options, "--scale", "scalar") == 1
    assert "lora and scale do not go together" in capsys.readouterr().err


def test_templates_can_be_planned_and_trained_by_options(capsys, tmp_path):
    options = ["--templates", "2", "--where", "blocks.*.pointwise"]
    assert call("plan", "convmixer:16/4/2/3", *options, "--json", str(tmp_path / "plan.json")) == 0
    plan = Plan.from_json((tmp_path / "plan.json").read_text())
    assert repr(plan.spec) == "Templates(templates=2)"
    assert f"{plan.stored_after:,}" in capsys.readouterr().out
    assert call("plan", "convmixer:16/4/2/3", *options, "--rate", "2") == 1
    assert "--rate goes with a rate or slots, not with templates" in capsys.readouterr().err
    more = ["--template-init", "sparse", "--within", "model", "--epochs", "1", "--device", "cpu"]
    assert call("train", "convmixer:8/3/2/3", *options, *more, "--out", str(tmp_path / "run")) == 0
    assert "layer_similarity" in (tmp_path / "run" / "metrics.jsonl").read_text()
    (entry,) = read_config(tmp_path / "run").share
    assert (entry.templates, entry.init, entry.within) == (2, "sparse", "model")


def test_a_budget_says_how_many_templates_there_are(capsys, tmp_path):
    options = ["--within", "model", "--across-widths", "--where", "blocks.*.pointwise"]
    for budget, most in (("0.98", 0.98), ("18900", 18900)):
        out = tmp_path / f"{budget}.json"
        assert call("plan", "convmixer:16/4/2/3", "--budget", budget, *options, "--json", str(out)) == 0
        plan = Plan.from_json(out.read_text())
        assert (plan.spec.budget, plan.spec.across_widths) == (most, True)
    assert plan.stored_after <= 18900 < plan.stored_before
    capsys.readouterr()
    assert call("plan", "convmixer:16/4/2/3", "--budget", "half") == 1
    assert "--budget 'half': need numbers" in capsys.readouterr().err


def test_templates_and_ties_take_each_others_place(tmp_path):
    file, out = tmp_path / "run.yaml", tmp_path / "plan.json"
    start = ["plan", "convmixer:16/4/2/3", "--config", str(file), "--json", str(out)]
    file.write_text("share: [{rate: 2, order: strided, fuse: mean, where: blocks.*.pointwise}]\n")
    assert call(*start, "--templates", "3") == 0
    assert repr(Plan.from_json(out.read_text()).spec) == "Templates(templates=3)"
    file.write_text("share: [{templates: 2, init: sparse, within: model, where: blocks.*.pointwise}]\n")
    assert call(*start, "--rate", "2") == 0
    assert repr(Plan.from_json(out.read_text()).spec) == "Tie(rate=2)"
    file.write_text("share: [{templates: 2, where: blocks.*.pointwise}, {rate: 2, where: blocks.*.depthwise}]\n")
    assert call(*start) == 0
    assert repr(Plan.from_json((tmp_path / "plan-2.json").read_text()).spec) == "Tie(rate=2)"


def test_a_file_and_options_go_together_and_options_win(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: convmixer:16/4/2/3\nshare: [{rate: 2, where: blocks.*.pointwise}]\ntrain: {epochs: 9}\n"
    )
    out = tmp_path / "run"
    assert (
        call("train", "--config", str(tmp_path / "run.yaml"), "--epochs", "1", "--device", "cpu", "--out", str(out))
        == 0
    )
    assert "Test accuracy" in capsys.readouterr().out
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1

    assert call("report", str(out), "--json", str(tmp_path / "report.json")) == 0
    assert "sharing does not lower them" in capsys.readouterr().out
    stored = json.loads((tmp_path / "report.json").read_text())["stored"]

    assert call("fold", str(out), "--out", str(tmp_path / "small.safetensors")) == 0
    text = capsys.readouterr().out
    assert f"{stored:,} stored numbers" in text
    assert f"{(tmp_path / 'small.safetensors').stat().st_size:,} bytes" in text
    assert "by folding: 0.0e+00" in text

    assert call("export", str(out), "--out", str(tmp_path / "small.onnx")) == 0
    text = capsys.readouterr().out
    assert f"{(tmp_path / 'small.onnx').stat().st_size:,} bytes" in text
    assert "onnxruntime" in text
    assert call("export", str(out), "--format", "torch", "--shared") == 0
    assert (out / "model.pt2").is_file()
    assert call("export", str(out), "--format", "tflite") == 1
    assert "need onnx or torch" in capsys.readouterr().err

    assert call("suggest", str(out), "--budget", "0.9", "--where", "blocks.*.depthwise") == 0
    assert "Tie(slots=(" in capsys.readouterr().out


def test_options_change_what_they_name_and_leave_the_rest_of_the_file(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: convmixer:16/4/2/3\nmodel_args: {classes: 7}\n"
        "share: [{slots: [0, 0, 1, 1], fuse: mean, where: 'blocks.*.pointwise'}]\n"
    )
    options = ["--config", str(tmp_path / "run.yaml"), "--rate", "4", "--model-arg", "dropout=0.2"]
    assert call("plan", *options, "--json", str(tmp_path / "plan.json")) == 0
    plan = Plan.from_json((tmp_path / "plan.json").read_text())
    assert repr(plan.spec) == "Tie(rate=4, fuse=mean)"
    assert plan.where == "'blocks.*.pointwise'"
    capsys.readouterr()
    assert call("report", "convmixer:16/4/2/3", "--model-arg", "classes=7", "--json", str(tmp_path / "r.json")) == 0
    assert json.loads((tmp_path / "r.json").read_text())["stored"] == plan.stored_before


def test_an_option_takes_away_what_it_makes_meaningless(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: convmixer:16/4/2/3\nshare: [{rate: 2, order: strided, fuse: weighted_mean, weights: [1, 2, 1, 2]}]\n"
    )
    options = ["--slots", "0,0,1,1", "--fuse", "mean", "--json", str(tmp_path / "plan.json")]
    assert call("plan", "--config", str(tmp_path / "run.yaml"), *options) == 0
    assert repr(Plan.from_json((tmp_path / "plan.json").read_text()).spec) == "Tie(slots=(0, 0, 1, 1), fuse=mean)"


def test_two_processes_train_one_network_and_say_it_once(tmp_path):
    options = ["--rate", "2", "--epochs", "1", "--device", "cpu", "--devices", "2", "--strategy", "ddp", "--out", "run"]
    command = [sys.executable, "-m", "weightshare", "train", "convmixer:8/2/2/3", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("whole model") == 1
    assert "terminate" not in done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


def test_several_entries_are_not_changed_by_options(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("model: convmixer:16/4/2/3\nshare: [{rate: 2}, {rate: 4}]\n")
    assert call("plan", "--config", str(tmp_path / "run.yaml"), "--rate", "3") == 1
    assert "has several" in capsys.readouterr().err


def test_a_run_goes_on_by_its_directory_alone(capsys, tmp_path):
    out = str(tmp_path / "run")
    assert call("train", "convmixer:16/4/2/3", "--rate", "2", "--epochs", "1", "--device", "cpu", "--out", out) == 0
    (tmp_path / "run" / "model.safetensors").unlink()
    capsys.readouterr()
    assert call("report", out) == 1
    assert f"weightshare train --out {out}" in capsys.readouterr().err
    assert call("train", "--out", out) == 0
    assert call("report", out) == 0


def test_the_version_is_that_of_the_package(capsys):
    import weightshare

    assert call("--version") == 0
    assert capsys.readouterr().out == f"weightshare {weightshare.__version__}\n"


def test_report_takes_a_model_by_name(capsys):
    assert call("report", "convmixer:16/4/2/3") == 0
    assert "stored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "convmixer:16/4/2/3"), "nothing to plan"),
        (("plan", "--rate", "2"), "Which model?"),
        (("plan", "convmixer:16/4", "--rate", "2"), "need the sizes C/D/P/K"),
        (("plan", "resnet", "--rate", "2"), "need convmixer:C/D/P/K, torus-cnn:C1/C2"),
        (("plan", "nowhere:net", "--rate", "2"), "No module named 'nowhere'"),
        (("plan", "convmixer:16/4/2/3", "--rate", "0"), "share rate"),
        (("plan", "convmixer:16/4/2/3", "--rate", "2", "--where", "bloks"), "Nearest paths: 'blocks'"),
        (("plan", "convmixer:16/4/2/3", "--slots", "0,x"), "need numbers"),
        (("plan", "convmixer:16/4/2/3", "--rate", "2", "--model-arg", "oops"), "need KEY=VALUE"),
        (("plan", "convmixer:16/4/2/3", "--rate", "2", "--model-arg", "stride=3"), "stride"),
        (("plan", "convmixer:16/4/2/3", "--rate", "2", "--model-arg", "dropout=5"), "dropout"),
        (("plan", "convmixer:16/4/2/3", "--rate", "2", "--model-arg", "classes=["), "--model-arg 'classes=['"),
        (("train", "convmixer:16/4/2/3", "--data", "imagnet"), "--data imagnet is not known: did you mean 'imagenet'"),
        (("report", "no-such-run"), "is no run directory"),
        (
            ("plan", "convmixer:16/4/2/3", "--rate", "2", "--scale", "row"),
            "--scale row is a str, need 'scalar' or 'channel'",
        ),
        (("fold", "no-such-run"), "is no run directory"),
        (("train", "convmixer:16/4/2/3", "--keep-first", "1"), "--keep-first: only together with --local. Give that"),
        (("train", "convmixer:16/4/2/3", "--local-where", "0"), "--local-where: only together with --local"),
        (("train", "convmixer:16/4/2/3", "--sleep-mode", "hebbian"), "--sleep-mode: only together with --sleep"),
        (
            ("train", "convmixer:16/4/2/3", "--sleep-unit", "epoch", "--sleep-where", "0"),
            "--sleep-unit, --sleep-where:",
        ),
        (("train", "convmixer:8/2/2/3", "--data", "digits", "--sleep", "2", "--out", OUT), "local first: --local."),
    ],
)
def test_errors_are_one_message_and_no_traceback(capsys, tmp_path, arguments, message):
    assert call(*(str(tmp_path / OUT) if one == OUT else one for one in arguments)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_callable_beside_the_caller_is_found(tmp_path):
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\n\ndef make(width=3):\n"
        "    return nn.Sequential(*(nn.Linear(width, width) for _ in range(4)))\n"
    )
    command = [sys.executable, "-m", "weightshare.cli", "plan", "mynet:make", "--rate", "2", "--model-arg", "width=5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "120" in done.stdout
    assert "60" in done.stdout


def test_options_of_augmentation_join_those_of_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: convmixer:8/2/2/3\ntrain: {epochs: 1, augment: {crop: 1, mixup: 0.3}}\n")
    out = tmp_path / "run"
    assert call("train", "--config", str(file), "--augment", "flip=true", "--device", "cpu", "--out", str(out)) == 0
    stored = read_config(out).train.augment
    assert (stored.crop, stored.flip, stored.mixup) == (1, True, 0.3)


def test_a_folder_without_a_run_is_said_to_be(capsys, tmp_path):
    assert call("train", "--out", str(tmp_path / "typo")) == 1
    assert "typo' is no run directory to go on with" in capsys.readouterr().err


def test_data_says_what_a_set_holds_and_writes_it(capsys, tmp_path):
    out = tmp_path / "digits.npz"
    assert call("data", "digits", "--to", str(out)) == 0
    text = capsys.readouterr().out
    assert "1,437 images to learn from, 360 to be measured on" in text
    assert "10 classes, 1×8×8 pixels" in text
    assert call("data", str(out)) == 0


def test_data_reads_every_image_of_a_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY", 0)
    monkeypatch.setattr(listed, "SAMPLE", 2)
    fill(tmp_path)
    assert call("data", str(tmp_path), "--image-size", "3") == 0
    assert "None to be measured on of 1 of 3 classes: bee." in capsys.readouterr().out
    for row in (1, 2):
        (tmp_path / "train" / "bee" / f"{row}.png").write_bytes(b"no image")
    assert call("data", str(tmp_path), "--image-size", "3") == 1
    assert "FileError: 2 of 15 images cannot be read: " in capsys.readouterr().err


def test_a_folded_model_that_computes_something_else_is_told_of(capsys, tmp_path):
    local = ["train", "resnet20:3/5/7", "--model-arg", "blocks=1", "--data", "digits", "--epochs", "1", "--local"]
    assert call(*local, "--out", str(tmp_path / "apart")) == 0
    summary = json.loads((tmp_path / "apart" / "summary.json").read_text())
    told = capsys.readouterr().out
    assert f"Folded, it computes something else: test accuracy {summary['folded_accuracy']:.2%}" in told
    assert call("fold", str(tmp_path / "apart")) == 1
    assert "lattice=Lattice(period=1)" in capsys.readouterr().err


def test_local_layers_and_sleep_can_be_said_by_options(tmp_path):
    out = tmp_path / "run"
    settings = ("--local", "--local-where", "blocks.0", "--sleep", "3", "--sleep-period", "1", "--sleep-unit", "epoch")
    more = ("--sleep-strength", "0.5", "--sleep-where", "blocks.0.depthwise", "--epochs", "1", "--out", str(out))
    assert call("train", "convmixer:4/2/4/3", "--data", "digits", *settings, *more) == 0
    said = read_config(out)
    assert said.localise == [Localise(where="blocks.0")]
    phase = SleepPhase(every=3, unit="epoch", period=1, strength=0.5, where="blocks.0.depthwise")
    assert said.train.sleep == [phase]


def test_options_of_an_entry_change_that_of_the_file():
    localise = Entry("localise", "--local", False, {"keep_first": 2}, {"keep_first": "--keep-first"})
    assert localise.over([{"where": "0", "keep_first": 1}]) == [{"where": "0", "keep_first": 2}]
    with pytest.raises(ConfigError, match="the configuration has several"):
        localise.over([{"where": "0"}, {"where": "1"}])


@pytest.mark.parametrize("command", ["plan", "train", "inspect"])
def test_help_names_every_network_of_ours(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "400")
    assert call(command, "--help") == 0
    text = capsys.readouterr().out
    assert [f"{kind}:{form}" for kind, (_, form, _) in OURS.items() if f"{kind}:{form}" not in text] == []
