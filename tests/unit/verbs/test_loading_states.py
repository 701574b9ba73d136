"""`load_state_dict` of a shared model: ties hold afterwards by themselves, and no number is lost without a word."""

from collections.abc import Callable
import copy
import io

import pytest
import torch
from torch import Tensor, nn

from tests.support import bits, output, state
from tests.zoo import SHAREABLE, Case, chain
import weightshare as ws
from weightshare.errors import ModelChanged


def shared() -> Case:
    case = chain()
    ws.share_(case.model, ws.Tie(rate=2), "*.fc1.weight")
    return case


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_assign_keeps_the_ties(make: Callable[[], Case]) -> None:
    model, example = make()
    ws.share_(model, ws.Tie(rate=2, fuse=ws.mean))
    before = output(model, example)
    model.load_state_dict(copies(model), assign=True)
    assert all(group.intact for group in ws.report(model).groups)
    assert bits(output(model, example)) == bits(before)


def test_a_model_from_meta_is_tied_again() -> None:
    model, example = shared()
    before, numbers = output(model, example), copies(model)
    model.to("meta").to_empty(device="cpu").load_state_dict(numbers)
    assert ws.report(model).groups[0].intact
    assert bits(output(model, example)) == bits(before)


def test_a_state_with_each_slot_once_is_completed() -> None:
    model, example = shared()
    before = output(model, example)
    numbers = copies(model)
    for name in ("blocks.1.fc1.weight", "blocks.2.fc1.weight"):  # an alias, and an owner whose alias is there
        del numbers[name]
    fresh, _ = shared()
    assert fresh.load_state_dict(numbers, strict=True).missing_keys == []
    assert bits(output(fresh, example)) == bits(before)
    assert "blocks.1.fc1.weight" not in numbers


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_with_two_values_for_a_slot_is_refused_before_anything_is_changed(assign: bool) -> None:
    model, _ = shared()
    numbers = copies(model)
    numbers["stem.weight"] += 1
    numbers["blocks.3.fc1.weight"][0, 0] += 1
    before = state(model)
    with pytest.raises(ModelChanged, match=r"'blocks\.2\.fc1\.weight' and 'blocks\.3\.fc1\.weight', which"):
        model.load_state_dict(numbers, assign=assign)
    assert state(model) == before


def test_names_are_those_of_a_model_around_the_shared_one() -> None:
    model, _ = shared()
    whole = nn.ModuleDict({"inner": model})
    numbers = copies(whole)
    del numbers["inner.blocks.1.fc1.weight"]
    whole.load_state_dict(numbers, assign=True)
    assert ws.report(whole).groups[0].intact
    numbers["inner.blocks.1.fc1.weight"] = numbers["inner.blocks.0.fc1.weight"] + 1
    with pytest.raises(ModelChanged, match=r"'inner\.blocks\.0\.fc1\.weight' and 'inner\.blocks\.1"):
        whole.load_state_dict(numbers)


def test_an_entry_that_is_no_tensor_or_of_another_shape_is_refused() -> None:
    model, _ = shared()
    for value in (torch.zeros(2, 3), "text", copies(model)["blocks.1.fc1.weight"].double()):
        with pytest.raises(ModelChanged, match="different numbers"):
            model.load_state_dict(copies(model) | {"blocks.1.fc1.weight": value})


def test_a_tie_that_stays_undone_is_warned_of() -> None:
    model, _ = shared()
    model.blocks[1].fc1.weight = nn.Parameter(torch.zeros(7, 5))
    with pytest.warns(UserWarning, match=r"still undone after loading.*'blocks\.1\.fc1\.weight'"):
        model.load_state_dict({"stem.bias": torch.zeros(5)}, strict=False)


@pytest.mark.parametrize(
    "twin",
    [
        copy.deepcopy,
        lambda model: torch.load(_pickled(model), weights_only=False),
    ],
    ids=["deepcopy", "pickle"],
)
def test_copies_keep_their_own_ties(twin: Callable[[nn.Module], nn.Module]) -> None:
    model, _ = shared()
    made = twin(model)
    made.load_state_dict(copies(made), assign=True)
    assert ws.report(made).groups[0].intact
    ws.unshare_(made)
    assert not made._load_state_dict_pre_hooks
    assert len(model._load_state_dict_pre_hooks) == 1


def _pickled(model: nn.Module) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return stream


def test_loading_a_file_of_ours_watches_later_loads(tmp_path: object) -> None:
    model, _ = shared()
    ws.save(model, f"{tmp_path}/m.safetensors")
    fresh = ws.load(f"{tmp_path}/m.safetensors", chain().model)
    fresh.load_state_dict(copies(fresh), assign=True)
    assert ws.report(fresh).groups[0].intact


def test_hooks_of_others_stay_in_their_order() -> None:
    model, _ = shared()
    model.register_load_state_dict_post_hook(lambda module, keys: None)
    ws.share_(model, ws.Tie(rate=2), "*.fc2.weight")
    assert len(model._load_state_dict_post_hooks) == 2
    ws.unshare_(model)
    assert len(model._load_state_dict_post_hooks) == 1
    assert not model._load_state_dict_pre_hooks


def test_a_part_that_was_shared_alone_is_watched_no_more_after_unshare() -> None:
    model = nn.ModuleDict({"part": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))})
    part = model["part"]
    ws.share_(part, ws.Tie(rate=2))
    assert part._load_state_dict_pre_hooks
    ws.unshare_(model)
    assert not part._load_state_dict_pre_hooks
    assert not part._load_state_dict_post_hooks
