"""`weightshare inspect`: any model by name, file or folder; errors that name what is near."""

import json

import pytest
import torch
from torch import nn

from tests.unit.cli.test_cli import call
from weightshare.errors import ConfigError
from weightshare.models.by_name import build
from weightshare.training.opened import input_of

NET = """
import torch
from torch import nn
{start}

def build(depth=4, broken=False):
    if broken:
        nn.Linear(3)
    return nn.Sequential(*(nn.Linear(5, 5) for _ in range(depth)))
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net_of_mine.py"
    path.write_text(NET.format(start=""))
    return path


def test_a_function_of_a_file_is_inspected(net, capsys, tmp_path):
    out = tmp_path / "net.html", tmp_path / "net.json"
    arguments = ["--model-arg", "depth=6", "--page", str(out[0]), "--json", str(out[1])]
    assert call("inspect", f"{net}:build", *arguments) == 0
    text = capsys.readouterr().out
    assert "Sequential stores 180 numbers, 100.0% of them in layers that are equal." in text
    assert f"$ weightshare plan {net}:build --model-arg depth=6 --rate 2 --fuse mean --where '*'" in text
    assert f"Page: {out[0]}" in text
    assert "<title>" in out[0].read_text()
    found = json.loads(out[1].read_text())
    assert [c["stored"] for c in found["choices"] if c["code"] == "ws.Tie(rate=3, fuse=ws.mean)"] == [60]


def test_what_it_proposes_is_a_command_that_runs(net, capsys):
    assert call("inspect", f"{net}:build") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("$ weightshare plan"))
    assert call(*line.replace("'", "").split()[2:]) == 0
    assert "whole model" in capsys.readouterr().out


def test_the_same_is_said_twice(net, capsys):
    texts = []
    for _ in range(2):
        assert call("inspect", f"{net}:build") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_data_and_input_are_taken(capsys):
    assert call("inspect", "convmixer:8/3/2/3", "--data", "digits") == 0
    assert "What blocks give on the batches that were given" in capsys.readouterr().out
    assert call("inspect", "convmixer:8/3/2/3", "--input", "3x8x10") == 0
    assert "ws.localize_" in capsys.readouterr().out


def test_a_run_directory_is_inspected(capsys, tmp_path):
    run = str(tmp_path / "run")
    options = ["--rate", "2", "--where", "blocks.*.pointwise", "--epochs", "1", "--device", "cpu", "--out", run]
    assert call("train", "convmixer:8/4/2/3", *options) == 0
    capsys.readouterr()
    assert call("inspect", run) == 0
    text = capsys.readouterr().out
    assert "tied by a plan" in text
    assert "$ weightshare plan" not in text


def test_counts_alone_take_no_memory(capsys):
    huge = ["--model-arg", "in_features=1000000", "--model-arg", "out_features=1000000"]
    assert call("inspect", "torch.nn:Linear", *huge, "--meta") == 0
    assert "Linear stores 1,000,001,000,000 numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:vit_tiny_patch16_22", "Nearest: vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224", "Is timm:vit_tiny_patch16_224 meant?"),
        ("convmixr:8/3/2/3", "Is convmixer: meant?"),
        ("resnet20", "Give sizes, such as resnet20:16/32/64."),
        ("torch.nn:Linaer", "nearest: Linear"),
        ("no_such_file.py:build", "there is no file 'no_such_file.py'"),
    ],
)
def test_unknown_names_have_the_nearest(name, said, capsys):
    assert call("inspect", name) == 1
    assert said in capsys.readouterr().err


def test_errors_of_a_model_name_its_line(net, capsys):
    assert call("inspect", f"{net}:build", "--model-arg", "broken=true") == 1
    assert f"({net}, line 8: nn.Linear(3))" in capsys.readouterr().err
    net.write_text(NET.format(start="1 / 0"))
    assert call("inspect", f"{net}:build") == 1
    assert f"ZeroDivisionError: division by zero ({net}, line 4: 1 / 0)" in capsys.readouterr().err
    net.write_text(NET.format(start="def"))
    assert call("inspect", f"{net}:build") == 1
    assert f"({net}, line 4)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["3x8xy", "", "3x0x8", "8:float", "3x8,"])
def test_inputs_are_checked(text, capsys):
    assert call("inspect", "convmixer:8/3/2/3", "--input", text) == 1
    assert "need the shape of one example, such as 3x224x224" in capsys.readouterr().err


def test_an_input_that_a_model_does_not_take_is_told_with_its_error(capsys):
    assert call("inspect", "convmixer:8/3/2/3", "--input", "4x8x8") == 0
    text = capsys.readouterr().out
    assert "Not run: ConvMixer did not run on the example input, 1×4×8×8: RuntimeError: " in text
    assert "3 × Block" in text


def test_inputs_of_several_shapes():
    net = nn.Linear(2, 3).bfloat16()
    assert input_of(None, net) is None
    one, two = input_of("3x5,7:int", net)
    assert (one.shape, one.dtype, two.shape, two.dtype) == ((1, 3, 5), torch.bfloat16, (1, 7), torch.int64)
    named = input_of("image=3x5, ids=7:int", net)
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == {"image": (1, 3, 5), "ids": (1, 7)}
    for text in ("image=3x5,7", "a=3,a=3"):
        with pytest.raises(ConfigError, match="name each shape once, or none"):
            input_of(text, net)


SMALL = {
    "hidden_size": 20,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 14,
    "vocab_size": 101,
}


def test_transformers_are_built_by_kind_class_and_folder(tmp_path, capsys):
    pytest.importorskip("transformers")
    options = [part for key, value in SMALL.items() for part in ("--model-arg", f"{key}={value}")]
    assert call("inspect", "transformers:bert", *options) == 0
    assert "BertModel stores" in capsys.readouterr().out
    model = build("transformers:BertForMaskedLM", **SMALL)
    model.save_pretrained(tmp_path / "bert")
    again = build(f"transformers:{tmp_path / 'bert'}")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    (tmp_path / "bert" / "model.safetensors").unlink()
    assert call("inspect", str(tmp_path / "bert")) == 0
    text = capsys.readouterr().out
    assert "BertForMaskedLM stores" in text
    assert "cls.predictions.decoder.weight" in text
    (tmp_path / "empty").mkdir()
    assert call("inspect", str(tmp_path / "empty")) == 1
    assert "has no config.json" in capsys.readouterr().err


def test_a_network_of_torchvision_is_a_callable():
    assert isinstance(build("torchvision.models:resnet18"), nn.Module)


def test_blocks_with_names_are_found_by_inspect_and_by_plan(capsys):
    assert call("inspect", "torchvision.models:vit_b_16", "--meta") == 0
    text = capsys.readouterr().out
    assert "encoder.layers.encoder_layer_*   12 × EncoderBlock" in text
    (line,) = (line for line in text.splitlines() if line.strip().startswith("$ weightshare plan"))
    assert call(*line.replace("'", "").split()[2:]) == 0
    assert "0–11" in capsys.readouterr().out


def test_an_option_that_transformers_would_pass_over_is_refused(capsys):
    small = [f"--model-arg={key}" for key in ("hidden_size=32", "num_attention_heads=2", "vocab_size=50")]
    assert call("inspect", "transformers:bert", "--meta", *small, "--model-arg", "num_hidden_layer=3") == 1
    told = capsys.readouterr().err
    assert "BertConfig has no option 'num_hidden_layer'" in told
    assert "num_hidden_layers" in told
    assert call("inspect", "transformers:bert", "--meta", *small, "--model-arg", "num_hidden_layers=3") == 0
    assert "3 × BertLayer" in capsys.readouterr().out


def test_a_page_and_json_of_one_name_are_refused(capsys, tmp_path):
    name = str(tmp_path / "found")
    assert call("inspect", "convmixer:8/2/1/3", "--page", name, "--json", name) == 1
    assert "one would be written over the other" in capsys.readouterr().err
