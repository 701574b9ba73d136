"""Every backend computes what `plain` computes; `plain` what the slow twins here do."""

from itertools import pairwise

import pytest
import torch

from weightshare import kernels
from weightshare.kernels import plain

BACKENDS = [kernels.on(torch.device("cpu")), plain]
BY_BACKEND = pytest.mark.parametrize("backend", BACKENDS, ids=["chosen", "plain"])
NOTHING = torch.empty(0, dtype=torch.float64)
BOUNDS = torch.tensor([0, 7, 7, 8, 21])


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Cut into pieces for threads, and to bound the memory, what is long enough to test it."""
    monkeypatch.setattr(BACKENDS[0], "ALONE", 1009, raising=False)
    monkeypatch.setattr(plain, "PIECE", 1013)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def numbers(n, dtype=torch.float64):
    return torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(n))


def grids():
    low, high = -4.0, 4.0
    yield plain.Grid(low, (13 << plain.UNIT) / (high - low), 13, NOTHING.int(), NOTHING, NOTHING, 1)
    child = torch.full((13,), -1, dtype=torch.int32)
    child[[5, 7]] = torch.tensor([0, 1], dtype=torch.int32)
    scales = torch.tensor([(5 << plain.UNIT) / 0.5, 0.0], dtype=torch.float64)
    lows = torch.tensor([-0.9, 0.4], dtype=torch.float64)
    yield plain.Grid(low, (13 << plain.UNIT) / (high - low), 13, child, lows, scales, 5)


@BY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bounds", [BOUNDS, torch.tensor([0, 7, 14, 21]), torch.tensor([0, 21]), torch.tensor([0])])
def test_sort(backend, dtype, bounds):
    flat = numbers(21, dtype)[: int(bounds[-1])]
    values, order = backend.sort(flat, bounds)
    assert torch.equal(flat[order.long()], values)
    for start, stop in pairwise(bounds.tolist()):
        assert torch.equal(values[start:stop], flat[start:stop].sort().values)
        assert torch.equal(order[start:stop].long().sort().values, torch.arange(start, stop))


@BY_BACKEND
@pytest.mark.parametrize("places", ["float32", "float64"])
def test_sort_of_special_numbers(backend, places):
    tiny = torch.finfo(getattr(torch, places)).smallest_normal
    flat = torch.tensor(
        [0.0, -0.0, tiny / 2, -tiny / 2, torch.inf, -torch.inf, 3.0, -3.0], dtype=getattr(torch, places)
    )
    values, _ = backend.sort(flat, torch.tensor([0, 8]))
    assert values.tolist() == [-torch.inf, -3, -tiny / 2, 0, 0, tiny / 2, 3, torch.inf]


@pytest.mark.parametrize("rounds", [0, 1, 64])
def test_pool_is_the_same_everywhere(rounds, monkeypatch):
    monkeypatch.setattr(plain, "ROUNDS", max(rounds, 1))
    places, _ = plain.sort(numbers(21), BOUNDS)
    for masses in (None, torch.arange(1, 22).double()):
        for step in (0.0, 0.3, 2.0, 50.0):
            (ends, values), (same, close) = (b.pool(places, masses, BOUNDS, step) for b in BACKENDS)
            assert torch.equal(ends, same)
            assert torch.allclose(values, close, rtol=0, atol=1e-13)
            assert set(BOUNDS[1:].tolist()) <= set(ends.tolist())


@BY_BACKEND
def test_spread(backend):
    ends, values = torch.tensor([2, 3, 7]), torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    order = torch.tensor([6, 0, 3, 1, 2, 5, 4])
    out, labels = torch.empty(7), torch.empty(7, dtype=torch.int64)
    backend.spread(ends, values, order, out, labels)
    assert labels.tolist() == [0, 2, 2, 1, 2, 2, 0]
    assert torch.equal(out, values.float()[labels])
    backend.spread(ends, -values, order.int(), out, None)
    assert torch.equal(out, -values.float()[labels])


@BY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labels", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_sums_by_label(backend, labels, dtype):
    flat = numbers(2011, dtype)
    at = torch.arange(2011).mul(7).remainder(11).to(labels)  # of 13 labels two have no number
    wanted = torch.stack([flat[at == label].double().sum() for label in range(13)])
    found = backend.by_label(flat, at, 13)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-5)
    strided = torch.stack([flat, at.to(dtype)], 1)
    torch.testing.assert_close(backend.by_label(strided[:, 0], at, 13), found)


@BY_BACKEND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("labels", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_values_by_label(backend, labels, dtype):
    values, at = numbers(13).to(dtype), torch.arange(2011).mul(7).remainder(13)
    assert torch.equal(backend.take(values, at.to(labels)), values[at])
    assert torch.equal(backend.take(values, at.to(labels)[::2]), values[at[::2]])
    assert backend.take(values, at[:0].to(labels)).shape == (0,)


@BY_BACKEND
def test_values_that_were_read_can_be_resized(backend):
    """FSDP frees the storage of a parameter between passes."""
    values = numbers(13).float()
    backend.take(values, torch.arange(13))
    values.untyped_storage().resize_(0)
    assert values.untyped_storage().nbytes() == 0


@BY_BACKEND
@pytest.mark.parametrize("wrong", [9, -1])
def test_a_label_that_points_nowhere_is_an_error(backend, wrong):
    with pytest.raises((IndexError, RuntimeError), match=r"(?i)index|label"):
        backend.by_label(torch.ones(3), torch.tensor([0, 1, wrong]), 2)
    with pytest.raises((IndexError, RuntimeError), match=r"(?i)index|label"):
        backend.take(torch.ones(2), torch.tensor([0, 1, wrong]))


def test_what_follows_a_tensor():
    plain_one, leaf = torch.ones(2), torch.ones(2, requires_grad=True)
    assert not kernels.followed(plain_one)
    assert kernels.followed(plain_one, leaf)
    with torch.no_grad():
        assert not kernels.followed(leaf)
    with torch.autograd.forward_ad.dual_level():
        assert kernels.followed(plain_one)
    inside = []
    torch.vmap(lambda x: inside.append(kernels.followed(x)) or x)(plain_one)
    assert inside == [True]
    assert torch.equal(
        torch.compile(lambda x: x * (2 if kernels.followed(x) else 3), backend="eager")(plain_one), 2 * plain_one
    )

    class Own(torch.Tensor):
        pass

    assert kernels.followed(plain_one.as_subclass(Own))


@BY_BACKEND
@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("n", [1, 101, 5_003])
def test_count(backend, split, n):
    grid, flat = list(grids())[split], numbers(n, torch.float32).clamp(-4, 4)
    found = backend.count(flat, grid)
    place = ((flat.double() + 4) * grid.scale).long().clamp(max=(13 << plain.UNIT) - 1)
    leaf = place // 2**plain.UNIT
    counts = torch.bincount(leaf, minlength=13)
    sums = torch.zeros(13, dtype=torch.int64).index_add(0, leaf, place % 2**plain.UNIT)
    inside = torch.isin(leaf, torch.tensor([5, 7])).sum()
    expected = [(counts, sums), (inside, None)][split]
    got = [(found[:, 0], found[:, 1]), (found[:, 0].sum(), None)][split]
    assert all(a is b or torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert found.shape == ([13, 10][split], 2)
    assert torch.equal(found, plain.count(flat, grid))


@BY_BACKEND
def test_span_and_extremes(backend):
    grid, flat = list(grids())[1], numbers(101, torch.float32)
    assert backend.span(flat) == (float(flat.min()), float(flat.max()))
    leaf = ((flat.double() + 4) * 13 / 8).long()
    expected = [[-float(flat[leaf == b].min()), float(flat[leaf == b].max())] for b in (5, 7)]
    assert backend.extremes(flat, grid, 2).tolist() == expected


@BY_BACKEND
@pytest.mark.parametrize("n", [1, 101, 5_003])
def test_read(backend, n):
    for grid in grids():
        flat = numbers(n, torch.float32)
        table = torch.stack([torch.arange(grid.leaves) % 2, torch.arange(grid.leaves)], 1).float()
        out, same = torch.empty_like(flat), flat.clone()
        backend.read(flat, grid, table, out)
        plain.read(same, grid, table, same)
        assert torch.allclose(out, same, rtol=0, atol=1e-6)


def test_no_compiler_is_loaded_before_it_is_needed():
    assert kernels.on(torch.device("meta")) is plain
