"""Mixtures made block by block are the product, and so are their gradients."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import weightshare as ws
from weightshare.depth import mixing
from weightshare.depth.mixing import mixtures


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(mixing, "LARGE", 0)
    monkeypatch.setattr(mixing, "BLOCK", 5)


def drawn(dtype=torch.float64):
    return torch.randn(3, 2, dtype=dtype).requires_grad_(), torch.randn(2, 7, 11, dtype=dtype).requires_grad_()


def product(coefficients, templates):
    return torch.einsum("lt,tij->lij", coefficients, templates)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(dtype):
    coefficients, templates = drawn(dtype)
    made = mixtures(coefficients, templates)
    assert [type(weight.grad_fn).__name__ for weight in made] == ["_MixturesBackward"] * 3
    assert len({weight.untyped_storage().data_ptr() for weight in made}) == 3
    wanted = product(coefficients, templates)
    torch.testing.assert_close(torch.stack(list(made)), wanted)
    pull = torch.randn(3, 7, 11, dtype=dtype)
    found = torch.autograd.grad(list(made), (coefficients, templates), list(pull))
    torch.testing.assert_close(found, torch.autograd.grad(wanted, (coefficients, templates), pull))


def test_twice_over():
    inputs = drawn()
    assert torch.autograd.gradcheck(lambda *given: tuple(mixtures(*given)), inputs)
    assert torch.autograd.gradgradcheck(lambda *given: tuple(mixtures(*given)), inputs)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(frozen):
    inputs = drawn()
    inputs[frozen].requires_grad_(False)
    other = inputs[1 - frozen]
    sum(weight.square().sum() for weight in mixtures(*inputs)).backward()
    assert inputs[frozen].grad is None
    torch.testing.assert_close(other.grad, torch.autograd.grad(product(*inputs).square().sum(), other)[0])


def test_a_layer_that_nobody_reads():
    coefficients, templates = drawn()
    mixtures(coefficients, templates)[1].sum().backward()
    assert coefficients.grad[[0, 2]].abs().max() == 0
    torch.testing.assert_close(templates.grad, coefficients.detach()[1].view(2, 1, 1).expand_as(templates))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch calls it for forward mode
def test_under_vmap_and_forward_mode_it_is_the_product():
    coefficients, templates = (one.detach() for one in drawn())
    found = torch.vmap(lambda row: mixtures(row[None], templates)[0])(coefficients)
    torch.testing.assert_close(found, product(coefficients, templates))
    _, moved = torch.func.jvp(lambda given: mixtures(coefficients, given)[2], (templates,), (templates,))
    torch.testing.assert_close(moved, product(coefficients, templates)[2])


def test_small_banks_and_half_types_are_one_product(monkeypatch):
    coefficients, templates = drawn()
    assert mixtures(coefficients.half(), templates.half())[0]._is_view()
    monkeypatch.setattr(mixing, "LARGE", 1 << 24)
    assert mixtures(coefficients, templates)[0]._is_view()


def test_a_network_trains_alike(monkeypatch):
    net = nn.Sequential(*(nn.Linear(7, 7, bias=False) for _ in range(4)))
    ws.share_(net, ws.Templates(2), "*.weight")
    x, twin = torch.randn(5, 7), deepcopy(net)
    net(x).square().sum().backward()
    monkeypatch.setattr(mixing, "LARGE", 1 << 24)
    twin(x).square().sum().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
