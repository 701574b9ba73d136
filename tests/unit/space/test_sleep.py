"""Instant sleep against the loops that define it: each kernel becomes the mean over its class."""

from itertools import product

import pytest
import torch
from torch import nn

from tests.support import bits
from weightshare.errors import SpecError
from weightshare.space.lattice import Lattice
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from weightshare.space.measure import space_sharing
from weightshare.space.sleep import Sleep
from weightshare.space.transposed import LocallyConnectedTranspose1d, LocallyConnectedTranspose2d

LAYERS = {
    "1d": lambda: LocallyConnected1d(2, 3, 3, 17),
    "1x1": lambda: LocallyConnected2d(2, 3, 1, (5, 7)),
    "strided": lambda: LocallyConnected2d(2, 3, 3, (11, 13), stride=2, padding=1),
    "stride and kernel share a divisor": lambda: LocallyConnected2d(2, 3, (4, 3), (17, 19), stride=(2, 3)),
    "grouped": lambda: LocallyConnected2d(4, 6, 2, (7, 5), groups=2, bias="position"),
    "bordered": lambda: LocallyConnected2d(2, 3, (3, 5), (7, 11), padding=(1, 2), bias="position"),
    "dilated": lambda: LocallyConnected2d(2, 3, 3, (11, 13), dilation=(2, 3), padding=2),
    "even": lambda: LocallyConnected2d(2, 3, 4, (11, 7), padding="same", bias="position"),
    "3d": lambda: LocallyConnected3d(1, 2, (2, 1, 3), (5, 3, 7), padding=(1, 0, 0), bias="position"),
    "transposed": lambda: LocallyConnectedTranspose2d(2, 3, 3, (7, 8), stride=2, padding=1),
    "transposed 1d": lambda: LocallyConnectedTranspose1d(2, 3, 4, 11, bias="position"),
}


def made(name):
    torch.manual_seed(1)
    layer = LAYERS[name]().double()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def period_of(kernel, dilation):
    """The smallest one from the kernel's size on at which taps see different numbers of a repeating input."""
    return next(p for p in range(kernel, 99) if len({dilation * t % p for t in range(kernel)}) == kernel)


def modules(layer, apart=False, period=None):
    """`(class, position)` of each position, written from `s·i ≡ s·i' (mod k)`."""
    rows = []
    for position in product(*(range(axis.positions) for axis in layer.axes)):
        key = []
        for at, axis in zip(position, layer.axes, strict=True):
            key.append(axis.stride * at % (period or period_of(axis.kernel, axis.dilation)))
            taps = [axis.stride * at - axis.low + axis.dilation * t for t in range(axis.kernel)]
            key.append(tuple(0 <= one < axis.size for one in taps) if apart else ())
        rows.append((tuple(key), position))
    return rows


def slow_pull(layer, tensor, strength, rows):
    """Equation-free: the mean of each number over the positions of a class, one class, channel and tap at a time."""
    out = tensor.clone()
    for own in {key for key, _ in rows}:
        members = [position for key, position in rows if key == own]
        mean = sum(tensor[position] for position in members) / len(members)
        for position in members:
            out[position] = tensor[position] + strength * (mean - tensor[position])
    return out


LATTICES = {
    "paper": (Lattice(), {}),
    "apart": (Lattice(borders="apart"), {"apart": True}),
    "one": (Lattice(period=1), {"period": 1}),
    "five": (Lattice(period=5), {"period": 5}),
}


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("name", LAYERS)
def test_each_kernel_becomes_the_mean_over_its_class(name, lattice, strength):
    layer = made(name)
    before = {key: one.detach().clone() for key, one in layer.named_parameters()}
    spec, options = LATTICES[lattice]
    rows = modules(layer, **options)
    Sleep(strength=strength, lattice=spec).now_(nn.Sequential(layer))
    assert torch.allclose(layer.weight, slow_pull(layer, before["weight"], strength, rows), rtol=0, atol=1e-14)
    at_positions = layer.bias.ndim > 1 and "transposed" not in name  # whose biases are those of output positions
    wanted = slow_pull(layer, before["bias"], strength, rows) if at_positions else before["bias"]
    assert torch.allclose(layer.bias, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("name", LAYERS)
def test_afterwards_kernels_of_a_class_are_equal_to_the_bit_and_the_mean_is_as_before(name, lattice):
    layer = made(name).float()
    spec, options = LATTICES[lattice]
    mean = layer.kernels().detach().double().mean(0)
    Sleep(lattice=spec).now_(nn.Sequential(layer))
    kernels = {}
    for key, position in modules(layer, **options):
        kernels.setdefault(key, []).append(bits(layer.weight[position]))
    assert all(len(set(members)) == 1 for members in kernels.values())
    assert len({members[0] for members in kernels.values()}) == len(kernels)
    assert space_sharing(layer, spec).within == float("inf")
    assert torch.allclose(layer.kernels().double().mean(0), mean, atol=1e-6)
    again = bits(layer.weight)
    Sleep(lattice=spec).now_(nn.Sequential(layer))
    assert torch.allclose(torch.frombuffer(bytearray(again), dtype=torch.float32), layer.weight.flatten(), atol=1e-7)


def test_labels_say_who_shares():
    layer = LocallyConnected1d(2, 3, 3, 7, bias="position")
    kernels = layer.weight.detach().clone()
    Sleep(lattice=Lattice(labels=(0, 1, 0, 0, 1))).now_(nn.Sequential(layer))
    assert torch.allclose(layer.weight[0], kernels[[0, 2, 3]].mean(0))
    assert torch.equal(layer.weight[1], layer.weight[4])
    with pytest.raises(SpecError, match=r"Sleep on '0': Lattice: 3 labels are given, the layer has 5 positions"):
        Sleep(lattice=Lattice(labels=(0, 1, 0))).now_(nn.Sequential(layer))
