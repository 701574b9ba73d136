"""Our ConvMixer: shapes, options and refused sizes."""

from jaxtyping import config
import pytest
import torch
from torch import nn

import weightshare as ws


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_it_gives_one_number_for_each_class(kernel: int) -> None:
    model = ws.models.convmixer(7, 3, 2, kernel, classes=11, in_channels=1)
    assert model(torch.randn(2, 1, 10, 14)).shape == (2, 11)


def test_blocks_do_not_change_the_shape() -> None:
    model = ws.models.convmixer(7, 3, 2, 5)
    x = torch.randn(2, 7, 5, 3)
    assert model.blocks(x).shape == x.shape


def test_options() -> None:
    model = ws.models.convmixer(7, 3, 2, 5, activation=nn.ReLU, dropout=0.5)
    assert model.dropout.p == 0.5
    assert {type(block.activation) for block in model.blocks} == {nn.ReLU}


def test_activations_have_names_that_a_configuration_can_hold() -> None:
    model = ws.models.convmixer(7, 3, 2, 5, activation="relu")
    assert {type(module.activation) for module in (model, *model.blocks)} == {nn.ReLU}


def test_an_unknown_activation_is_refused() -> None:
    config.update("jaxtyping_disable", True)  # as it is for users: in tests, annotations are checked first
    try:
        with pytest.raises(ws.SharingError, match=r"activation='swish'\): need a class or one of gelu, relu"):
            ws.models.convmixer(7, 3, 2, 5, activation="swish")
    finally:
        config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", ["dim", "depth", "patch", "kernel", "classes", "in_channels"])
def test_sizes_are_one_or_more(name: str) -> None:
    sizes = {"dim": 7, "depth": 3, "patch": 2, "kernel": 5} | {name: 0}
    with pytest.raises(ws.SharingError, match=rf"convmixer\({name}=0\): need 1 or more"):
        ws.models.convmixer(**sizes)


def test_every_layer_shares_with_every_other() -> None:
    model = ws.models.convmixer(7, 5, 2, 3)
    plan = ws.plan(model, ws.Tie(rate=5))
    assert {len(group.items) for group in plan.groups} == {5}
    assert {left.path.partition(".")[0] for left in plan.left_out} == {"patches", "patches_norm", "head"}
