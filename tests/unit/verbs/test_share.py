"""`share_` is `plan` and `apply_`; sharing a part of a model is sharing it there."""

import torch

from tests.support import state
from tests.zoo import chain
import weightshare as ws


def test_it_returns_the_plan_that_it_applied() -> None:
    model, _ = chain()
    expected = ws.plan(model, ws.Tie(rate=2), "blocks")
    assert ws.share_(model, ws.Tie(rate=2), "blocks") == expected
    assert [group.intact for group in ws.report(model).groups] == [True] * 6


def test_rate_one_ties_nothing() -> None:
    model, _ = chain()
    before = [id(parameter) for parameter in model.parameters()]
    ws.share_(model, ws.Tie(rate=1))
    assert [id(parameter) for parameter in model.parameters()] == before


def test_a_part_of_a_model_can_be_shared_alone() -> None:
    model, _ = chain()
    ws.share_(model.blocks, ws.Tie(rate=2), "*.fc1.weight")
    (group,) = ws.report(model).groups
    assert (group.name, group.intact) == ("blocks.*.fc1.weight", True)
    ws.unshare_(model)
    assert model.blocks[0].fc1.weight is not model.blocks[1].fc1.weight


def test_a_training_step_moves_every_reader() -> None:
    model, example = chain()
    ws.share_(model, ws.Tie(rate=3))
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.0), lr=0.1)
    before = model.blocks[2].fc1.weight.clone()
    model(example).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.blocks[2].fc1.weight, before)
    assert model.blocks[2].fc1.weight is model.blocks[0].fc1.weight


def test_what_remains_on_the_model_are_two_attributes_of_the_root() -> None:
    model, _ = chain()
    before = {key for _, module in model.named_modules() for key in vars(module)}
    ws.share_(model, ws.Tie(rate=2))
    after = {key for _, module in model.named_modules() for key in vars(module)}
    assert after - before == {"_weightshare_plans", "_weightshare_hooks"}
    ws.unshare_(model)
    assert {key for _, module in model.named_modules() for key in vars(module)} == before


def test_the_state_dict_has_the_same_names_as_before() -> None:
    model, _ = chain()
    before = list(model.state_dict())
    ws.share_(model, ws.Tie(rate=2))
    assert list(model.state_dict()) == before


def test_sharing_draws_no_random_numbers() -> None:
    model, _ = chain()
    before = torch.get_rng_state()
    ws.share_(model, ws.Tie(rate=2, order=ws.random(seed=3), fuse=ws.mean))
    assert torch.equal(torch.get_rng_state(), before)


def test_unsharing_twice_is_unsharing_once() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2))
    ws.unshare_(model)
    before = state(model)
    ws.unshare_(model)
    assert state(model) == before
