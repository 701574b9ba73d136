"""Moving a network with local layers: memory formats are for its images, types and devices for all of it."""

import copy

import pytest
import torch
from torch import nn

import weightshare as ws
from weightshare.space.lazy import LazyLocallyConnected2d


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        ws.LocallyConnected2d(3, 5, 3, input_size=(5, 7), bias="position"),
        nn.BatchNorm2d(5),
    )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_network_can_be_brought_to_a_memory_format(layout):
    net, images = network().eval(), torch.randn(2, 2, 7, 9)
    expected = net(images)
    kernels, parameter = net[1].weight.detach().clone(), net[1].weight
    moved = net.to(memory_format=layout)
    assert moved[0].weight.is_contiguous(memory_format=layout)
    assert moved[1].weight.is_contiguous()
    assert moved[1].weight is parameter
    assert torch.equal(moved[1].weight, kernels)
    torch.testing.assert_close(moved(images.to(memory_format=layout)), expected)


def test_lines_keep_their_kernels_too():
    layer = ws.LocallyConnected1d(2, 3, 3, input_size=7)
    kernels = layer.weight.detach().clone()
    layer.to(memory_format=torch.channels_last)
    assert layer.weight.is_contiguous()
    assert torch.equal(layer.weight, kernels)


def test_types_gradients_and_empty_memory_follow():
    net = network()
    net(torch.randn(2, 2, 7, 9)).sum().backward()
    grad = net[1].weight.grad.clone()
    net.double()
    assert net[1].weight.dtype == net[1].weight.grad.dtype == torch.float64
    assert torch.equal(net[1].weight.grad, grad.double())
    empty = copy.deepcopy(net).to("meta")
    assert empty[1].weight.is_meta
    assert empty.to_empty(device="cpu")[1].weight.shape == net[1].weight.shape


def test_a_lazy_layer_has_nothing_to_move_yet():
    layer = LazyLocallyConnected2d(3, 3).double()
    layer(torch.randn(2, 5, 7, 7, dtype=torch.float64))
    assert layer.weight.dtype == torch.float64


def test_a_weight_that_is_not_in_one_piece_is_not_put_to_sleep():
    net = nn.Sequential(ws.LocallyConnected2d(2, 3, 3, input_size=7))
    net[0].weight.data = net[0].weight.data.transpose(0, 1)
    with pytest.raises(ws.SharingError, match="not in one piece"):
        ws.Sleep().now_(net)
