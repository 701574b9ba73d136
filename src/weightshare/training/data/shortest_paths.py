"""Grids with obstacles and two query points, and which of their pixels lie on some shortest path between the points.

The task on which sharing across layers was first shown to help beyond the examples that were trained on: what solves it
is a rule that is applied again and again, one step of a search in each layer. Grids are drawn at any distance of the
points, so a network can be asked about longer paths than it has seen. The truth is a breadth-first search of all grids
at once: each step moves every frontier by one pixel.

Source: Savarese 2019, shortest paths. Differs: how obstacles are drawn is not in the text that the project has; here
each pixel is one with a fixed probability.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
import torch
from torch import Tensor

from weightshare.errors import SpecError

ROUNDS = 300  # of drawing grids anew before a request counts as impossible
AT_ONCE = 64  # grids that a round draws at least


class Grids(NamedTuple):
    """Examples of the task.

    Args:
        inputs: Channel 0 is 1 at the two query points, channel 1 at obstacles; 0 elsewhere.
        on_path: Whether a pixel lies on some shortest path, the query points included.
        distances: Steps of a shortest path.
    """

    inputs: Float[Tensor, "grids 2 size size"]
    on_path: Bool[Tensor, "grids size size"]
    distances: Int[Tensor, " grids"]


def search(
    free: Bool[Tensor, "grids height width"], start: Bool[Tensor, "grids height width"], most: int | None = None
) -> Int[Tensor, "grids height width"]:
    """Count the steps from the start to every pixel, by breadth-first search over free pixels and their 4 neighbours.

    Args:
        free: Pixels that a path may use.
        start: Where it starts; several pixels are one start, and none need be free.
        most: Look no further than so many steps; as far as it goes by default.

    Returns:
        The distances; -1 where no path of at most `most` steps leads.

    Example:
        >>> from weightshare.training.data.shortest_paths import search
        >>> free = torch.tensor([[[1, 0, 1], [1, 1, 1], [0, 1, 0]]]).bool()
        >>> start = torch.zeros(1, 3, 3).bool()
        >>> start[0, 0, 0] = True
        >>> search(free, start).tolist()
        [[[0, -1, 4], [1, 2, 3], [-1, 3, -1]]]
    """
    steps = torch.full(start.shape, -1, dtype=torch.long).masked_fill_(start, 0)
    left, frontier, step = free & ~start, start, 0
    while most is None or step < most:
        step += 1
        near = torch.zeros_like(frontier)
        near[:, 1:] |= frontier[:, :-1]
        near[:, :-1] |= frontier[:, 1:]
        near[:, :, 1:] |= frontier[:, :, :-1]
        near[:, :, :-1] |= frontier[:, :, 1:]
        frontier = near & left
        if not frontier.any():
            break
        left = left & ~frontier
        steps.masked_fill_(frontier, step)
    return steps


def draw_grids(
    number: int, size: int, distance: tuple[int, int], obstacles: float = 0.3, seed: int | tuple[int, ...] = 0
) -> Grids:
    """Draw grids whose query points lie at distances of a range, each equally often.

    The distance of a grid is drawn first, then obstacles and a first point until some pixel lies so far from it; the
    second point is one of these pixels. So every pair of points is connected.

    Args:
        number: How many grids, 0 or more.
        size: Pixels of a side, 2 or more.
        distance: Least and most steps between the points, 1 or more.
        obstacles: Probability that a pixel is one, 0 or more and below 1.
        seed: What the grids depend on; several numbers are one seed, such as that of a run and its step.

    Returns:
        The grids, the same ones for the same arguments.

    Raises:
        SpecError: If an argument has no such value, or if grids with points so far apart are too rare to be found.

    Source: Savarese 2019, shortest paths. Differs: see the module.

    Example:
        >>> from weightshare.training.data.shortest_paths import draw_grids
        >>> grids = draw_grids(3, size=7, distance=(4, 6), seed=1)
        >>> grids.inputs.shape, bool(((grids.distances >= 4) & (grids.distances <= 6)).all())
        (torch.Size([3, 2, 7, 7]), True)
    """
    low, high = distance
    _check(number, size, low, high, obstacles)
    generator = torch.Generator().manual_seed(mixed_seed(*((seed,) if isinstance(seed, int) else seed)))
    wanted = torch.randint(low, high + 1, (number,), generator=generator)
    closed = torch.zeros(number, size, size, dtype=torch.bool)
    ends = torch.zeros(2, number, size, size, dtype=torch.bool)
    waiting = torch.arange(number)
    for _ in range(ROUNDS):
        if not len(waiting):
            break
        times = -(-AT_ONCE // len(waiting))  # few that wait are tried several times a round
        trial = wanted[waiting].repeat(times)
        drawn = torch.rand(len(trial), size, size, generator=generator) < obstacles
        first = _one_of(~drawn, generator)
        second = _one_of(search(~drawn, first, int(trial.max())) == trial[:, None, None], generator)
        found = second.any((1, 2)).view(times, -1)
        good = found.any(0)
        taken = (found.int().argmax(0) * len(waiting) + torch.arange(len(waiting)))[good]  # the first trial that did
        closed[waiting[good]], ends[:, waiting[good]] = drawn[taken], torch.stack([first, second])[:, taken]
        waiting = waiting[~good]
    if len(waiting):
        raise SpecError(
            f"No grid of {size}×{size} pixels, {obstacles:g} of them obstacles, was found whose points are "
            f"{int(wanted[waiting[0]])} steps apart, in {ROUNDS} rounds of at least {AT_ONCE} draws. Ask for shorter "
            "paths or larger grids."
        )
    both = [search(~closed, end, high) for end in ends]
    on_path = (both[0] >= 0) & (both[1] >= 0) & (both[0] + both[1] == wanted[:, None, None])
    return Grids(torch.stack([ends.any(0), closed], dim=1).float(), on_path, wanted)


def _one_of(choice: Tensor, generator: torch.Generator) -> Tensor:
    """One of the pixels that are set in each grid, with equal chances; none where none is."""
    chance = torch.rand(choice.shape, generator=generator).masked_fill_(~choice, -1).flatten(1)
    best = chance.argmax(1, keepdim=True)
    return torch.zeros_like(choice).flatten(1).scatter_(1, best, 1).view_as(choice) & choice


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers, such that numbers near each other give streams that have nothing in common.

    Args:
        numbers: In an order that counts.

    Returns:
        A number that `Generator.manual_seed` takes.

    Example:
        >>> mixed_seed(1, 2) == mixed_seed(1, 2), mixed_seed(1, 2) == mixed_seed(2, 1)
        (True, False)
    """
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return mixed


def _check(number: int, size: int, low: int, high: int, obstacles: float) -> None:
    if number < 0 or size < 2:
        raise SpecError(f"number={number}, size={size}: need 0 or more grids of 2 or more pixels a side.")
    if not 1 <= low <= high < size**2:
        raise SpecError(
            f"distance=({low}, {high}): need 1 <= least <= most <= {size**2 - 1}, since a path in {size}×{size} pixels "
            "visits none twice."
        )
    if not 0 <= obstacles < 1:
        raise SpecError(f"obstacles={obstacles}: need a probability of 0 or more and below 1.")
