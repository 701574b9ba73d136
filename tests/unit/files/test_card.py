"""The model card of a folded model: its numbers are the file's, and its code loads the file."""

import re

import torch
from torch import nn

import weightshare as ws
from weightshare.files.card import write_card


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 7), nn.Linear(7, 7), nn.Linear(7, 3))


def code(text):
    (found,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


def test_a_card_says_what_is_stored_and_what_was_shared(tmp_path):
    net = network()
    plan = ws.share_(net, ws.Tie(rate=2), where=["0", "1"])
    small = ws.fold(net)
    size = ws.save(small, tmp_path / "small.safetensors")
    path = write_card(
        small,
        tmp_path / "small.safetensors",
        [plan],
        build="model = network()",
        example_input=torch.zeros(1, 7),
        measured={"accuracy": "12.50%"},
        training={"seed": "5"},
        data="digits",
    )
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "small.md"
    assert text.startswith('---\nlibrary_name: "weightshare"\n')
    stored = 7 * 7 + 7 + 7 * 3 + 3
    rows = ("stored numbers", stored), ("bytes on disk", size), ("multiply-accumulates of one input", 2 * 49 + 21)
    assert all(f"| {name} | {number:,} |" in text for name, number in rows)
    assert "| accuracy | 12.50% |" in text
    assert "| seed | 5 |" in text
    assert str(plan) in text
    assert "tied alike (2 names" in text


def test_the_code_of_a_card_loads_the_file(tmp_path, monkeypatch):
    net = network()
    ws.share_(net, ws.Tie(rate=2), where=["0", "1"])
    small = ws.fold(net)
    ws.save(small, tmp_path / "small.safetensors")
    text = write_card(small, tmp_path / "small.safetensors", build="model = network()").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(code(text), names := {"network": network})
    assert names["model"][0].weight is names["model"][1].weight
    assert torch.equal(names["model"][2].weight, small[2].weight)


def test_a_card_of_few_values_says_how_to_read_them(tmp_path):
    net = nn.Linear(101, 103)
    ws.share_(net, ws.Codebook(clusters=4))
    small = ws.fold(net)
    ws.save(small, tmp_path / "few.safetensors")
    text = write_card(small, tmp_path / "few.safetensors").read_text(encoding="utf-8")
    assert "1 of its tensors are stored as few values" in text
    assert "load_model" not in text
