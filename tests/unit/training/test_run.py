"""Run directories: everything is in them, nothing is done twice, and no two runs share one."""

from dataclasses import replace
import json
import re
import shutil

import pytest
from safetensors import safe_open
import torch

from weightshare.errors import ConfigError, SharingError, TrainingError
from weightshare.files.checkpoint import load, tensors
from weightshare.models import build
from weightshare.training import run as training_run
from weightshare.training.data import load_data
from weightshare.training.recipe import Recipe, RunConfig, Share
from weightshare.training.run import read_config, rewrite_page, run, trained


def config(out, **changes):
    base = RunConfig(
        "convmixer:16/4/2/3",
        share=[
            Share(rate=2, fuse="mean", where="blocks.*.pointwise"),
            Share(rate=4, where="blocks.*.depthwise.weight"),
        ],
        train=Recipe(epochs=2),
        device="cpu",
        out=str(out),
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "two-plans"
    return folder, run(config(folder))


def test_the_directory_holds_all_that_it_should(finished):
    folder, summary = finished
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "environment.json", "plan.json", "metrics.jsonl", "checkpoint.safetensors",
        "model.safetensors", "folded.safetensors", "folded.md", "summary.json", "report.html", ".lock",
    }  # fmt: skip
    assert json.loads((folder / "summary.json").read_text()) == summary
    details = json.loads((folder / "environment.json").read_text())
    assert details["seed"] == 0
    assert details["packages"]["torch"]


def test_numbers_before_and_after_are_of_the_whole_model(finished):
    _, summary = finished
    plain = build("convmixer:16/4/2/3", in_channels=1, classes=10)
    before = sum(p.numel() for p in plain.parameters())
    assert summary["stored_before"] == before
    assert summary["stored"] == before - 2 * (16 * 16 + 16) - 3 * 16 * 9
    assert summary["folded_output_difference"] == 0
    assert summary["folded_accuracy"] == summary["accuracy"]


def test_sizes_are_those_of_the_files(finished):
    folder, summary = finished
    assert (folder / "model.safetensors").stat().st_size == summary["model_file_bytes"]
    assert (folder / "folded.safetensors").stat().st_size == summary["folded_file_bytes"]


def test_the_folded_file_holds_each_tensor_once_and_no_plan(finished):
    folder, _ = finished
    with safe_open(folder / "folded.safetensors", framework="pt") as file:
        assert "blocks.1.pointwise.weight" not in file.keys()  # noqa: SIM118
        assert file.metadata()["blocks.1.pointwise.weight"] == "blocks.0.pointwise.weight"
        assert json.loads(file.metadata()["weightshare"])["plans"] == []
    model = load(folder / "folded.safetensors", build("convmixer:16/4/2/3", in_channels=1, classes=10))
    assert model.blocks[0].depthwise.weight is model.blocks[3].depthwise.weight
    assert torch.equal(tensors(folder / "folded.safetensors")["head.bias"], model.head.bias)


def test_the_card_of_the_folded_file_says_what_the_summary_says(finished):
    folder, summary = finished
    card = (folder / "folded.md").read_text(encoding="utf-8")
    assert f"| accuracy on 360 test images | {summary['folded_accuracy']:.2%} |" in card
    assert f"| bytes on disk | {summary['folded_file_bytes']:,} |" in card
    assert f"| multiply-accumulates of one input | {summary['macs']:,} |" in card
    assert "model = build('convmixer:16/4/2/3', in_channels=1, classes=10, size=(8, 8))" in card


def test_a_finished_run_is_read_and_not_repeated(finished):
    folder, summary = finished
    said = []
    assert run(config(folder), echo=said.append) == summary
    assert said == [f"'{folder}' is finished already: nothing to do."]


def test_a_directory_of_another_run_is_refused(finished):
    folder, _ = finished
    with pytest.raises(TrainingError, match="holds another run"):
        run(config(folder, seed=1))


def test_the_trained_model_comes_back_shared(finished):
    folder, summary = finished
    model, data = trained(folder)
    assert model.blocks[2].pointwise.weight is model.blocks[3].pointwise.weight
    model.eval()
    images, labels = data.test[:]
    right = (model(images).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(summary["accuracy"])


def test_the_page_stands_alone_and_can_be_made_again(finished):
    folder, summary = finished
    page = (folder / "report.html").read_text()
    assert f"{summary['stored']:,}" in page
    assert page.count("<svg") == 4
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert "<script" not in page
    rewrite_page(folder)
    assert (folder / "report.html").read_text() == page


def test_a_network_that_shares_nothing_runs_too_and_can_be_started_from(tmp_path):
    plain = run(config(tmp_path / "plain", share=[]))
    assert plain["stored"] == plain["stored_before"] == plain["logical"]
    assert "Nothing: every layer stores its own weights." in (tmp_path / "plain" / "report.html").read_text()
    init = str(tmp_path / "plain" / "model.safetensors")
    fused = run(config(tmp_path / "fused", init=init))
    assert fused["stored"] < plain["stored"]


def test_what_is_no_finished_run_says_so(tmp_path):
    with pytest.raises(ConfigError, match="is no run directory"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text(config(tmp_path).to_yaml())
    with pytest.raises(TrainingError, match="not finished"):
        trained(tmp_path)
    with pytest.raises(TrainingError, match="not finished"):
        rewrite_page(tmp_path)


@pytest.mark.parametrize(
    "name", ["summary.json", "metrics.jsonl", "environment.json", "config.yaml", "model.safetensors"]
)
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1", b"\xff\xfe", None], ids=["empty", "{}", "cut", "no text", "deleted"]
)
def test_a_damaged_directory_is_said_to_be(finished, tmp_path, name, content):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(SharingError, match=rf"{name}|not finished|not match|model|damaged"):
        rewrite_page(folder)


def test_the_page_does_not_trust_a_plan_beside_the_model(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    (folder / "plan.json").unlink()
    rewrite_page(folder)
    assert "Nothing: every layer" not in (folder / "report.html").read_text()


def test_a_run_directory_may_be_moved(finished, tmp_path):
    folder, summary = finished
    shutil.copytree(folder, tmp_path / "moved")
    assert run(config(tmp_path / "moved")) == summary


def test_options_of_the_model_win_over_those_of_the_data(tmp_path):
    with pytest.raises(TrainingError, match=r"gives \(2, 7\)"):
        run(config(tmp_path, model_args={"classes": 7}))


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="device='tpu'"):
        run(config(tmp_path, device="tpu"))


def test_a_folder_in_which_nothing_was_kept_holds_no_run(tmp_path):
    hopeless = config(tmp_path, train=Recipe(epochs=1, lr=1e30))
    with pytest.raises(TrainingError, match=r"Nothing was kept\. Lower train\.lr"):
        run(hopeless)
    assert run(config(tmp_path, train=Recipe(epochs=1)))["accuracy"] > 0
    with pytest.raises(TrainingError, match=r"holds another run: train\.lr is 0\.01 there and 1e\+30 here"):
        run(hopeless)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("precision: 32-true", "precision: bf16-mixed", "config.precision is '32-true' there and 'bf16-mixed' here"),
        ("model_args: {}", "model_args: {activation: null}", "config.model_args.activation"),
        ("seed: 0", "seed: 7", "seed is 0 there and 7 here"),
    ],
)
def test_a_run_does_not_go_on_as_another_one(finished, tmp_path, before, after, said):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    (folder / "summary.json").unlink()
    text = (folder / "config.yaml").read_text()
    assert before in text
    (folder / "config.yaml").write_text(text.replace(before, after))
    with pytest.raises(SharingError, match=re.escape(said) + "|Cannot build"):
        run(replace(read_config(folder), out=str(folder)))


def test_a_run_does_not_go_on_with_other_labels(finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    (folder / "summary.json").unlink()
    digits = load_data("digits")
    train = replace(digits.train, labels=9 - digits.train.labels)
    monkeypatch.setattr(training_run, "load_data", lambda *_: replace(digits, train=train))
    with pytest.raises(TrainingError, match="another run: labels is"):
        run(config(folder))


def test_a_run_that_is_ended_between_two_epochs_is_finished_and_says_so(tmp_path):
    seen = []

    def after_two(history):
        seen.append(len(history))
        return len(history) == 2

    settings = config(tmp_path / "run", train=Recipe(epochs=5))
    summary = run(settings, on_epoch=after_two)
    assert seen == [1, 2]
    assert (summary["epochs"], summary["stopped_early"]) == (2, True)
    assert run(settings) == summary
    assert "after 2 epochs of 5: stopped early" in (tmp_path / "run" / "report.html").read_text()
    model, _ = trained(tmp_path / "run")
    assert model.blocks[2].pointwise.weight is model.blocks[3].pointwise.weight


def test_a_run_that_goes_on_is_asked_again_whether_to_end_where_it_stopped(tmp_path):
    settings = config(tmp_path / "run", train=Recipe(epochs=3))

    class Killed(BaseException):
        pass

    def killed(history):
        raise Killed

    with pytest.raises(Killed):
        run(settings, on_epoch=killed)
    summary = run(settings, on_epoch=lambda history: len(history) == 1)
    assert (summary["epochs"], summary["stopped_early"]) == (1, True)
