"""Lazy local layers: what they are before and after their first input."""

import copy
import pickle

import pytest
import torch
from torch import nn

from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.lazy import LazyLocallyConnected1d, LazyLocallyConnected2d, LazyLocallyConnected3d
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d

KINDS = {
    1: (LazyLocallyConnected1d, LocallyConnected1d),
    2: (LazyLocallyConnected2d, LocallyConnected2d),
    3: (LazyLocallyConnected3d, LocallyConnected3d),
}


def made() -> LazyLocallyConnected2d:
    return LazyLocallyConnected2d(6, 3, stride=2, padding=1, groups=2, bias="position")


X = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dims", KINDS)
def test_the_first_input_tells_channels_and_size(dims, batched):
    lazy, layer = KINDS[dims]
    net = lazy(6, (2, 3, 1)[:dims], 1, 1, groups=2, dtype=torch.float64)
    shape = (4, *(5, 7, 3)[:dims])
    x = torch.randn((2, *shape) if batched else shape, dtype=torch.float64)
    torch.manual_seed(1)
    out = net(x)
    torch.manual_seed(1)
    twin = layer(4, 6, (2, 3, 1)[:dims], (5, 7, 3)[:dims], 1, 1, groups=2, dtype=torch.float64)
    assert type(net) is layer
    assert repr(net) == repr(twin)
    assert torch.equal(out, twin(x))
    assert not net._forward_pre_hooks
    assert torch.equal(net(x), out)
    with pytest.raises(ShapeMismatch, match="got an input of size"):
        net(torch.randn(2, 4, *(11, 7, 3)[:dims], dtype=torch.float64))


def test_before_that_it_has_no_numbers():
    net = made()
    assert repr(net) == "LazyLocallyConnected2d(6, kernel_size=(3, 3))"
    assert list(net.state_dict()) == ["weight", "bias"]
    assert net.has_uninitialized_params()
    net.reset_parameters()
    assert net.double().to("cpu")(X.double()).dtype == torch.float64


def test_without_biases_there_are_none():
    net = LazyLocallyConnected2d(6, 3, bias=False)
    assert list(net.state_dict()) == ["weight"]
    assert net(X).shape == (2, 6, 3, 5)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_lazy_too(how):
    net = nn.Sequential(made())
    twin = how(net)
    assert twin(X).shape == (2, 6, 3, 4)
    assert isinstance(net[0], LazyLocallyConnected2d)


def test_a_state_of_one_that_is_made_goes_into_one_that_is_not():
    net, other = made(), made()
    out = net(X)
    other.load_state_dict(net.state_dict())
    assert not other.has_uninitialized_params()
    assert torch.equal(other(X), out)
    assert repr(other) == repr(net)
    third = made()
    third.load_state_dict({"weight": net.weight}, strict=False)
    assert torch.equal(third(X), net(X) - net.bias.movedim(-1, 0))


def test_a_loaded_state_of_another_size_is_refused_and_stays():
    net, other = made(), made()
    net(X)
    other.load_state_dict(net.state_dict())
    with pytest.raises(ShapeMismatch, match=r"the weight that was loaded is \(3, 4, .*need \(6, 4, .*trained on"):
        other(torch.randn(2, 4, 11, 7))
    assert torch.equal(other(X), net(X))


def test_a_state_of_one_that_is_not_made_goes_nowhere_else():
    net, other = made(), made()
    net(X)
    other.load_state_dict(made().state_dict())
    assert other.has_uninitialized_params()
    with pytest.raises(RuntimeError, match="uninitialized parameter"):
        net.load_state_dict(made().state_dict())


@pytest.mark.parametrize(
    ("shape", "error", "said"),
    [
        ((5, 7), ShapeMismatch, r"got an input of shape \(5, 7\), need 4 dimensions, or one less"),
        ((1, 1, 4, 5, 7), ShapeMismatch, "need 4 dimensions"),
        ((2, 3, 5, 7), SpecError, "groups=2 must divide in_channels=3"),
    ],
)
def test_a_first_input_that_does_not_fit(shape, error, said):
    net = made()
    with pytest.raises(error, match=said):
        net(torch.zeros(shape))
    assert net(X).shape == (2, 6, 3, 4)


def test_a_kernel_that_does_not_fit_leaves_it_lazy():
    net = LazyLocallyConnected2d(6, 7)
    with pytest.raises(ShapeMismatch, match="does not fit into inputs of size"):
        net(torch.zeros(2, 4, 5, 7))
    assert net(torch.zeros(2, 3, 11, 7)).shape == (2, 6, 5, 1)


def test_what_it_takes_is_checked_before_the_first_input():
    with pytest.raises(SpecError, match="LazyLocallyConnected2d: kernel_size=0"):
        LazyLocallyConnected2d(6, 0)
    with pytest.raises(SpecError, match="out_channels=0"):
        LazyLocallyConnected2d(0, 3)
    with pytest.raises(SpecError, match="takes its size from its first input"):
        LazyLocallyConnected2d.from_conv(nn.Conv2d(4, 6, 3), 5)
