"""The proximal map: minimiser, mean and order kept, no two inputs further apart, Moreau's identity, steps compose."""

import math

from hypothesis import given
from hypothesis import strategies as st
import torch
from torch import Tensor

from tests.particles import objective
import weightshare as ws
from weightshare.values.pairwise import pairwise_conjugate, subdifferential_distance
from weightshare.values.prox import prox_path

NUMBERS = st.one_of(st.integers(-5, 5).map(float), st.floats(-10, 10))
STEPS = st.floats(1e-3, 20)
COUNTS = st.sampled_from([1, 2, 3, 5, 7, 11, 13])


@st.composite
def vectors(draw: st.DrawFn, how_many: int = 1) -> list[Tensor]:
    n = draw(COUNTS)
    numbers = st.lists(NUMBERS, min_size=n, max_size=n)
    return [torch.tensor(draw(numbers), dtype=torch.float64) for _ in range(how_many)]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-11)


@given(vectors(2), STEPS)
def test_it_minimises(pair: list[Tensor], step: float) -> None:
    w, other = pair
    z = ws.prox_pairwise(w, step)
    # strongly convex: whatever lies elsewhere is worse by half the squared distance
    assert objective(z, w, step) + float((z - other).square().sum()) / 2 <= objective(other, w, step) + 1e-9
    assert subdifferential_distance(z, (w - z) / step) <= 1e-9 / step


@given(vectors(), STEPS)
def test_mean_and_order_are_kept(one: list[Tensor], step: float) -> None:
    (w,) = one
    z = ws.prox_pairwise(w, step)
    assert close(z.mean(), w.mean())
    assert bool((z[w.argsort()].diff() >= 0).all())
    assert bool(((w[:, None] != w) | (z[:, None] == z)).all())


@given(vectors(2), STEPS)
def test_two_inputs_come_no_further_apart(pair: list[Tensor], step: float) -> None:
    a, b = pair
    apart = ws.prox_pairwise(a, step) - ws.prox_pairwise(b, step)
    assert float(apart.norm()) <= float((a - b).norm()) + 1e-11
    assert float(apart.abs().max()) <= float((a - b).abs().max()) + 1e-11  # what the bound of the binned map rests on


@given(vectors(2), STEPS)
def test_it_is_monotone_and_moves_along(pair: list[Tensor], step: float) -> None:
    a, b = pair
    assert bool((ws.prox_pairwise(torch.maximum(a, b), step) >= ws.prox_pairwise(a, step) - 1e-11).all())
    assert close(ws.prox_pairwise(a + 3.0, step), ws.prox_pairwise(a, step) + 3.0)


@given(vectors(), STEPS)
def test_moreaus_identity(one: list[Tensor], step: float) -> None:
    """`w = prox_{sR}(w) + s P(w/s)` with `P` the projection on the set where `R*` is 0."""
    (w,) = one
    y = (w - ws.prox_pairwise(w, step)) / step
    assert pairwise_conjugate(y, tolerance=1e-9 / step + 1e-12) == 0
    # a projection: <w/s - y, u - y> <= 0 for every u of the set, and the greatest <., u> is R
    assert float(ws.pairwise_penalty(w / step - y)) <= float((w / step - y) @ y) + 1e-8 / step**2


@given(vectors(), STEPS)
def test_a_point_outside_the_set_is_infinite(one: list[Tensor], step: float) -> None:
    (w,) = one
    y = ws.prox_pairwise(w, step)
    assert pairwise_conjugate(y + 1e3) == math.inf


@given(vectors(), STEPS, STEPS)
def test_steps_compose(one: list[Tensor], first: float, second: float) -> None:
    (w,) = one
    once = ws.prox_pairwise(w, first + second)
    assert close(ws.prox_pairwise(ws.prox_pairwise(w, first), second), once)
    assert close(prox_path(w, [first, first + second])[1], once)


@given(vectors(), STEPS, STEPS)
def test_clusters_only_grow(one: list[Tensor], first: float, second: float) -> None:
    (w,) = one
    path = prox_path(w, [first, first + second])
    together = path[:, :, None] == path[:, None, :]
    assert bool((~together[0] | together[1]).all())


@given(vectors(), STEPS, st.sampled_from([2, 3, 17, 65536]))
def test_without_sorting_the_bound_holds_and_the_mean_is_kept(one: list[Tensor], step: float, bins: int) -> None:
    (w,) = one
    z, bound = ws.prox_pairwise_binned(w, step, bins)
    assert float((z - ws.prox_pairwise(w, step)).abs().max()) <= bound + 1e-14  # the exact map rounds too
    assert abs(float(z.mean() - w.mean())) <= 1e-8
