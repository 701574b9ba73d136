"""Grids of shortest paths: against a search of one pixel after the other, and against scipy's graphs."""

from collections import deque

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
import torch

from weightshare.errors import SpecError
from weightshare.training.data.shortest_paths import draw_grids, search


def neighbours(free, pixel):
    """Free pixels beside one."""
    height, width = free.shape
    row, column = pixel
    beside = ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
    return [(r, c) for r, c in beside if 0 <= r < height and 0 <= c < width and free[r, c]]


def queue_search(free, start):
    """Breadth-first search of one grid with a queue, as textbooks have it."""
    steps, waiting = {start: 0}, deque([start])
    while waiting:
        pixel = waiting.popleft()
        for near in neighbours(free, pixel):
            if near not in steps:
                steps[near] = steps[pixel] + 1
                waiting.append(near)
    return steps


def ends_of(grids, number):
    return [tuple(point) for point in grids.inputs[number, 0].nonzero().tolist()]


@pytest.mark.parametrize(
    ("size", "distance", "obstacles"), [(7, (1, 5), 0.3), (11, (9, 17), 0.4), (5, (1, 8), 0.0), (13, (20, 23), 0.3)]
)
def test_the_truth_is_that_of_a_queue(size, distance, obstacles):
    grids = draw_grids(29, size, distance, obstacles, seed=3)
    assert grids.inputs.shape == (29, 2, size, size)
    assert grids.on_path.shape == (29, size, size)
    for number in range(29):
        free = grids.inputs[number, 1] == 0
        first, second = ends_of(grids, number)
        assert free[first]
        assert free[second]
        ahead, back = queue_search(free, first), queue_search(free, second)
        length = ahead[second]
        assert distance[0] <= length == int(grids.distances[number]) <= distance[1]
        on = {pixel for pixel in ahead if ahead[pixel] + back[pixel] == length}
        assert {tuple(pixel) for pixel in grids.on_path[number].nonzero().tolist()} == on


def test_distances_are_those_of_a_graph():
    generator = torch.Generator().manual_seed(5)
    free = torch.rand(17, 7, 11, generator=generator) > 0.35
    start = torch.zeros_like(free)
    start[:, 3, 5] = True
    free |= start
    found = search(free, start)
    for number in range(17):
        ids = {tuple(pixel): at for at, pixel in enumerate(free[number].nonzero().tolist())}
        edges = [(ids[one], ids[two]) for one in ids for two in neighbours(free[number], one)]
        rows, columns = zip(*edges, strict=True)
        graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(ids), len(ids)))
        steps = dijkstra(graph.tocsr(), indices=ids[3, 5])
        wanted = torch.full((7, 11), -1)
        for pixel, at in ids.items():
            wanted[pixel] = -1 if np.isinf(steps[at]) else int(steps[at])
        assert torch.equal(found[number], wanted)


def test_a_search_ends_where_it_is_told_to():
    free = torch.ones(1, 3, 7).bool()
    start = torch.zeros_like(free)
    start[0, 1, 0] = True
    assert search(free, start)[0, 1].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert search(free, start, most=2)[0].tolist() == [
        [1, 2, -1, -1, -1, -1, -1],
        [0, 1, 2, -1, -1, -1, -1],
        [1, 2, -1, -1, -1, -1, -1],
    ]
    assert search(free, start, most=0).eq(-1).sum() == 20
    assert int(start.sum()) == 1  # arguments stay as they are


def test_grids_depend_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, again = (draw_grids(13, 7, (2, 6), seed=(4, 9)) for _ in range(2))
    assert all(torch.equal(*parts) for parts in zip(one, again, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    for other in ((4, 10), (9, 4), 4, (5, 9), (0, 4, 9)):
        assert not torch.equal(one.inputs, draw_grids(13, 7, (2, 6), seed=other).inputs)


def test_every_distance_of_a_range_is_as_frequent():
    grids = draw_grids(3000, 7, (3, 7), seed=2)
    counts = grids.distances.bincount(minlength=8)
    assert counts[:3].sum() == 0
    assert (counts[3:] - 600).abs().max() < 100  # 4.5 standard deviations
    closed = grids.inputs[:, 1].mean().item()
    assert 0.2 < closed < 0.32  # fewer than 0.3, as points have to be connected


def test_a_grid_without_obstacles_has_rectangles_of_paths():
    grids = draw_grids(31, 7, (1, 12), obstacles=0.0, seed=7)
    for number in range(31):
        (row, column), (other_row, other_column) = ends_of(grids, number)
        apart = abs(row - other_row), abs(column - other_column)
        assert sum(apart) == grids.distances[number]
        assert grids.on_path[number].sum() == (apart[0] + 1) * (apart[1] + 1)


def test_no_grid_at_all():
    grids = draw_grids(0, 5, (1, 3))
    assert [part.shape for part in grids] == [(0, 2, 5, 5), (0, 5, 5), (0,)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"number": -1}, "number=-1"),
        ({"size": 1}, "size=1"),
        ({"distance": (0, 3)}, r"distance=\(0, 3\): need 1 <= least"),
        ({"distance": (4, 3)}, r"distance=\(4, 3\)"),
        ({"distance": (3, 25)}, "most <= 24"),
        ({"obstacles": 1.0}, "obstacles=1.0"),
        ({"obstacles": -0.1}, "obstacles=-0.1"),
        ({"obstacles": float("nan")}, "obstacles=nan"),
        ({"distance": (9, 9), "obstacles": 0.0}, "No grid of 5×5 pixels, 0 of them .* 9 steps apart"),
        ({"distance": (3, 3), "obstacles": 0.999}, "Ask for shorter paths or larger grids"),
    ],
)
def test_requests_that_cannot_be_met(wrong, said):
    with pytest.raises(SpecError, match=said):
        draw_grids(**({"number": 3, "size": 5, "distance": (2, 3)} | wrong))
