"""How far a layer is from sharing: equation 6 number by number, within classes and over all positions."""

from itertools import product
import math

import pytest
import torch

from weightshare.space.lattice import Lattice
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from weightshare.space.measure import Sharing, space_sharing
from weightshare.space.sleep import Sleep
from weightshare.space.transposed import LocallyConnectedTranspose2d

LAYERS = {
    "2d": lambda: LocallyConnected2d(2, 3, 3, (5, 7), padding=1),
    "grouped, strided": lambda: LocallyConnected2d(4, 6, 2, (11, 13), stride=3, groups=2),
    "1x1": lambda: LocallyConnected2d(3, 5, 1, (2, 3)),
    "1d": lambda: LocallyConnected1d(2, 3, 5, 13),
    "3d": lambda: LocallyConnected3d(1, 2, 2, (3, 2, 5), padding=1),
    "transposed": lambda: LocallyConnectedTranspose2d(2, 3, 2, (3, 5)),
    "one position": lambda: LocallyConnected2d(2, 3, 3, 3),
}


def slow(layer, members):
    """Equation 6 of every channel over some positions, averaged over channels."""
    kernels = layer.kernels().detach().double()
    ratios = []
    for group, outer in product(range(kernels.shape[1]), range(kernels.shape[3])):
        total = 0.0
        for inner in range(kernels.shape[2]):
            values = [float(kernels[p, group, inner, outer]) for p in members]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            total += mean**2 / variance if variance else math.inf
        ratios.append(total / kernels.shape[2])
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("lattice", [None, Lattice(borders="apart"), Lattice(period=1), Lattice(period=3)])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_equation_6_of_each_class(name, lattice):
    layer = LAYERS[name]()
    with torch.no_grad():
        layer.weight.add_(1.0)
    labels = (lattice or Lattice()).assignment(layer).labels.tolist()
    rows = [[p for p, own in enumerate(labels) if own == label] for label in sorted(set(labels))]
    several = [slow(layer, members) for members in rows if len(members) > 1]
    found = space_sharing(layer, lattice)
    assert found.within == pytest.approx(sum(several) / len(several) if several else math.inf, rel=1e-9)
    assert found.all == pytest.approx(slow(layer, range(len(labels))), rel=1e-9)


def test_what_is_shared_is_infinite_and_sleep_shares_within_classes():
    layer = LocallyConnected2d(2, 3, 3, (7, 11), bias="position")
    start = space_sharing(layer)
    Sleep().now_(layer)
    slept = space_sharing(layer)
    assert start.within < 10
    assert slept.within == math.inf > slept.all
    assert space_sharing(layer, Lattice(period=1)).within < math.inf
    Sleep(lattice=Lattice(period=1)).now_(layer)
    assert space_sharing(layer) == Sharing(math.inf, math.inf)


def test_it_is_the_same_in_single_precision_and_changes_nothing():
    layer = LocallyConnected2d(2, 3, 3, (7, 11))
    before = layer.weight.detach().clone()
    single = space_sharing(layer)
    assert torch.equal(layer.weight, before)
    assert space_sharing(layer.double()).within == pytest.approx(single.within, rel=1e-12)


def test_a_weight_that_is_no_number_gives_none():
    layer = LocallyConnected2d(2, 3, 3, (7, 11))
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    assert math.isnan(space_sharing(layer).all)
