"""How many templates each group stores, so that the whole model stores no more numbers than it may.

Source: Plummer 2022, "Neural Parameter Allocation Search": a network that stores a given number of parameters,
whatever its layers need. Differs: groups are those of `Templates`, and not learned; a group stores at most one template
for each layer, so a budget above what the network stores now is not used up.
"""

from collections.abc import Sequence
from fractions import Fraction
import heapq
import math

from weightshare.errors import SpecError


def checked_budget(budget: float | int | None) -> None:
    """Refuse what is no budget.

    Raises:
        SpecError: If it is neither a fraction above 0 and at most 1 nor a whole number of at least 1.
    """
    fraction = type(budget) is float and 0 < budget <= 1
    count = type(budget) is int and 1 <= budget < 2**62
    if not (fraction or count):
        raise SpecError(
            f"Templates(budget={budget!r}): need how many numbers the whole model may store, at least 1, or a fraction "
            "of those that it stores now, such as 0.5, at most 1.0."
        )


def in_numbers(budget: float | int, stored: int) -> int:
    """A budget as a count.

    Args:
        budget: A count, or a fraction.
        stored: What the whole model stores now.

    Example:
        >>> in_numbers(0.5, 101), in_numbers(7, 101)
        (50, 7)
    """
    # The fraction as it is written: 0.29 as a float is a little less, and would cost a number.
    return budget if isinstance(budget, int) else math.floor(Fraction(repr(budget)) * stored)


def allocate(groups: Sequence[tuple[int, int]], room: int) -> list[int]:
    """How many templates each group gets, as evenly as they fit: `k/L` is as equal over groups as it can be.

    Each group gets one; then, again and again, the group of lowest `k/L` that one more fits for. None gets more than it
    has layers, so at the end no group could take another one.

    Args:
        groups: Layers, at least 1, and numbers of one template, of each. A template of `d` numbers and its coefficients
            for `L` layers store `d + L`.
        room: How many numbers all groups may store.

    Returns:
        `k` of each group, from 1 to its layers.

    Raises:
        SpecError: If one template for each group does not fit.

    Example:
        >>> allocate([(6, 94), (6, 394)], room=1_700)  # of 100 and 400 numbers: three each, then what fits the first
        [5, 3]
    """
    costs = [layers + numel for layers, numel in groups]
    left = room - sum(costs)
    if left < 0:
        raise SpecError(f"One template in each group stores {sum(costs):,} numbers, there is room for {room:,}.")
    found = [1] * len(groups)
    waiting = [(1 / layers, at) for at, (layers, _) in enumerate(groups) if layers > 1]
    heapq.heapify(waiting)
    while waiting:
        _, at = heapq.heappop(waiting)
        if costs[at] > left:
            continue  # and never again: what is left only shrinks
        left -= costs[at]
        found[at] += 1
        if found[at] < groups[at][0]:
            heapq.heappush(waiting, (found[at] / groups[at][0], at))
    return found
