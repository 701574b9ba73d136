"""The general penalty: minimiser, mean kept, permutations, no two inputs further apart, a gap that bounds."""

from hypothesis import given
from hypothesis import strategies as st
import torch
from torch import Tensor

import weightshare as ws
from weightshare.values.convex import Clusters, convex_clustering
from weightshare.values.graph import graph_clusters
from weightshare.values.groups import group_penalty, prox_groups

NUMBERS = st.one_of(st.integers(-5, 5).map(float), st.floats(-10, 10))
STEPS = st.floats(1e-3, 20)
COUNTS = st.sampled_from([1, 2, 3, 5, 7, 11])


def numbers(draw: st.DrawFn, *shape: int, values: st.SearchStrategy[float] = NUMBERS) -> Tensor:
    size = int(torch.Size(shape).numel())
    return torch.tensor(draw(st.lists(values, min_size=size, max_size=size)), dtype=torch.float64).view(shape)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    n = draw(COUNTS)
    labels = torch.tensor(draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)))
    return numbers(draw, n), numbers(draw, n), labels


@st.composite
def coupled(draw: st.DrawFn, width: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Two sets of rows, and couplings of which half are 0."""
    n, k = draw(COUNTS), width or draw(st.sampled_from([1, 2, 3]))
    pulls = numbers(draw, n, n, values=st.one_of(st.just(0.0), st.floats(0, 3))).triu(1)
    return numbers(draw, n, k), numbers(draw, n, k), pulls + pulls.T


def energy(z: Tensor, w: Tensor, coupling: Tensor, step: float) -> float:
    return float((z - w).square().sum()) / 2 + step * float(group_penalty(z, weights=coupling))


def both(w: Tensor, coupling: Tensor, step: float) -> list[Clusters]:
    """Every way to the answer that there is for these rows."""
    found = [convex_clustering(w, step, weights=coupling, tolerance=1e-11)]
    return [*found, graph_clusters(w, None, coupling, step)] if w.shape[1] == 1 else found


@given(grouped(), STEPS)
def test_groups_are_minimised(given_: tuple[Tensor, Tensor, Tensor], step: float) -> None:
    w, other, labels = given_
    z = prox_groups(w, labels, step)

    def value(at: Tensor) -> float:
        return float((at - w).square().sum()) / 2 + step * float(group_penalty(at, labels))

    # strongly convex: whatever lies elsewhere is worse by half the squared distance
    assert value(z) + float((z - other).square().sum()) / 2 <= value(other) + 1e-9


@given(grouped(), STEPS, st.randoms(use_true_random=False))
def test_groups_keep_their_means_and_go_by_any_name(
    given_: tuple[Tensor, Tensor, Tensor], step: float, chance: object
) -> None:
    w, _, labels = given_
    z = prox_groups(w, labels, step)
    means = [[float(v[labels == g].sum()) for g in range(4)] for v in (w, z)]
    assert torch.allclose(*torch.tensor(means).unbind(0), rtol=0, atol=1e-5)
    order = list(range(len(w)))
    chance.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.allclose(prox_groups(w[order], labels[order], step), z[order], rtol=0, atol=1e-12)
    renamed = torch.tensor([-1, 7, 0, 2**33, 5])[labels + 1]
    assert torch.allclose(prox_groups(w, renamed, step), z, rtol=0, atol=1e-12)


@given(coupled(), STEPS)
def test_it_minimises_up_to_the_gap(given_: tuple[Tensor, Tensor, Tensor], step: float) -> None:
    w, other, coupling = given_
    for z, _, gap, _ in both(w, coupling, step):
        scale = 1 + energy(w, w, coupling, step) + float(w.square().sum())
        assert gap <= 1e-10 * scale
        assert energy(z, w, coupling, step) <= energy(w, w, coupling, step) + 1e-12 * scale
        # the optimum is worse elsewhere by half the squared distance; z is as good as the optimum but for the gap
        assert energy(z, w, coupling, step) <= energy(other, w, coupling, step) + gap + 1e-12 * scale


@given(coupled(), STEPS, st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_the_gap_bounds_the_distance_to_the_optimum(
    given_: tuple[Tensor, Tensor, Tensor], step: float, tolerance: float
) -> None:
    w, _, coupling = given_
    loose = convex_clustering(w, step, weights=coupling, tolerance=tolerance)
    tight = convex_clustering(w, step, weights=coupling, tolerance=1e-11)
    distance = float((loose.z - tight.z).norm())
    # A gap is a difference of energies, so it is known to their rounding, and the distance to the root of that.
    rounding = 1e-15 * (1 + float(w.square().sum()) + energy(w, w, coupling, step))
    assert distance <= (2 * (loose.gap + rounding)) ** 0.5 + (2 * (tight.gap + rounding)) ** 0.5


@given(coupled(width=1), STEPS)
def test_two_ways_are_within_both_their_gaps(given_: tuple[Tensor, Tensor, Tensor], step: float) -> None:
    w, _, coupling = given_
    rows = convex_clustering(w, step, weights=coupling, tolerance=1e-11)
    graph = graph_clusters(w, None, coupling, step)
    assert float((rows.z - graph.z).norm()) <= (2 * rows.gap) ** 0.5 + (2 * graph.gap) ** 0.5 + 1e-11


@given(coupled(), STEPS)
def test_the_mean_is_kept_and_clusters_are_equal(given_: tuple[Tensor, Tensor, Tensor], step: float) -> None:
    w, _, coupling = given_
    for z, labels, _, _ in both(w, coupling, step):
        assert torch.allclose(z.mean(0), w.mean(0), rtol=0, atol=1e-11)
        together = labels[:, None] == labels
        assert bool((~together | z[:, None].eq(z).all(-1)).all())
        assert torch.equal(labels.unique(), torch.arange(int(labels.max()) + 1))


@given(coupled(), STEPS, st.randoms(use_true_random=False))
def test_the_order_of_rows_is_nothing(given_: tuple[Tensor, Tensor, Tensor], step: float, chance: object) -> None:
    w, _, coupling = given_
    order = list(range(len(w)))
    chance.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    turned = coupling[order][:, order]
    for one, other in zip(both(w, coupling, step), both(w[order], turned, step), strict=True):
        bound = (2 * one.gap) ** 0.5 + (2 * other.gap) ** 0.5
        assert float((one.z[order] - other.z).norm()) <= bound + 1e-11


@given(coupled(), STEPS)
def test_two_inputs_come_no_further_apart(given_: tuple[Tensor, Tensor, Tensor], step: float) -> None:
    a, b, coupling = given_
    for one, other in zip(both(a, coupling, step), both(b, coupling, step), strict=True):
        slack = (2 * one.gap) ** 0.5 + (2 * other.gap) ** 0.5
        assert float((one.z - other.z).norm()) <= float((a - b).norm()) + slack + 1e-11


@given(coupled(width=1), STEPS)
def test_all_pairs_of_scalars_are_the_pairwise_map(given_: tuple[Tensor, Tensor, Tensor], step: float) -> None:
    w, _, _ = given_
    exact = ws.prox_pairwise(w, step)
    for found in (convex_clustering(w, step, tolerance=1e-11), graph_clusters(w, None, None, step)):
        assert float((found.z.view(w.shape) - exact).norm()) <= (2 * found.gap) ** 0.5 + 1e-11
