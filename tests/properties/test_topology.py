"""Labels: onto the asked number of slots, whatever the depth, the rate, the order and the spread."""

from fractions import Fraction
import math

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import label_lists
import weightshare as ws
from weightshare.depth import topology
from weightshare.depth.topology import Order, Spread, labels, renumber
from weightshare.sharing import Assignment

ORDERS = st.one_of(st.just(ws.sequential), st.just(ws.strided), st.integers(0, 999).map(ws.random))
SPREADS = st.sampled_from([ws.uniform, topology.front, topology.middle, topology.back])


@given(st.integers(3, 60), st.data(), ORDERS, SPREADS)
def test_every_slot_is_read_and_there_are_as_many_as_asked_for(
    layers: int, data: st.DataObject, order: Order, spread: Spread
) -> None:
    sharing = len(spread(layers))
    rate = data.draw(st.integers(1, sharing))
    found = labels(layers, rate, order, spread)
    assert len(found) == layers
    assert set(found) == set(range(layers - sharing + math.ceil(Fraction(sharing, rate))))
    assert list(dict.fromkeys(found)) == sorted(set(found))


@given(st.integers(1, 60), st.data(), ORDERS)
def test_slots_have_equally_many_readers_or_one_more(layers: int, data: st.DataObject, order: Order) -> None:
    rate = data.draw(st.floats(1, layers))
    found = labels(layers, rate, order)
    readers = [found.count(slot) for slot in set(found)]
    assert max(readers) - min(readers) <= 1
    assert max(readers) <= math.ceil(rate)


@given(st.integers(3, 60), SPREADS, ORDERS)
def test_layers_outside_of_the_spread_keep_a_slot_of_their_own(layers: int, spread: Spread, order: Order) -> None:
    found = labels(layers, len(spread(layers)), order, spread)
    assert [layer for layer in range(layers) if found.count(found[layer]) == 1 and layer not in spread(layers)] == [
        layer for layer in range(layers) if layer not in spread(layers)
    ]
    assert len({found[layer] for layer in spread(layers)}) == 1


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=30))
def test_renumber_keeps_the_partition_and_is_idempotent(raw: list[int]) -> None:
    found = renumber(raw)
    pairs = range(len(raw))
    assert [[raw[a] == raw[b] for b in pairs] for a in pairs] == [[found[a] == found[b] for b in pairs] for a in pairs]
    assert renumber(found) == found


@given(st.integers(1, 12).flatmap(label_lists))
def test_readers_are_a_partition(slots: list[int]) -> None:
    assignment = Assignment.of(slots)
    assert sorted(item for readers in assignment.readers for item in readers) == list(range(len(slots)))
    assert all(slots[item] == slot for slot, readers in enumerate(assignment.readers) for item in readers)
    assert (assignment.matrix.sum(1) == 1).all()
    assert (assignment.matrix.sum(0) >= 1).all()
