"""Recording activations."""

import pytest
import torch
from torch import nn

from weightshare.analysis.activations import record
from weightshare.errors import NoMatch, SpecError
from weightshare.space.local import LocallyConnected2d


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), LocallyConnected2d(3, 5, 3, input_size=5), nn.Flatten())


def test_batches_are_kept_in_order_and_the_network_computes_as_before():
    net, images = _net(), torch.randn(11, 2, 7, 7)
    expected = net(images)
    with record(net, ["1", "2"]) as kept:
        outputs = [net(part) for part in images.split(4)]
    torch.testing.assert_close(torch.cat(outputs), expected)
    assert kept.paths == tuple(kept) == ("1", "2")
    torch.testing.assert_close(kept["2"].flatten(1), expected)
    torch.testing.assert_close(kept["1"], net[:2](images))
    net(images)  # after the block
    assert not kept["1"].requires_grad
    assert len(kept["2"]) == 11


def test_by_type_and_with_something_taken():
    net, images = _net(), torch.randn(3, 2, 7, 7)
    kept = record(net, LocallyConnected2d, take=lambda out: out.mean((-2, -1)))
    net(images)
    assert kept.paths == ("2",)
    once = kept["2"]
    kept.clear()
    expected = net(images).detach().view(3, 5, 3, 3).mean((-2, -1))
    torch.testing.assert_close(once, expected)
    kept.clear()
    kept.remove()
    net(images)
    with pytest.raises(SpecError, match="has not run"):
        kept["2"]


def test_bad_input():
    net = _net()
    with pytest.raises(NoMatch, match="matches no module"):
        record(net, "conv*")
    with pytest.raises(NoMatch, match="matches no module"):
        record(net, nn.Linear)
    with record(net, "0") as kept:
        net[0](torch.randn(1, 2, 5, 5))
        net[0](torch.randn(1, 2, 7, 7))
    with pytest.raises(SpecError, match="several sizes"):
        kept["0"]
    with pytest.raises(SpecError, match="is not recorded"):
        kept["2"]
