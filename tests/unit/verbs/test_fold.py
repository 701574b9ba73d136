"""`fold`: a plain module with equal outputs and no trace of this library."""

from collections.abc import Callable
import copy

import pytest
from torch import nn

from tests.support import bits, output, state
from tests.zoo import SHAREABLE, Case, chain, tied_embedding
import weightshare as ws


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_outputs_ties_and_classes_stay(make: Callable[[], Case]) -> None:
    model, example = make()
    classes = [type(module) for module in model.modules()]
    ws.share_(model, ws.Tie(rate=2, order=ws.strided, fuse=ws.mean))
    folded = ws.fold(model)
    assert bits(output(folded, example)) == bits(output(model, example))
    assert [type(module).__qualname__ for module in folded.modules()] == [cls.__qualname__ for cls in classes]
    assert ws.report(folded).stored == ws.report(model).stored
    assert list(folded.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_no_trace_of_ours(make: Callable[[], Case]) -> None:
    model, _ = make()
    ws.share_(model, ws.Tie(rate=2))
    folded = ws.fold(model)
    held = [value for module in folded.modules() for value in vars(module).values()]
    assert not [module for module in folded.modules() if "weightshare" in type(module).__module__]
    assert not [key for module in folded.modules() for key in vars(module) if "weightshare" in key]
    assert not [value for value in held if "weightshare" in type(value).__module__]


def test_the_model_is_not_changed() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    before = state(model)
    ws.fold(model)
    assert state(model) == before


def test_nothing_is_shared_with_the_model() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    folded = ws.fold(model)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in folded.parameters()}
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in folded.parameters()}


def test_plans_of_parts_go_too() -> None:
    model, _ = chain()
    ws.share_(model.blocks, ws.Tie(rate=2), "*.fc1")
    ws.share_(model, ws.Tie(rate=2), "*.fc2")
    folded = ws.fold(model)
    assert ws.report(folded).groups == ()
    assert folded.blocks[0].fc1.weight is folded.blocks[1].fc1.weight
    assert folded.blocks[4].fc2.bias is folded.blocks[5].fc2.bias


def test_a_model_without_plans_is_copied() -> None:
    model, example = tied_embedding()
    folded = ws.fold(model)
    assert folded.head.weight is folded.embed.weight is not model.embed.weight
    assert bits(output(folded, example)) == bits(output(model, example))


def test_a_deep_copy_keeps_its_plan_and_its_ties() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    again: nn.Module = copy.deepcopy(model)
    assert ws.report(again) == ws.report(model)
    assert all(group.intact for group in ws.report(again).groups)
    ws.unshare_(again)
    assert model.blocks[0].fc1.weight is model.blocks[1].fc1.weight
