"""Labels: which layer reads which slot, for every order, spread and rate."""

from itertools import groupby
import math

import pytest

from weightshare.depth.topology import (
    Order,
    Spread,
    back,
    front,
    labels,
    middle,
    random,
    renumber,
    sequential,
    strided,
    uniform,
)
from weightshare.errors import SpecError

ORDERS = [sequential, strided, random(), random(seed=7)]
SPREADS = [uniform, front, middle, back]
RATES = [1, 1.5, 2, 2.5, 3, 7 / 3, 4]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("layers", [12, 13, 14])
@pytest.mark.parametrize("rate", RATES)
def test_every_slot_is_read_and_none_is_left_out(layers: int, rate: float, order: Order, spread: Spread) -> None:
    found = labels(layers, rate, order, spread)
    shared = len(spread(layers))
    assert len(found) == layers
    assert set(found) == set(range(layers - shared + math.ceil(shared / rate)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spread", SPREADS)
def test_slots_are_numbered_as_the_layers_come(order: Order, spread: Spread) -> None:
    found = labels(17, 2, order, spread)
    assert list(dict.fromkeys(found)) == list(range(max(found) + 1))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layers", [5, 7, 11, 12, 13])
@pytest.mark.parametrize("rate", [1, 1.3, 2, 2.5, 3, 4, 5])
def test_slots_have_as_many_readers_as_each_other_or_one_more(layers: int, rate: float, order: Order) -> None:
    found = labels(layers, rate, order)
    readers = [found.count(slot) for slot in set(found)]
    assert max(readers) - min(readers) <= 1


@pytest.mark.parametrize("layers", [5, 7, 11, 12, 13])
@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_sequential_slots_are_runs(layers: int, slots: int) -> None:
    assert [slot for slot, _ in groupby(sequential(layers, slots))] == list(range(slots))


def test_strided_is_the_remainder() -> None:
    assert labels(7, 7 / 3, strided) == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        (uniform, [0, 0, 0, 1, 1, 1, 2, 2, 2]),
        (front, [0, 0, 0, 1, 2, 3, 4, 5, 6]),
        (middle, [0, 1, 2, 3, 3, 3, 4, 5, 6]),
        (back, [0, 1, 2, 3, 4, 5, 6, 6, 6]),
    ],
)
def test_a_third_shares_and_the_rest_stay_their_own(spread: Spread, expected: list[int]) -> None:
    assert labels(9, 3, spread=spread) == expected


@pytest.mark.parametrize("layers", [2, 3, 4, 5, 7, 11, 12, 13])
def test_the_thirds_cover_every_layer_once(layers: int) -> None:
    assert [layer for third in (front, middle, back) for layer in third(layers)] == list(range(layers))


def test_every_rate_of_whole_numbers_gives_its_slots() -> None:
    wrong = [
        (layers, slots)
        for layers in range(2, 60)
        for slots in range(1, layers + 1)
        if max(labels(layers, layers / slots)) + 1 != slots
    ]
    assert wrong == []


def test_rate_one_shares_nothing() -> None:
    assert labels(5, 1) == labels(5, 1, strided) == labels(5, 1, random()) == [0, 1, 2, 3, 4]


def test_the_highest_rate_is_the_depth() -> None:
    assert labels(5, 5) == [0] * 5
    with pytest.raises(SpecError, match=r"Share rate 5\.1 is above the depth: the group has 5 layers\."):
        labels(5, 5.1)


def test_the_highest_rate_of_a_third_is_its_depth() -> None:
    with pytest.raises(SpecError, match="Share rate 4 is above the depth: the group has 9 layers of which 3 share"):
        labels(9, 4, spread=middle)


def test_random_is_seeded() -> None:
    assert labels(12, 2, random(seed=3)) == labels(12, 2, random(seed=3))
    assert len({tuple(labels(12, 2, random(seed=seed))) for seed in range(5)}) == 5


def test_random_does_not_touch_the_global_generator() -> None:
    import random as python_random

    python_random.seed(0)
    before = python_random.getstate()
    labels(12, 2, random(seed=3))
    assert python_random.getstate() == before


def test_renumber_keeps_which_are_equal() -> None:
    assert renumber([5, 3, 5, 0, 3]) == [0, 1, 0, 2, 1]
