"""MACs of local layers: those of the convolutions that they replace."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support import python
from tests.trilinear import CASES
from weightshare.errors import SpecError
from weightshare.models import build
from weightshare.space.convert import plan_local
from weightshare.space.products import correlate, forward, spread
from weightshare.space.transposed import LocallyConnectedTranspose2d
from weightshare.surgery.count import _formulas, macs


def test_a_converted_network_has_those_of_its_convolutions():
    model, x = build("resnet20:2/3/5"), torch.zeros(2, 3, 16, 16)
    before = macs(model, x)
    plan_local(model, x).apply_(model)
    assert macs(model, x) == before


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 10, (3, 2), stride=2, padding=1, groups=2),
        nn.Conv2d(6, 5, 3, padding="same", dilation=2),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
    ],
)
def test_a_layer_has_those_of_its_convolution(conv):
    x = torch.zeros(3, 6, 7, 11)
    model = nn.Sequential(conv)
    before = macs(model, x)
    plan_local(model, x).apply_(model)
    assert not isinstance(model[0], nn.Conv2d)
    assert macs(model, x) == before


def test_a_transposed_layer_has_those_of_its_convolution():
    conv, x = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.zeros(3, 4, 5, 7)
    assert macs(LocallyConnectedTranspose2d.from_conv(conv, (5, 7)), x) == macs(conv, x)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_product_has_as_many(case):
    x, w, g = case.operands(torch.float32)
    rest = (case.geometry.flat, case.groups)
    for operator, arguments in (
        (forward, (x, w, *rest)),
        (spread, (g, w, list(case.size), *rest)),
        (correlate, (x, g, *rest)),
    ):
        with FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
            operator(*arguments)
        assert counter.get_total_flops() == 2 * case.batch * w.numel()


def test_the_gradients_have_twice_those_of_the_layer():
    case = CASES["stride"]
    x, w, g = case.operands(torch.float32)
    with FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
        forward(x.requires_grad_(), w.requires_grad_(), case.geometry.flat, case.groups).backward(g)
    assert counter.get_total_flops() == 3 * 2 * case.batch * w.numel()


def test_nothing_is_loaded_for_it_before_it_is_asked_for():
    assert python("import sys, weightshare; print('torch.utils.flop_counter' in sys.modules)").split() == ["False"]


def test_they_are_a_whole_number_and_the_example_one_that_runs() -> None:
    model = nn.Linear(3, 5)
    assert repr(macs(model, torch.zeros(7, 3))) == "105"
    with pytest.raises(SpecError, match="is a int: need a tensor, a sequence"):
        macs(model, 3)
