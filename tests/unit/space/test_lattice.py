"""`Lattice`: the classes of positions against a loop over their coordinates, and what it refuses."""

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch import nn

import weightshare as ws
from weightshare.errors import SpecError
from weightshare.sharing import Assignment
from weightshare.space.lattice import period
from weightshare.space.layer import LocalLayer
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d

LAYERS: dict[str, LocalLayer] = {
    "1d": LocallyConnected1d(1, 1, 3, 17, padding=1),
    "1d, stride and kernel with a common divisor": LocallyConnected1d(1, 1, 6, 29, stride=4, padding=2),
    "1d, stride a multiple of the kernel": LocallyConnected1d(1, 1, 3, 31, stride=6),
    "1d, one tap": LocallyConnected1d(1, 1, 1, 7),
    "1d, even kernel": LocallyConnected1d(1, 1, 4, 19, padding=2),
    "1d, dilation that shares a divisor": LocallyConnected1d(1, 1, 3, 23, dilation=3, padding=3),
    "1d, fewer positions than the period": LocallyConnected1d(1, 1, 7, 11, padding=1),
    "2d": LocallyConnected2d(1, 1, 3, (7, 11), padding=1),
    "2d, strides": LocallyConnected2d(1, 1, (3, 5), (13, 17), stride=(2, 3), padding=(1, 2)),
    "2d, even and rectangular": LocallyConnected2d(1, 1, (2, 4), (7, 11), stride=(3, 2), padding=(1, 3)),
    "2d, dilations": LocallyConnected2d(1, 1, 3, (11, 13), dilation=(2, 3), padding="same"),
    "3d": LocallyConnected3d(1, 1, (2, 3, 1), (5, 7, 3), stride=(1, 2, 1), padding=(1, 1, 0)),
}


def tells_apart(kernel: int, dilation: int) -> int:
    """The smallest period, at least the kernel's size, in which no two taps see one number."""
    candidates = (n for n in range(kernel, 10 * kernel) if len({dilation * tap % n for tap in range(kernel)}) == kernel)
    return next(candidates)


def classes(layer: Any, periods: tuple[int, ...], apart: bool) -> list[tuple[Any, ...]]:
    """Of each position its phase, and with `apart` which of its taps lie on the map; two that are equal share."""
    found = []
    for at in product(*(range(count) for count in layer.positions)):
        phase, seen = [], []
        for axis, p in enumerate(at):
            start = p * layer.stride[axis]
            taps = [start + tap * layer.dilation[axis] - layer._low[axis] for tap in range(layer.kernel_size[axis])]
            phase.append(start % periods[axis])
            seen.append(tuple(0 <= tap < layer.input_size[axis] for tap in taps))
        found.append((*phase, *(seen if apart else ())))
    return found


def same_partition(labels: list[int], wanted: list[tuple[Any, ...]]) -> bool:
    pairs = set(zip(labels, wanted, strict=True))
    return len(pairs) == len(set(labels)) == len(set(wanted)) and sorted(set(labels)) == list(range(len(pairs)))


@pytest.mark.parametrize("borders", ["together", "apart"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_papers_modules(name: str, borders: Any) -> None:
    layer: Any = LAYERS[name]
    periods = tuple(map(tells_apart, layer.kernel_size, layer.dilation))
    lattice = ws.Lattice(borders=borders)
    labels = lattice.assignment(layer).labels.tolist()
    assert len(labels) == prod(layer.positions)
    assert lattice.periods(layer.axes) == periods
    assert same_partition(labels, classes(layer, periods, borders == "apart"))


@pytest.mark.parametrize("borders", ["together", "apart"])
@pytest.mark.parametrize("given", [1, 2, 5, (2, 3)])
def test_periods_of_your_own(given: Any, borders: Any) -> None:
    layer = LAYERS["2d, strides"]
    periods = (given, given) if isinstance(given, int) else given
    labels = ws.Lattice(given, borders).assignment(layer).labels.tolist()
    assert same_partition(labels, classes(layer, periods, borders == "apart"))


def test_borders_apart_split_classes_and_join_none() -> None:
    layer = LAYERS["2d"]
    together, apart = (ws.Lattice(borders=borders).assignment(layer) for borders in ("together", "apart"))
    assert (together.slots, apart.slots) == (9, 25)
    pairs = set(zip(apart.labels.tolist(), together.labels.tolist(), strict=True))
    assert len(pairs) == apart.slots


@pytest.mark.parametrize(
    "lattice",
    [ws.Lattice(), ws.Lattice(1), ws.Lattice(2), ws.Lattice(borders="apart"), ws.Lattice(labels=(1, 0) * 38 + (2,))],
)
def test_where_the_classes_are_is_what_the_assignment_says(lattice: ws.Lattice) -> None:
    layer = LAYERS["2d"]
    numbers = torch.arange(77)
    found = [numbers[at] if isinstance(at, torch.Tensor) else numbers.view(7, 11)[at] for at in lattice.classes(layer)]
    assert sorted(part.reshape(-1).tolist() for part in found) == sorted(map(list, lattice.assignment(layer).readers))


@pytest.mark.parametrize("name", LAYERS)
def test_period_one_is_one_class(name: str) -> None:
    assert ws.Lattice(period=1).assignment(LAYERS[name]).slots == 1


@pytest.mark.parametrize(("kernel", "stride", "count"), [(3, 1, 3), (3, 2, 3), (6, 4, 3), (4, 2, 2), (3, 6, 1)])
def test_how_many_classes_there_are(kernel: int, stride: int, count: int) -> None:
    """As many as the kernel has taps, over the common divisor."""
    assert ws.Lattice().assignment(LocallyConnected1d(1, 1, kernel, 61, stride=stride)).slots == count


def test_periods_with_dilation() -> None:
    wanted = {(k, d): tells_apart(k, d) for k in range(1, 8) for d in range(1, 8)}
    assert {(k, d): period(k, d) for k, d in wanted} == wanted


def test_classes_see_equal_inputs_when_the_input_repeats() -> None:
    """What the classes are for: with an input of the lattice's period, positions of one class read the same numbers."""
    layer = LocallyConnected2d(1, 13, 3, (13, 11), stride=(2, 1), bias=False)
    x = torch.randn(3, 3).repeat(5, 4)[:13, :11][None, None]
    patches = nn.functional.unfold(x, 3, stride=(2, 1))[0].T
    for readers in ws.Lattice().assignment(layer).readers:
        assert len(patches[list(readers)].unique(dim=0)) == 1
    assert len(patches.unique(dim=0)) == 9


def test_labels_of_your_own() -> None:
    layer, labels = LAYERS["2d"], torch.randint(5, (77,)).tolist()
    labels[:5] = range(5)
    assert ws.Lattice(labels=labels).assignment(layer) == Assignment.of(labels)
    assert ws.Lattice(labels=labels) == ws.Lattice(labels=tuple(labels))


@pytest.mark.parametrize(
    "fields",
    [
        {"period": 0},
        {"period": -3},
        {"period": True},
        {"period": 2.0},
        {"period": "3"},
        {"period": (3, 0)},
        {"period": [3, 3]},
        {"period": ()},
        {"borders": "none"},
        {"borders": None},
        {"labels": (0, 2)},
        {"labels": (-1, 0)},
        {"labels": (0.0, 1.0)},
        {"labels": (0, 1), "period": 2},
        {"labels": (0, 1), "borders": "apart"},
    ],
)
def test_a_lattice_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        ws.Lattice(**fields)


@pytest.mark.parametrize(
    ("lattice", "said"),
    [
        (ws.Lattice((2, 3, 5)), "the layer has 2 axes"),
        (ws.Lattice(labels=(0, 1)), "2 labels are given, the layer has 77"),
    ],
)
def test_a_lattice_for_another_layer(lattice: ws.Lattice, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        lattice.assignment(LAYERS["2d"])
    with pytest.raises(SpecError, match=said):
        ws.share_(LAYERS["2d"], lattice)
