"""For every order, spread and fusion: the shared network is the one written by hand that reads the same tensors."""

import pytest
import torch
from torch import Tensor

from tests.parity.network import (
    CASES,
    DEPTH,
    FUSIONS,
    ORDERS,
    RATE,
    ROLES,
    SPREADS,
    Network,
    by_hand,
    example,
    fused_by_hand,
    labels,
    network,
)
from tests.support import bits, output
import weightshare as ws
from weightshare.sharing import Assignment

EVERY = pytest.mark.parametrize(("order", "spread", "fuse"), CASES)


def spec(order: str, spread: str, fuse: str) -> ws.Tie:
    return ws.Tie(rate=RATE, order=ORDERS[order], spread=SPREADS[spread], fuse=FUSIONS[fuse])


def twin(model: Network, reads: tuple[int, ...], fuse: str) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """The tensors of the hand-written network, made from those of a model that is not shared yet."""
    slots = {role: fused_by_hand([block.get_parameter(role) for block in model.blocks], reads, fuse) for role in ROLES}
    outer = [(name, tensor) for name, tensor in model.named_parameters() if not name.startswith("blocks")]
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in outer}, slots


def check_equal(
    model: Network, reads: tuple[int, ...], ends: dict[str, Tensor], slots: dict[str, list[Tensor]]
) -> None:
    """Outputs, and gradients of the input and of every tensor, once for each slot."""
    x, y = example().requires_grad_(), example().requires_grad_()
    out, expected = model(x), by_hand(y, ends, slots, reads)
    torch.testing.assert_close(out, expected)
    probe = torch.randn_like(out)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert len(list(model.parameters())) == len(ends) + sum(map(len, slots.values()))
    for name, tensor in ends.items():
        torch.testing.assert_close(model.get_parameter(name).grad, tensor.grad)
    for role in ROLES:
        for layer, slot in enumerate(reads):
            parameter = model.blocks[layer].get_parameter(role)
            torch.testing.assert_close(parameter.detach(), slots[role][slot].detach())
            torch.testing.assert_close(parameter.grad, slots[role][slot].grad)


@EVERY
def test_forward_and_gradients(order: str, spread: str, fuse: str) -> None:
    model, reads = network(), labels(order, spread)
    ends, slots = twin(model, reads, fuse)
    plan = ws.share_(model, spec(order, spread, fuse))
    assert {group.assignment for group in plan.groups} == {Assignment.of(reads)}
    check_equal(model, reads, ends, slots)


@pytest.mark.parametrize("fuse", FUSIONS)
@pytest.mark.parametrize("reads", [(0,) * DEPTH, (0, 1, 2, 3, 4, 3, 2, 1, 0), (2, 0, 1, 1, 0, 2, 3, 0, 3)])
def test_forward_and_gradients_of_a_list(reads: tuple[int, ...], fuse: str) -> None:
    model = network()
    ends, slots = twin(model, reads, fuse)
    ws.share_(model, ws.Tie(slots=reads, fuse=FUSIONS[fuse]))
    check_equal(model, reads, ends, slots)


def test_three_steps_of_training_stay_together() -> None:
    model, reads = network(), labels("strided", "uniform")
    ends, slots = twin(model, reads, "mean")
    ws.share_(model, spec("strided", "uniform", "mean"))
    flat = [*ends.values(), *(tensor for tensors in slots.values() for tensor in tensors)]
    ours = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.01), lr=0.01)
    plain = [tensor for tensor in flat if tensor.ndim < 2]
    decayed = [tensor for tensor in flat if tensor.ndim >= 2]
    theirs = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=0.01
    )
    for _ in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        out, expected = model(example()), by_hand(example(), ends, slots, reads)
        torch.testing.assert_close(out, expected)
        out.square().mean().backward()
        expected.square().mean().backward()
        ours.step()
        theirs.step()
    torch.testing.assert_close(model(example()), by_hand(example(), ends, slots, reads))


@EVERY
def test_unshared_outputs_are_equal_and_parameters_are_apart(order: str, spread: str, fuse: str) -> None:
    model = network()
    ws.share_(model, spec(order, spread, fuse))
    before = output(model, example())
    ws.unshare_(model)
    assert bits(output(model, example())) == bits(before)
    assert len(list(model.parameters())) == 4 + DEPTH * len(ROLES)
    reads = labels(order, spread)
    pair = next((a, b) for a in range(DEPTH) for b in range(a + 1, DEPTH) if reads[a] == reads[b])
    first, second = (model.blocks[layer] for layer in pair)
    kept = [bits(parameter) for parameter in second.parameters()]
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    model(example()).square().sum().backward()
    optimizer.step()
    assert [bits(parameter) for parameter in second.parameters()] == kept
    assert all(bits(a) != b for a, b in zip(first.parameters(), kept, strict=True))


@EVERY
def test_folded_outputs_are_equal_and_classes_are_plain(order: str, spread: str, fuse: str) -> None:
    model = network()
    classes = [type(module) for module in model.modules()]
    ws.share_(model, spec(order, spread, fuse))
    folded = ws.fold(model)
    assert bits(output(folded, example())) == bits(output(model, example()))
    assert [type(module) for module in folded.modules()] == classes
    assert not [cls for cls in classes if cls.__module__.startswith("weightshare")]
    assert not [key for module in folded.modules() for key in vars(module) if "weightshare" in key]
    assert len(list(folded.parameters())) == 4 + len(ROLES) * (max(labels(order, spread)) + 1)
