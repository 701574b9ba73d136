"""Topologies: which layer reads which slot, as functions from a number of layers and a share rate to labels.

An *order* assigns `layers` layers to `slots` slots; a *spread* says which layers take part in the sharing at all.

| | 6 layers, rate 2 | |
|---|---|---|
| `sequential` | `0 0 1 1 2 2` | neighbours share |
| `strided` | `0 1 2 0 1 2` | also called interleaved or cyclic |
| `random(seed)` | a seeded shuffle of the sequential one | |

Source: Lin 2022, section 3 (mapping and distribution); orders other than sequential are in the authors' released code.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
import random as python_random
import re
from typing import Any

from weightshare.errors import SpecError
from weightshare.parts import Part
from weightshare.sharing import Assignment


class Choice(Part):
    """A part that a user names by a lower-case word: `sequential`, `front`, `random(seed=3)`."""

    def __repr__(self) -> str:
        return super().__repr__().removesuffix("()")

    def _name(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()


class Order(Choice):
    """How layers are dealt out to slots. Subclass it, as a frozen dataclass, for an order of your own."""

    @abstractmethod
    def __call__(self, layers: int, slots: int) -> list[int]:
        """The slot of each layer, `layers` numbers that use every slot from 0 to `slots - 1`."""


class Spread(Choice):
    """Which layers share at all. Subclass it, as a frozen dataclass, for a spread of your own."""

    @abstractmethod
    def __call__(self, layers: int) -> range:
        """The layers that share; the others keep a slot of their own."""


@dataclass(frozen=True, repr=False)
class Sequential(Order):
    """Runs of neighbours, of lengths that differ by one at most: `0 0 1 1 2 2`."""

    def __call__(self, layers: int, slots: int) -> list[int]:
        return [layer * slots // layers for layer in range(layers)]


@dataclass(frozen=True, repr=False)
class Strided(Order):
    """Every `slots`-th layer: `0 1 2 0 1 2`."""

    def __call__(self, layers: int, slots: int) -> list[int]:
        return [layer % slots for layer in range(layers)]


@dataclass(frozen=True, repr=False)
class Random(Order):
    """A seeded shuffle of `sequential`, its slots numbered as the layers come; every role of a block gets the same.

    Args:
        seed: Any whole number.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SpecError(f"random(seed={self.seed!r}): need a whole number.")

    def __call__(self, layers: int, slots: int) -> list[int]:
        labels = Sequential()(layers, slots)
        python_random.Random(self.seed).shuffle(labels)
        return renumber(labels)


@dataclass(frozen=True, repr=False)
class Uniform(Spread):
    """All layers share."""

    def __call__(self, layers: int) -> range:
        return range(layers)


@dataclass(frozen=True, repr=False)
class Third(Spread):
    """One third of the layers shares: 0 the front, 1 the middle, 2 the back."""

    which: int

    def __post_init__(self) -> None:
        if type(self.which) is not int or self.which not in (0, 1, 2):
            raise SpecError(f"Third(which={self.which!r}): need 0 for the front, 1 for the middle or 2 for the back.")

    def __repr__(self) -> str:
        return ("front", "middle", "back")[self.which]

    def __call__(self, layers: int) -> range:
        return range(layers * self.which // 3, layers * (self.which + 1) // 3)


sequential = Sequential()
"""Runs of neighbours read one slot: `0 0 1 1 2 2`."""
strided = Strided()
"""Every `slots`-th layer reads one slot: `0 1 2 0 1 2`."""
random = Random
"""`random(seed)`: a seeded shuffle of `sequential`."""
uniform = Uniform()
"""All layers share."""
front = Third(0)
"""The first third of the layers shares."""
middle = Third(1)
"""The second third of the layers shares."""
back = Third(2)
"""The last third of the layers shares."""


def labels(layers: int, rate: float, order: Order = sequential, spread: Spread = uniform) -> list[int]:
    """Assign layers to slots at a share rate.

    The layers that `spread` picks share `⌈their number / rate⌉` slots, dealt out by `order`; every other layer keeps a
    slot of its own. Slots are numbered as the layers come.

    Args:
        layers: Number of layers `L`, at least 1.
        rate: Share rate `L/P`, from 1 (nothing is shared) to the number of layers that share. It need not divide it.
        order: How layers are dealt out to slots.
        spread: Which layers share.

    Returns:
        The slot of each layer; every slot from 0 to the largest has a reader.

    Raises:
        SpecError: If the rate is above the number of layers that share.

    Source: Lin 2022, section 3. Differs: nothing; the paper uses rates that divide the depth only.

    Example:
        >>> labels(6, 2), labels(6, 2, strided), labels(6, 2, spread=middle)
        ([0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2], [0, 1, 2, 2, 3, 4])
        >>> labels(7, 3)
        [0, 0, 0, 1, 1, 2, 2]
    """
    sharing = spread(layers)
    if not isinstance(sharing, range) or not set(sharing) <= set(range(layers)):
        raise SpecError(f"The spread {spread!r} gives {sharing!r} of {layers} layers: need a range of them.")
    if rate > len(sharing):
        part = "" if len(sharing) == layers else f" of which {len(sharing)} share"
        raise SpecError(f"Share rate {rate:g} is above the depth: the group has {layers} layers{part}.")
    slots = _slots(len(sharing), rate)
    dealt = order(len(sharing), slots)
    if not isinstance(dealt, list) or len(dealt) != len(sharing) or set(dealt) != set(range(slots)):
        raise SpecError(
            f"The order {order!r} gives {dealt!r} for {len(sharing)} layers and {slots} slots: "
            "need each slot once or more."
        )
    # Slots of layers that do not share are numbered past those that do, then all are renumbered in order.
    raw = [len(sharing) + layer for layer in range(layers)]
    for layer, slot in zip(sharing, dealt, strict=True):
        raw[layer] = slot
    return renumber(raw)


def _slots(layers: int, rate: float) -> int:
    # A rate such as 15/13 is rounded as a float; the tolerance keeps it from asking for one slot more.
    return math.ceil(layers / rate - 1e-9)


def renumber(raw: Sequence[int]) -> list[int]:
    """Number slots in the order in which layers first read them.

    Example:
        >>> renumber([7, 2, 7, 0])
        [0, 1, 0, 2]
    """
    numbers: dict[int, int] = {}
    return [numbers.setdefault(slot, len(numbers)) for slot in raw]


def checked_slots(slots: Any) -> tuple[Any, ...]:
    """One list of slots, or for several lists of blocks pairs of a path and its slots.

    Args:
        slots: A list of whole numbers, every one from 0 to the largest; or a mapping from paths to such lists, or its
            pairs.

    Returns:
        The same as tuples.

    Raises:
        SpecError: If they are nothing of the kind.

    Example:
        >>> checked_slots([0, 1, 0]), checked_slots({"blocks": [0, 0]})
        ((0, 1, 0), (('blocks', (0, 0)),))
    """
    pairs: Any = tuple(slots.items()) if isinstance(slots, Mapping) else slots
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise SpecError(f"Tie(slots={slots!r}): give the slot of each layer, such as [0, 0, 1, 1].")
    if not any(isinstance(pair, Sequence) for pair in pairs):
        Assignment.of(pairs)  # says what is wrong with them
        return tuple(int(slot) for slot in pairs)
    if not all(isinstance(pair, Sequence) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise SpecError(f"Tie(slots={slots!r}): give one list of slots, or a mapping from paths to lists of slots.")
    listed = {path: checked_slots(row) for path, row in pairs}
    if len(listed) != len(pairs) or any(isinstance(row[0], tuple) for row in listed.values()):
        raise SpecError(f"Tie(slots={slots!r}): each path needs one list of slots, such as [0, 0, 1, 1].")
    return tuple(listed.items())


def listed_labels(listed: Mapping[str, Sequence[int]], before: str, indices: Sequence[int]) -> list[int]:
    """The slots of some blocks of a list of blocks, by their indices, numbered anew.

    Raises:
        SpecError: If no slots are given for that list, or fewer than it has blocks.
    """
    if before not in listed:
        raise SpecError(f"slots are given for {', '.join(map(repr, listed))}, not for the blocks of '{before}'")
    if indices[-1] >= len(listed[before]):
        raise SpecError(f"'{before}' is given {len(listed[before])} slots, and it has a block {indices[-1]}")
    return renumber([listed[before][index] for index in indices])
