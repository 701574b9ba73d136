"""Numbers of topologies: by enumeration, by the paper's formula written naively, and where they are known."""

from itertools import product
from math import comb, factorial

import pytest
import torch
from torch import Tensor

from weightshare.depth.search_space import partitions, staged_topologies, stirling, topologies, topologies_of_all
from weightshare.depth.topology import renumber
from weightshare.errors import SpecError

LAYERS = range(1, 9)
STAGED = [(layers, stage) for layers in LAYERS for stage in range(1, layers + 1) if layers % stage == 0]


def used_slots(layers: int, slots: int) -> Tensor:
    """For every map from layers to slots, `P^L` of them, the set of slots that it uses, as bits."""
    used, bits = torch.zeros(1, dtype=torch.uint8), torch.tensor([1 << slot for slot in range(slots)]).byte()
    for _ in range(layers):
        used = (used[:, None] | bits).flatten()
    return used


def enumerated(layers: int, stage: int, slots: int) -> int:
    """Maps of a staged network: every map of every stage, but for those that meet a slot of an earlier stage."""
    used, here = torch.zeros(1, dtype=torch.uint8), used_slots(stage, slots)
    for _ in range(layers // stage - 1):
        used = (used[:, None] | here)[(used[:, None] & here) == 0]
    return int(((used[:, None] & here) == 0).sum())


def naive(layers: int, stage: int, slots: int) -> int:
    """Equation 1 as it stands in the supplement, but for its end."""
    if layers == 0 and slots >= 0:
        return 1
    if layers <= 0 or slots <= 0:
        return 0
    return sum(
        comb(slots, i) * (i**stage - (i - 1) ** stage) * naive(layers - stage, stage, slots - i)
        for i in range(1, min(stage, slots) + 1)
    )


@pytest.mark.parametrize(("layers", "stage"), STAGED)
def test_staged_topologies_are_those_of_enumeration(layers: int, stage: int) -> None:
    stages = [stage] * (layers // stage)
    found = [staged_topologies(stages, slots) for slots in range(1, layers + 1)]
    assert found == [enumerated(layers, stage, slots) for slots in range(1, layers + 1)]


@pytest.mark.parametrize(("layers", "stage"), STAGED)
def test_the_papers_staged_topologies_are_those_of_its_formula(layers: int, stage: int) -> None:
    stages = [stage] * (layers // stage)
    found = [staged_topologies(stages, slots, count="paper") for slots in range(1, layers + 2)]
    assert found == [naive(layers, stage, slots) for slots in range(1, layers + 2)]


@pytest.mark.parametrize("layers", LAYERS)
def test_topologies_are_those_of_enumeration(layers: int) -> None:
    for slots in range(1, layers + 1):
        used = used_slots(layers, slots)
        assert topologies(layers, slots) == len(used) == staged_topologies([layers], slots)
        assert topologies_of_all(layers, slots) == int((used == 2**slots - 1).sum())
        assert topologies_of_all(layers, slots, count="paper") == slots**layers - (slots - 1) ** layers


@pytest.mark.parametrize("layers", range(1, 7))
def test_topologies_up_to_renaming_are_those_of_enumeration(layers: int) -> None:
    for slots in range(1, layers + 1):
        networks = {tuple(renumber(labels)) for labels in product(range(slots), repeat=layers)}
        assert partitions(layers, slots) == len(networks)
        assert stirling(layers, slots) == sum(len(set(labels)) == slots for labels in networks)


def test_stages_of_different_depth() -> None:
    depths, slots = (3, 1, 2), 5
    owner = [stage for stage, layers in enumerate(depths) for _ in range(layers)]
    maps = [
        labels
        for labels in product(range(slots), repeat=sum(depths))
        if len(set(zip(labels, owner, strict=True))) == len(set(labels))
    ]
    assert staged_topologies(depths, slots) == len(maps) > 0
    assert staged_topologies([1, 2, 3], slots) == len(maps)


def test_known_numbers() -> None:
    """OEIS A000110 (Bell) and A008277 (Stirling); the numbers by which the supplement's formula differs."""
    assert [partitions(n, n) for n in range(1, 11)] == [1, 2, 5, 15, 52, 203, 877, 4140, 21147, 115975]
    assert [stirling(8, slots) for slots in range(1, 9)] == [1, 127, 966, 1701, 1050, 266, 28, 1]
    assert (topologies_of_all(3, 3), topologies_of_all(3, 3, count="paper")) == (6, 19)


def test_more_slots_than_layers_are_never_all_read() -> None:
    assert topologies_of_all(5, 6) == stirling(5, 6) == 0
    assert partitions(5, 6) == partitions(5, 5)


def test_fewer_slots_than_stages_are_too_few() -> None:
    assert staged_topologies([2, 2, 2], 2) == staged_topologies([2, 2, 2], 2, count="paper") == 0


@pytest.mark.parametrize("count", ["exact", "paper"])
def test_more_isotropic_networks_have_more_topologies(count: object) -> None:
    found = [staged_topologies([stage] * (32 // stage), 32, count) for stage in (1, 2, 4, 8, 16, 32)]
    assert found == sorted(found)
    assert found[0] == factorial(32)


def test_a_thousand_layers() -> None:
    assert stirling(1000, 2) == 2**999 - 1
    assert topologies_of_all(1000, 999) == comb(1000, 2) * factorial(999)
    assert topologies(1000, 1000) == 10**3000
    assert staged_topologies([8] * 125, 125) == factorial(125)
    # With one slot more, one of the stages may read two.
    assert staged_topologies([4] * 250, 251) == factorial(251) * (1 + 250 * stirling(4, 2))


@pytest.mark.parametrize("number", [0, -1, 2.0, True, "2", None])
@pytest.mark.parametrize("ask", [topologies, topologies_of_all, stirling, partitions])
def test_numbers_that_are_none(ask: object, number: object) -> None:
    with pytest.raises(SpecError, match=r"layers=.*need a whole number of at least 1"):
        ask(number, 2)
    with pytest.raises(SpecError, match=r"slots=.*need a whole number of at least 1"):
        ask(2, number)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2), r"stages=\[\]: need the number of layers of each stage"),
        ((8, 2), "stages=8: need"),
        (("88", 2), "stages='88': need"),
        (([2, 0], 2), "layers=0: need a whole number"),
        (([2, 2], 0), "slots=0: need a whole number"),
        (([2, 2], 3, "other"), "count='other': need 'exact' or 'paper'"),
    ],
)
def test_stages_that_are_none(arguments: tuple, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        staged_topologies(*arguments)
