"""Files of ours and of others as state dicts: torch and safetensors read ours without this library."""

from pathlib import Path

from safetensors.torch import load_file, load_model, save_model
import torch

from tests.support import bits, output, same_bits
from tests.zoo import chain, tied_embedding
import weightshare as ws


def test_a_state_dict_with_every_name(tmp_path: Path) -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2, fuse=ws.mean))
    ws.save(model, tmp_path / "m.safetensors")
    held = ws.tensors(tmp_path / "m.safetensors")
    assert set(held) == set(model.state_dict())
    assert same_bits((held[name] for name in model.state_dict()), model.state_dict().values())
    assert held["blocks.1.fc1.weight"] is held["blocks.0.fc1.weight"]


def test_torch_loads_it(tmp_path: Path) -> None:
    model, example = chain()
    ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m.safetensors")
    plain, _ = chain()
    plain.load_state_dict(ws.tensors(tmp_path / "m.safetensors"))
    assert bits(output(plain, example)) == bits(output(model, example))


def test_safetensors_alone_reads_the_owners(tmp_path: Path) -> None:
    model, _ = chain()
    plan = ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m.safetensors")
    held = load_file(tmp_path / "m.safetensors")
    assert set(held) == set(model.state_dict()) - {path for tie in plan.ties for path in tie[1:]}


def test_load_model_of_safetensors_reads_it_into_a_tied_model(tmp_path: Path) -> None:
    model, example = tied_embedding()
    ws.share_(model, ws.Tie(rate=2, fuse=ws.mean))
    ws.save(ws.fold(model), tmp_path / "m.safetensors")
    other, _ = tied_embedding()
    ws.share_(other, ws.Tie(rate=2))
    tied = ws.fold(other)
    missing, unexpected = load_model(tied, tmp_path / "m.safetensors")
    assert (set(missing), set(unexpected)) == (set(), set())
    assert bits(output(tied, example)) == bits(output(model, example))
    assert tied.layers[0].fc1.weight is tied.layers[1].fc1.weight


def test_aliases_of_save_model_are_resolved(tmp_path: Path) -> None:
    model, _ = tied_embedding()
    save_model(model, str(tmp_path / "m.safetensors"))
    held = ws.tensors(tmp_path / "m.safetensors")
    assert set(held) == set(model.state_dict())
    assert torch.equal(held["head.weight"], model.embed.weight)
