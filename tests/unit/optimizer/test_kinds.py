"""Every kind of optimizer steps every slot once, whatever method shares: as if the slot were a tensor all alone."""

from collections.abc import Callable
import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.specs import OF_POSITIONS, SPECS
from tests.support import same_bits
from tests.zoo import Case, chain, local_rows
import weightshare as ws

KINDS: dict[str, Callable[[list], torch.optim.Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "SGD, momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "SGD, fused": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.1, amsgrad=True),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "AdamW, one by one": lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=False),
    "AdamW, foreach": lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=True),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, momentum=0.9, centered=True),
    "Adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
}


def made(spec: str) -> Case:
    torch.manual_seed(7)
    case = local_rows() if spec in OF_POSITIONS else chain()
    ws.share_(case.model, SPECS[spec]())
    return case


def lone(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same groups of copies that no model reads."""
    return [{**group, "params": [nn.Parameter(one.detach().clone()) for one in group["params"]]} for group in groups]


def entries(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def steps_alike(model: nn.Module, example: torch.Tensor, one: torch.optim.Optimizer, alone: torch.optim.Optimizer):
    """Step both with the gradients of the first, three times."""
    for _ in range(3):
        one.zero_grad()
        model(example).square().mean().backward()
        for tensor, copied in zip(entries(one), entries(alone), strict=True):
            copied.grad = tensor.grad.clone()
        one.step()
        alone.step()
        assert same_bits(entries(one), entries(alone))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_slot_is_stepped_once_like_a_tensor_alone(spec: str, kind: str) -> None:
    model, example = made(spec)
    groups = ws.param_groups(model, weight_decay=0.1)
    optimizer = KINDS[kind](groups)
    ws.check(optimizer, model)
    before = [tensor.detach().clone() for tensor in entries(optimizer)]
    steps_alike(model, example, optimizer, KINDS[kind](lone(groups)))
    assert not any(torch.equal(*pair) for pair in zip(entries(optimizer), before, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="capturable optimizers need a GPU")
@pytest.mark.parametrize("spec", SPECS)
def test_a_capturable_optimizer_steps_a_slot_once(spec: str) -> None:
    model, example = made(spec)
    model, example = model.cuda(), example.cuda()
    groups = ws.param_groups(model, weight_decay=0.1)
    optimizers = [torch.optim.AdamW(one, lr=0.1, capturable=True) for one in (groups, lone(groups))]
    model(example).square().mean().backward()
    for tensor, copied in zip(*map(entries, optimizers), strict=True):
        copied.grad = tensor.grad.clone()
    for optimizer in optimizers:
        optimizer.step()
    for one, other in zip(*map(entries, optimizers), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("spec", SPECS)
def test_lbfgs_goes_with_a_closure_and_evaluates_it_often(spec: str) -> None:
    model, example = made(spec)
    twin = copy.deepcopy(model)
    for net in (model, twin):
        tensors = [tensor for group in ws.param_groups(net, weight_decay=0.0) for tensor in group["params"]]
        optimizer = torch.optim.LBFGS(tensors, lr=0.1, max_iter=4)
        ws.check(optimizer, net)
        calls = []

        def closure(net: nn.Module = net, optimizer=optimizer, calls: list = calls) -> torch.Tensor:
            optimizer.zero_grad()
            loss = net(example).square().mean()
            loss.backward()
            calls.append(loss.item())
            return loss

        optimizer.step(closure)
        assert len(calls) > 2
        assert calls[-1] < calls[0]
    assert same_bits(model.parameters(), twin.parameters())


class Sam(torch.optim.SGD):
    """Sharpness-aware minimisation: step by the gradient a little uphill, which the closure takes there."""

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        tensors = entries(self)
        norm = torch.stack([tensor.grad.norm() for tensor in tensors]).norm()
        climbs = [0.05 * tensor.grad / norm for tensor in tensors]
        torch._foreach_add_(tensors, climbs)
        with torch.enable_grad():
            loss = closure()
        torch._foreach_sub_(tensors, climbs)
        super().step()
        return loss


@pytest.mark.parametrize("spec", SPECS)
def test_a_step_with_two_gradients_moves_each_slot_up_once_and_down_once(spec: str) -> None:
    model, example = made(spec)
    optimizer = Sam(ws.param_groups(model, weight_decay=0.0), lr=0.1)
    ws.check(optimizer, model)
    start = [tensor.detach().clone() for tensor in entries(optimizer)]
    seen, gradients = [], []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(example).square().mean()
        loss.backward()
        seen.append([tensor.detach().clone() for tensor in entries(optimizer)])
        gradients.append([tensor.grad.clone() for tensor in entries(optimizer)])
        return loss

    optimizer.step(closure)
    norm = torch.stack([gradient.norm() for gradient in gradients[0]]).norm()
    for number, tensor in enumerate(entries(optimizer)):
        uphill = start[number] + 0.05 * gradients[0][number] / norm
        torch.testing.assert_close(seen[1][number], uphill)
        torch.testing.assert_close(tensor.detach(), start[number] - 0.1 * gradients[1][number])
