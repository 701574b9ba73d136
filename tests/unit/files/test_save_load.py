"""Save and load: every number, tie and plan comes back; each tensor is stored once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.support import bits, output, same_bits, state
from tests.zoo import SHAREABLE, Case, buffers, chain, recurrent, tied_embedding
import weightshare as ws
from weightshare.errors import FileError


def noisy(make: Callable[[], Case]) -> nn.Module:
    """A model of equal structure and other numbers, buffers included."""
    model = make().model
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(3)
    return model


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_round_trip_into_a_model_that_is_not_shared(make: Callable[[], Case], tmp_path: Path) -> None:
    model, example = make()
    ws.share_(model, ws.Tie(rate=2, order=ws.strided, fuse=ws.mean))
    ws.save(model, tmp_path / "m.safetensors")
    other = noisy(make)
    assert ws.load(tmp_path / "m.safetensors", other) is other
    assert same_bits(other.state_dict().values(), model.state_dict().values())
    assert bits(output(other, example)) == bits(output(model, example))
    assert ws.report(other) == ws.report(model)


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_round_trip_of_a_folded_model(make: Callable[[], Case], tmp_path: Path) -> None:
    model, example = make()
    ws.share_(model, ws.Tie(rate=2, order=ws.strided, fuse=ws.mean))
    ws.save(ws.fold(model), tmp_path / "m.safetensors")
    other = ws.load(tmp_path / "m.safetensors", noisy(make))
    assert bits(output(other, example)) == bits(output(model, example))
    assert ws.report(other).stored == ws.report(model).stored
    assert ws.report(other).groups == ()


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_round_trip_into_a_model_that_is_shared_already(make: Callable[[], Case], tmp_path: Path) -> None:
    model, _ = make()
    plan = ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m.safetensors")
    other = noisy(make)
    plan.apply_(other)
    ws.load(tmp_path / "m.safetensors", other)
    assert same_bits(other.state_dict().values(), model.state_dict().values())
    assert ws.report(other) == ws.report(model)


def test_parameters_stay_the_objects_that_an_optimizer_holds(tmp_path: Path) -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m.safetensors")
    before = [id(parameter) for parameter in model.parameters()]
    ws.load(tmp_path / "m.safetensors", model)
    assert [id(parameter) for parameter in model.parameters()] == before


def test_loading_what_was_saved_changes_nothing(tmp_path: Path) -> None:
    model, _ = buffers()
    ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m.safetensors")
    before = state(model)
    ws.load(tmp_path / "m.safetensors", model)
    assert state(model) == before


def test_saving_does_not_change_the_model(tmp_path: Path) -> None:
    model, _ = recurrent()
    ws.share_(model, ws.Tie(rate=2))
    before = state(model)
    ws.save(model, tmp_path / "m.safetensors")
    assert state(model) == before


def test_aliases_are_flat_in_the_metadata_and_stored_once(tmp_path: Path) -> None:
    model, _ = tied_embedding()
    ws.share_(model, ws.Tie(rate=4), "*.fc1.weight")
    size = ws.save(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        metadata, stored = file.metadata(), set(file.keys())
    aliases = {f"layers.{index}.fc1.weight": "layers.0.fc1.weight" for index in (1, 2, 3)}
    aliases["head.weight"] = "embed.weight"
    assert {name: owner for name, owner in metadata.items() if owner in stored} == aliases
    assert stored == set(model.state_dict()) - set(aliases)
    assert size == (tmp_path / "m.safetensors").stat().st_size


def test_sharing_makes_the_file_smaller(tmp_path: Path) -> None:
    model, _ = chain(depth=12, width=31, hidden=37)
    before = ws.save(model, tmp_path / "m.safetensors")
    plan = ws.share_(model, ws.Tie(rate=2))
    after = ws.save(ws.fold(model), tmp_path / "m.safetensors")
    assert before - after == pytest.approx(plan.bytes_before - plan.bytes_after, rel=0.1)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0),
        torch.empty(0, 3),
        torch.tensor([1, -(2**62)]),
        torch.tensor([True, False]),
        torch.tensor([0.0, -0.0, float("nan"), float("inf")]),
        torch.tensor([1 + 2j]),
        torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12.0)[3:7],
    ],
    ids=["scalar", "empty", "int64", "bool", "odd floats", "complex", "float8", "transposed", "slice"],
)
def test_tensors_of_every_kind(tensor: torch.Tensor, tmp_path: Path) -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    model.register_buffer("odd", tensor)
    other.register_buffer("odd", torch.zeros_like(tensor))
    ws.save(model, tmp_path / "m.safetensors")
    ws.load(tmp_path / "m.safetensors", other)
    assert bits(other.odd) == bits(tensor)


def test_buffers_that_are_not_persistent_are_not_stored(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    model.register_buffer("cache", torch.ones(5), persistent=False)
    ws.save(model, tmp_path / "m.safetensors")
    assert set(ws.tensors(tmp_path / "m.safetensors")) == {"weight", "bias"}


def test_plans_of_parts_come_back(tmp_path: Path) -> None:
    model, _ = chain()
    ws.share_(model.blocks, ws.Tie(rate=2), "*.fc1")
    ws.share_(model, ws.Tie(rate=3, order=ws.strided), "*.fc2")
    ws.save(model, tmp_path / "m.safetensors")
    other = ws.load(tmp_path / "m.safetensors", chain().model)
    assert ws.report(other).groups == ws.report(model).groups
    ws.unshare_(other)
    assert len({id(parameter) for parameter in other.parameters()}) == 4 + 36


def test_loading_mends_ties_that_came_undone(tmp_path: Path) -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m.safetensors")
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    ws.load(tmp_path / "m.safetensors", model)
    assert all(group.intact for group in ws.report(model).groups)


def test_folders_are_made(tmp_path: Path) -> None:
    ws.save(nn.Linear(2, 3), tmp_path / "a" / "b" / "m.safetensors")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["m.safetensors"]


def test_a_name_may_be_text(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    ws.save(model, str(tmp_path / "m.safetensors"))
    assert torch.equal(ws.load(str(tmp_path / "m.safetensors"), nn.Linear(2, 3)).weight, model.weight)


class WithExtra(nn.Linear):
    """A module with state beside its tensors."""

    def __init__(self, extra: object) -> None:
        super().__init__(2, 3)
        self.extra = extra

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, extra: object) -> None:
        self.extra = extra


@pytest.mark.parametrize("extra", [{"steps": 3}, 3, "text", None, [torch.ones(2)]])
def test_extra_state_that_is_no_tensor_is_refused(extra: object, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"Cannot store '_extra_state'.*[Oo]nly "):
        ws.save(WithExtra(extra), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


class Counting(WithExtra):
    """Its extra state is made into a tensor when it is asked for."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor([self.extra])

    def set_extra_state(self, extra: torch.Tensor) -> None:
        self.extra = extra.item()


def test_extra_state_that_is_a_tensor_is_loaded_or_refused(tmp_path: Path) -> None:
    """It must never be dropped in silence."""
    try:
        ws.save(Counting(7), tmp_path / "m.safetensors")
        found = ws.load(tmp_path / "m.safetensors", Counting(3)).extra
    except FileError:
        found = 7
    assert found == 7


@pytest.mark.parametrize("spec", [ws.Tie(rate=2), ws.Templates(2), ws.Codebook(4)])
def test_a_running_average_goes_on_from_its_file(spec: Any, tmp_path: Path) -> None:
    model, x = chain(hidden=67)
    ws.share_(model, spec, "blocks")
    average = AveragedModel(model)
    average.update_parameters(model)
    ws.save(average, tmp_path / "average.safetensors")
    again = ws.load(tmp_path / "average.safetensors", AveragedModel(chain(hidden=67).model))
    assert again.n_averaged == 1
    assert bits(output(again, x)) == bits(output(average, x))
    ws.save(average.module, tmp_path / "module.safetensors")
    alone = ws.load(tmp_path / "module.safetensors", chain(hidden=67).model)
    assert bits(output(alone, x)) == bits(output(average, x))


def test_a_running_average_and_a_model_are_told_apart(tmp_path: Path) -> None:
    model, average = chain().model, AveragedModel(chain().model)
    ws.save(model, tmp_path / "model.safetensors")
    ws.save(average, tmp_path / "average.safetensors")
    with pytest.raises(FileError, match=r"was saved of an AveragedModel.*average\.module; or save that alone"):
        ws.load(tmp_path / "average.safetensors", model)
    with pytest.raises(FileError, match=r"not of an AveragedModel.* Load it into average\.module"):
        ws.load(tmp_path / "model.safetensors", average)
    ws.load(tmp_path / "model.safetensors", average.module)  # as it says
    assert same_bits(average.module.parameters(), model.parameters())
