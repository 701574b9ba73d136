"""The network for pixels of a grid."""

import pytest
import torch

from weightshare.depth.templates import Templates
from weightshare.errors import SpecError
from weightshare.models.grid import grid_cnn
from weightshare.verbs import share_


def test_it_has_as_many_parameters_as_it_says():
    width, depth, channels = 7, 5, 3
    network = grid_cnn(width, depth, channels)
    stated = 9 * channels * width + width + depth * (9 * width**2 + 2 * width) + 3 * width + 1
    assert sum(parameter.numel() for parameter in network.parameters()) == stated


def test_a_pixel_sees_as_far_as_the_network_is_deep():
    network = grid_cnn(width=5, depth=3).eval()
    image = torch.randn(1, 2, 13, 17, requires_grad=True)
    network(image)[0, 6, 8].backward()
    assert image.grad is not None
    reached = image.grad[0].abs().sum(0).nonzero()
    assert (reached - torch.tensor([6, 8])).abs().amax() == 4
    assert len(reached) == 9 * 9


def test_all_its_layers_share_one_bank():
    network = grid_cnn(width=5, depth=7)
    plan = share_(network, Templates(2), "layers.*.conv.weight")
    (group,) = plan.groups
    assert len(group.items) == 7
    assert plan.stored_before - plan.stored_after == 7 * 225 - 2 * (225 + 7)


def test_sizes_that_are_none():
    with pytest.raises(SpecError, match="depth=0"):
        grid_cnn(5, 0)
