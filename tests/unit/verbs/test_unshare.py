"""`unshare_`: equal outputs, parameters of their own; the ties of others stay."""

from collections.abc import Callable

import pytest
import torch

from tests.support import bits, output, state
from tests.zoo import SHAREABLE, Case, chain, tied_embedding
import weightshare as ws
from weightshare.depth.transform import LoRA
from weightshare.errors import ModelChanged, OptimizerMismatch


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_outputs_stay_and_parameters_part(make: Callable[[], Case]) -> None:
    model, example = make()
    names = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    plan = ws.share_(model, ws.Tie(rate=2, order=ws.strided, fuse=ws.mean))
    before = output(model, example)
    ws.unshare_(model)
    assert bits(output(model, example)) == bits(before)
    after = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    assert len(set(after.values())) == len(set(names.values()))
    assert len({model.get_parameter(path).data_ptr() for tie in plan.ties for path in tie}) == sum(
        len(tie) for tie in plan.ties
    )


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_no_trace_is_left(make: Callable[[], Case]) -> None:
    model, _ = make()
    ws.share_(model, ws.Tie(rate=2))
    ws.unshare_(model)
    assert ws.report(model).groups == ()
    assert not [key for module in model.modules() for key in vars(module) if "weightshare" in key]


def test_the_first_reader_keeps_the_object() -> None:
    model, _ = chain()
    owner = model.blocks[0].fc1.weight
    ws.share_(model, ws.Tie(rate=3))
    ws.unshare_(model)
    assert model.blocks[0].fc1.weight is owner


def test_a_step_on_one_does_not_move_the_other() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    ws.unshare_(model)
    first, second = model.blocks[0].fc1.weight, model.blocks[1].fc1.weight
    before = second.clone()
    first.grad = torch.ones_like(first)
    torch.optim.SGD([first], lr=0.1).step()
    assert torch.equal(second, before)
    assert not torch.equal(first, before)


def test_several_plans_and_parts_are_all_undone() -> None:
    model, _ = chain()
    ws.share_(model.blocks, ws.Tie(rate=2), "*.fc1")
    ws.share_(model, ws.Tie(rate=3, order=ws.strided), "*.fc2")
    ws.unshare_(model)
    assert len({id(parameter) for parameter in model.parameters()}) == 4 + 6 * 6


def test_an_embedding_stays_tied_to_its_head() -> None:
    model, _ = tied_embedding()
    ws.share_(model, ws.Tie(rate=2))
    ws.unshare_(model)
    assert model.embed.weight is model.head.weight


def test_a_model_without_plans_is_left_as_it_is() -> None:
    model, _ = tied_embedding()
    before = state(model)
    ws.unshare_(model)
    assert state(model) == before


def test_a_failure_changes_nothing() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.fc1")
    ws.share_(model, ws.Tie(rate=2), "*.fc2")
    del model.blocks[5].fc1
    before = state(model)
    with pytest.raises(ModelChanged, match=r"no parameter 'blocks\.5\.fc1"):
        ws.unshare_(model)
    assert state(model) == before


def test_an_optimizer_of_the_shared_model_is_refused_afterwards() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.unshare_(model)
    with pytest.raises(OptimizerMismatch, match=r"blocks\.1\.fc1\.weight"):
        ws.check(optimizer, model)


def test_hooks_of_generated_weights_go_with_them() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2, own=LoRA(1)))
    held = [name for name in vars(model) if name.startswith("_weightshare_pass_")]
    assert len(held) == len(model._forward_pre_hooks) == len(model._forward_hooks) > 0
    ws.unshare_(model)
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert not any(name.startswith("_weightshare_pass_") for name in vars(model))
