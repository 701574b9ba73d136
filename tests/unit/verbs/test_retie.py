"""`retie_`: what was untied without a word is tied again, or refused."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.support import bits, output, state
from tests.zoo import SHAREABLE, Case, chain
import weightshare as ws
from weightshare.errors import ModelChanged

ALIASES = [f"blocks.{index}.fc1.weight" for index in (1, 3, 5)]


def shared_chain() -> Case:
    case = chain()
    ws.share_(case.model, ws.Tie(rate=2), "*.fc1.weight")
    return case


def give_everyone_a_copy(model: nn.Module) -> None:
    """What `to_empty()` does, but with numbers: every name gets a tensor of its own."""
    for name, tensor in list(model.named_parameters(remove_duplicate=False)):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Parameter(tensor.detach().clone()))


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_after_every_name_got_a_copy(make: Callable[[], Case]) -> None:
    model, example = make()
    plan = ws.share_(model, ws.Tie(rate=2, fuse=ws.mean))
    before = output(model, example)
    give_everyone_a_copy(model)
    assert not any(group.intact for group in ws.report(model).groups)
    assert sorted(ws.retie_(model)) == sorted(path for tie in plan.ties for path in tie[1:])
    assert all(group.intact for group in ws.report(model).groups)
    assert bits(output(model, example)) == bits(before)


def test_after_to_empty() -> None:
    model, example = shared_chain()
    before, weights = output(model, example), {k: v.clone() for k, v in model.state_dict().items()}
    model.to("meta").to_empty(device="cpu")
    assert not ws.report(model).groups[0].intact
    assert ws.retie_(model, compare=False) == ALIASES
    model.load_state_dict(weights)
    assert ws.report(model).groups[0].intact
    assert bits(output(model, example)) == bits(before)


def test_on_the_meta_device() -> None:
    model, _ = shared_chain()
    model.to("meta")
    assert ws.retie_(model) == ALIASES
    assert model.blocks[0].fc1.weight is model.blocks[1].fc1.weight


def test_ties_that_hold_are_left_alone() -> None:
    model, _ = shared_chain()
    before = state(model)
    assert ws.retie_(model) == []
    assert state(model) == before


def test_a_part_is_named_from_the_root() -> None:
    model, _ = chain()
    ws.share_(model.blocks, ws.Tie(rate=2), "*.fc1.weight")
    give_everyone_a_copy(model)
    assert ws.retie_(model) == ALIASES


def test_copies_that_differ_are_refused() -> None:
    model, _ = shared_chain()
    give_everyone_a_copy(model)
    model.blocks[3].fc1.weight.data[0, 0] += 1
    before = state(model)
    with pytest.raises(ModelChanged, match=r"'blocks\.3\.fc1\.weight' to 'blocks\.2\.fc1\.weight'.*different numbers"):
        ws.retie_(model)
    assert state(model) == before


def test_a_failure_in_a_later_plan_undoes_the_earlier_ones() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.fc1")
    ws.share_(model, ws.Tie(rate=2), "*.fc2")
    give_everyone_a_copy(model)
    model.blocks[5].fc2.bias.data[0] += 1
    before = state(model)
    with pytest.raises(ModelChanged, match="different numbers"):
        ws.retie_(model)
    assert state(model) == before


def test_without_comparing_the_first_readers_numbers_stay() -> None:
    model, _ = shared_chain()
    give_everyone_a_copy(model)
    kept = bits(model.blocks[2].fc1.weight)
    model.blocks[3].fc1.weight.data[0, 0] += 1
    ws.retie_(model, compare=False)
    assert bits(model.blocks[3].fc1.weight) == kept


def test_a_layer_of_another_shape_is_refused() -> None:
    model, _ = shared_chain()
    model.blocks[1].fc1 = nn.Linear(5, 13)
    before = state(model)
    with pytest.raises(ModelChanged, match=r"'blocks\.1\.fc1\.weight'.*got \(13, 5\).*slot holds \(7, 5\)"):
        ws.retie_(model, compare=False)
    assert state(model) == before


def test_loading_without_assign_keeps_the_ties() -> None:
    model, _ = shared_chain()
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert ws.report(model).groups[0].intact


@pytest.mark.parametrize("verb", [ws.fold, lambda model: ws.save(model, "never-written.safetensors")])
def test_verbs_that_need_the_ties_refuse_a_model_without(verb: Callable[[nn.Module], object]) -> None:
    model, _ = shared_chain()
    give_everyone_a_copy(model)
    before = state(model)
    with pytest.raises(ModelChanged, match=r"were one parameter and no longer are.*retie_"):
        verb(model)
    assert state(model) == before


def test_a_model_without_plans_has_nothing_to_tie() -> None:
    assert ws.retie_(torch.nn.Linear(2, 3)) == []
