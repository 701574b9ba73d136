"""Lin 2022 (SPIN): the equations of section 3.2 and supplements B and E, written naively in float64."""

import pytest
import torch
from torch import nn

import weightshare as ws
from weightshare.depth.transform import Scale


def isotropic(layers: int) -> nn.Module:
    """Equal layers one after the other."""
    torch.manual_seed(layers)
    return nn.Sequential(*(nn.Linear(5, 5) for _ in range(layers))).double()


def test_choose_first() -> None:
    """`W = W_1` of the layers that share."""
    net = isotropic(6)
    weights = [layer.weight.detach().clone() for layer in net]
    ws.share_(net, ws.Tie(rate=3, order=ws.strided, fuse=ws.first))
    assert [torch.equal(net[layer].weight, weights[layer % 2]) for layer in range(6)] == [True] * 6


@pytest.mark.parametrize("through", [False, True])
def test_mean(through: bool) -> None:
    """`W = 1/r Σ W_i`, biases too."""
    net = isotropic(6)
    weights, biases = [layer.weight.detach().clone() for layer in net], [layer.bias.detach().clone() for layer in net]
    ws.share_(net, ws.Tie(rate=2, fuse=ws.through(ws.mean) if through else ws.mean))
    for layer in range(6):
        one = layer - layer % 2
        torch.testing.assert_close(net[layer].weight.detach(), (weights[one] + weights[one + 1]) / 2)
        torch.testing.assert_close(net[layer].bias.detach(), (biases[one] + biases[one + 1]) / 2)


def test_scalar_weighted_mean_is_learned() -> None:
    """`W = 1/r Σ a_i W_i` with `∂W/∂a_i = W_i / r`; `a_i` starts at 1, not normalised; biases stay a mean."""
    net = isotropic(4)
    ws.share_(net, ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted)))
    bank = net.get_submodule("0.weightshare_banks.weight")
    with torch.no_grad():
        bank.factors.copy_(torch.tensor([2.0, 3.0, 5.0, 7.0]).view(4, 1, 1))
    first, second = (tensor.detach() for tensor in list(bank.stored)[:2])
    torch.testing.assert_close(net[1].weight.detach(), (2 * first + 3 * second) / 2)
    seed = torch.randn(5, 5, dtype=torch.float64)
    (net[0].weight * seed).sum().backward()
    wanted = torch.stack([(seed * first).sum() / 2, (seed * second).sum() / 2])
    torch.testing.assert_close(bank.factors.grad.flatten()[:2], wanted)
    torch.testing.assert_close(bank.stored[1].grad, 3 * seed / 2)
    assert net.get_submodule("0.weightshare_banks.bias").factors is None


def test_channel_weighted_mean_is_learned() -> None:
    """The same with an `a_i` for each output channel."""
    net = isotropic(2)
    ws.share_(net, ws.Tie(rate=2, fuse=ws.through(ws.channel_weighted)))
    bank = net.get_submodule("0.weightshare_banks.weight")
    factors = torch.arange(10.0).double().view(2, 5, 1)
    with torch.no_grad():
        bank.factors.copy_(factors)
    first, second = (tensor.detach() for tensor in bank.stored)
    wanted = (torch.diag(factors[0, :, 0]) @ first + torch.diag(factors[1, :, 0]) @ second) / 2
    torch.testing.assert_close(net[1].weight.detach(), wanted)


def test_transformation_of_a_shared_weight() -> None:
    """Section 3: layer `i` reads `a_i W + b_i`."""
    net = isotropic(4)
    ws.share_(net, ws.Tie(rate=4, own=Scale(shift=True)), "*.weight")
    bank = net.get_submodule("0.weightshare_banks.weight")
    with torch.no_grad():
        bank.own.scale.copy_(torch.arange(4.0).view(4, 1, 1))
        bank.own.shift.copy_(torch.arange(4.0).view(4, 1, 1) / 7)
    for layer in range(4):
        torch.testing.assert_close(net[layer].weight.detach(), layer * bank.stored[0].detach() + layer / 7)


def test_share_rate() -> None:
    """`L` layers read `P = L / rate` tensors."""
    for rate, stored in ((1.5, 8), (2, 6), (3, 4), (4, 3), (6, 2), (12, 1)):
        plan = ws.plan(isotropic(12), ws.Tie(rate=rate), "*.weight")
        assert plan.groups[0].assignment.slots == stored
