"""`param_groups`: each slot once, decay on weights only, nothing frozen."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.zoo import SHAREABLE, Case, chain, tied_embedding
import weightshare as ws


@pytest.mark.parametrize("make", SHAREABLE.values())
@pytest.mark.parametrize("rate", [1, 2])
def test_every_parameter_once(make: Callable[[], Case], rate: int) -> None:
    model, _ = make()
    ws.share_(model, ws.Tie(rate=rate))
    held = [id(tensor) for group in ws.param_groups(model, weight_decay=0.1) for tensor in group["params"]]
    assert sorted(held) == sorted(id(tensor) for tensor in model.parameters())


def test_biases_and_norms_have_no_decay() -> None:
    model, _ = chain(depth=2)
    decayed, plain = ws.param_groups(model, weight_decay=0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert decayed["param_names"] == [
        "stem.weight",
        *(f"blocks.{index}.{name}.weight" for index in (0, 1) for name in ("fc1", "fc2")),
        "head.weight",
    ]
    assert {tensor.ndim for tensor in plain["params"]} == {1}


def test_names_are_those_of_the_tensors() -> None:
    model, _ = tied_embedding()
    for group in ws.param_groups(model, weight_decay=0.1):
        assert all(
            model.get_parameter(name) is tensor
            for name, tensor in zip(group["param_names"], group["params"], strict=True)
        )


def test_frozen_parameters_are_left_out() -> None:
    model, _ = chain(depth=2)
    model.blocks.requires_grad_(False)
    names = [name for group in ws.param_groups(model, weight_decay=0.1) for name in group["param_names"]]
    assert names == ["stem.weight", "head.weight", "stem.bias", "head.bias"]


def test_no_group_is_empty() -> None:
    (group,) = ws.param_groups(nn.Linear(2, 3, bias=False), weight_decay=0.1)
    assert group["weight_decay"] == 0.1
    (group,) = ws.param_groups(nn.LayerNorm(3), weight_decay=0.1)
    assert group["weight_decay"] == 0.0


def test_a_slot_gets_the_sum_of_its_readers_gradients() -> None:
    model, example = chain()
    alone = [nn.Parameter(model.blocks[0].fc1.bias.detach().clone()) for _ in range(3)]
    ws.share_(model, ws.Tie(slots=[0, 0, 0, 1, 1, 1]), "*.fc1.bias")
    model(example).square().sum().backward()
    shared = model.blocks[0].fc1.bias.grad
    ws.unshare_(model)
    for block, bias in zip(model.blocks, alone, strict=False):
        block.fc1.bias = bias
    model.zero_grad()
    model(example).square().sum().backward()
    torch.testing.assert_close(shared, sum(bias.grad for bias in alone))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_takes_them(optimizer: type[torch.optim.Optimizer]) -> None:
    model, example = chain()
    ws.share_(model, ws.Tie(rate=2))
    made = optimizer(ws.param_groups(model, weight_decay=0.1), lr=0.1)
    ws.check(made, model)
    model(example).sum().backward()
    made.step()
    assert all(group.intact for group in ws.report(model).groups)


@pytest.mark.parametrize("decay", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_decay_is_a_finite_number_from_zero(decay: object) -> None:
    with pytest.raises(ws.SharingError, match="weight_decay"):
        ws.param_groups(chain().model, weight_decay=decay)


def test_a_frozen_model_has_nothing_to_train() -> None:
    with pytest.raises(ws.SharingError, match="no trainable parameter"):
        ws.param_groups(chain().model.requires_grad_(False), weight_decay=0.1)
