"""How many topologies there are: in how many ways layers can read slots, as exact integers.

A topology is a map from `L` layers to `P` slots. What is counted depends on two questions: must every slot have a
reader, and do two maps differ that only number the slots otherwise? A network does not know the numbers, so those up to
renaming are the networks that differ.

| 3 layers, 2 slots | slots are numbered | up to renaming |
|---|---|---|
| at most 2 are read | `topologies`: 2³ = 8 | `partitions`: 4 |
| all of them are read | `topologies_of_all`: 6 | `stirling`: 3 |

In a staged network layers share inside their stage only: `staged_topologies`.

Source: Lin 2022, supplement A. Differs: the supplement takes `P^L − (P−1)^L` for the maps that use all `P` slots, which
takes away those that leave the last slot out and no others: of 3 layers and 3 slots 19 are left, and 6 maps use every
slot. Both are here: `count="paper"` for the paper's numbers, `count="exact"`, the default, for those of enumeration.
"""

from collections.abc import Sequence
from functools import cache
from math import factorial
from typing import Literal

from weightshare.errors import SpecError

Count = Literal["exact", "paper"]


def topologies(layers: int, slots: int) -> int:
    """Count all maps from layers to numbered slots: `Ω(L, P) = P^L`.

    Args:
        layers: `L`, at least 1.
        slots: `P`, at least 1.

    Returns:
        The number of topologies that store at most `P` weights, slots being told apart.

    Raises:
        SpecError: If a number is no whole one of at least 1.

    Source: Lin 2022, supplement A.1. Differs: nothing.

    Example:
        >>> topologies(3, 2)
        8
    """
    _expect(layers=layers, slots=slots)
    return slots**layers


def topologies_of_all(layers: int, slots: int, count: Count = "exact") -> int:
    """Count the maps that use exactly `P` slots: surjections, `P!·S(L, P)`; or the paper's `P^L − (P−1)^L`.

    Args:
        layers: `L`, at least 1.
        slots: `P`, at least 1. More slots than layers cannot all be read.
        count: `"exact"`, as enumeration gives it, or `"paper"`, which is larger from two slots on.

    Returns:
        `Ω̃(L, P)`.

    Raises:
        SpecError: If a number is no whole one of at least 1, or there is no such count.

    Source: Lin 2022, supplement A.1. Differs: the default is exact; see the module.

    Example:
        >>> topologies_of_all(3, 3), topologies_of_all(3, 3, count="paper")
        (6, 19)
    """
    _expect(count, layers=layers, slots=slots)
    return _of_all(layers, slots, count)


def stirling(layers: int, slots: int) -> int:
    """Count the topologies of exactly `P` slots up to renaming: `S(L, P)`, Stirling's number of the second kind.

    Args:
        layers: `L`, at least 1.
        slots: `P`, at least 1.

    Returns:
        The number of networks with `P` stored weights that differ in which layers share: the partitions of the layers
        into `P` sets.

    Raises:
        SpecError: If a number is no whole one of at least 1.

    Source: `S(L, P) = P·S(L−1, P) + S(L−1, P−1)`; not in Lin 2022.

    Example:
        >>> stirling(4, 2)
        7
    """
    _expect(layers=layers, slots=slots)
    return _stirling(layers)[slots] if slots <= layers else 0


def partitions(layers: int, slots: int) -> int:
    """Count the topologies of at most `P` slots up to renaming: `Σ_{i ≤ P} S(L, i)`.

    Args:
        layers: `L`, at least 1.
        slots: `P`, at least 1; from `L` on it is Bell's number.

    Returns:
        The number of networks with at most `P` stored weights that differ in which layers share.

    Raises:
        SpecError: If a number is no whole one of at least 1.

    Source: not in Lin 2022.

    Example:
        >>> partitions(4, 2), partitions(4, 4)
        (8, 15)
    """
    _expect(layers=layers, slots=slots)
    return sum(_stirling(layers)[: slots + 1])


def staged_topologies(stages: Sequence[int], slots: int, count: Count = "exact") -> int:
    """Count the maps of a staged network, in which no slot is read from two stages:

        Ω_S(L_N, L_S, P) = Σ_{i=1}^{min(L_S, P)} C(P, i) Ω̃(L_S, i) Ω_S(L_N − L_S, L_S, P − i),   Ω_S(0, ·, P ≥ 0) = 1

    A stage chooses `i` of the slots and uses all of those; the stages after it have the other ones.

    Args:
        stages: Layers of each stage, such as `[8] * 4` for `L_N` = 32 and `L_S` = 8; their order does not matter.
        slots: `P`, at least 1; below the number of stages there is no topology, since every stage needs one.
        count: `"exact"`, as enumeration gives it, or `"paper"`, with the paper's `Ω̃`.

    Returns:
        The number of topologies that store at most `P` weights, slots being told apart.

    Raises:
        SpecError: If there is no stage, or a number is no whole one of at least 1, or there is no such count.

    Source: Lin 2022, supplement A.2, equation 1. Differs: as printed it is 0 for every network, since its end is
    `Ω_S(0, ·, P) = 0`: 1 is read instead. Stages may differ in depth. The default is exact; see the module.

    Example:
        >>> staged_topologies([2, 2], 3), staged_topologies([2, 2], 3, count="paper")
        (18, 24)
        >>> staged_topologies([4], 3) == topologies(4, 3)
        True
    """
    if isinstance(stages, str) or not isinstance(stages, Sequence) or not stages:
        raise SpecError(f"stages={stages!r}: need the number of layers of each stage, such as [8, 8, 8, 8].")
    for layers in stages:
        _expect(layers=layers)
    _expect(count, slots=slots)
    return _staged(tuple(sorted(stages)), slots, count)


@cache
def _staged(stages: tuple[int, ...], slots: int, count: Count) -> int:
    ways = [1] * (slots + 1)  # for p slots: no stage left
    for place, layers in enumerate(stages):
        used = [0, *(_of_all(layers, i, count) for i in range(1, min(layers, slots) + 1))]
        first = slots if place == len(stages) - 1 else 0  # of the last step one entry is wanted
        ways = [0] * first + [_chosen(p, used, ways) for p in range(first, slots + 1)]
    return ways[slots]


def _chosen(slots: int, used: Sequence[int], ways: Sequence[int]) -> int:
    """The sum of equation 1, binomials made one from the other."""
    total, binomial = 0, 1
    for i in range(1, min(len(used) - 1, slots) + 1):
        binomial = binomial * (slots - i + 1) // i
        total += binomial * used[i] * ways[slots - i]
    return total


def _of_all(layers: int, slots: int, count: Count) -> int:
    if count == "paper":
        return slots**layers - (slots - 1) ** layers
    return factorial(slots) * _stirling(layers)[slots] if slots <= layers else 0


@cache
def _stirling(layers: int) -> tuple[int, ...]:
    """`S(layers, i)` for each `i` from 0 to `layers`."""
    row = [1]
    for _ in range(layers):
        row = [0, *(i * row[i] + row[i - 1] for i in range(1, len(row))), 1]
    return tuple(row)


def _expect(count: object = "exact", **numbers: object) -> None:
    for name, number in numbers.items():
        if type(number) is not int or number < 1:
            raise SpecError(f"{name}={number!r}: need a whole number of at least 1.")
    if count not in ("exact", "paper"):
        raise SpecError(f"count={count!r}: need 'exact' or 'paper'.")
