"""Shakerinava 2023, open question: `R_C(w) = Σ_{i>j} C_ij ‖w_i − w_j‖`, written out pair by pair in float64.

The reference for its proximal map is accelerated AMA (Chi & Lange 2015): projected gradient on the dual variables, one
for each pair, whose own gap says how good it is.
"""

import pytest
import torch
from torch import Tensor

from tests.particles import best_partition, penalty, weights
import weightshare as ws
from weightshare.values.convex import convex_clustering
from weightshare.values.graph import graph_clusters
from weightshare.values.groups import group_penalty, prox_groups


def symmetric(n: int, density: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(n, n, generator=generator, dtype=torch.float64)
    upper = numbers.triu(1) * (torch.rand(n, n, generator=generator) < density)
    return upper + upper.T


def naive(w: Tensor, coupling: Tensor) -> float:
    """`Σ_{i>j} C_ij ‖w_i − w_j‖`"""
    return sum(float(coupling[i, j]) * float((w[i] - w[j]).norm()) for i in range(len(w)) for j in range(i))


def objective(z: Tensor, w: Tensor, coupling: Tensor) -> float:
    """`½‖z − w‖² + R_C(z)`"""
    return float((z - w).square().sum()) / 2 + naive(z, coupling)


def slow(w: Tensor, coupling: Tensor, gap: float = 1e-15, turns: int = 20000) -> Tensor:
    """The proximal map from its dual, `max ⟨w, Aᵀy⟩ − ½‖Aᵀy‖²` over `‖y_ij‖ ≤ C_ij`, and `z = w − Aᵀy`."""
    one, other = torch.triu_indices(len(w), len(w), 1)
    limits = coupling[one, other][:, None]
    y = ahead = torch.zeros(len(one), w.shape[1], dtype=torch.float64)
    speed = 1.0
    for _ in range(turns):
        z = w.index_add(0, one, ahead, alpha=-1).index_add(0, other, ahead)
        moved = ahead + (z[one] - z[other]) / len(w)
        after = moved * (limits / moved.norm(dim=1, keepdim=True).clamp(min=1e-300)).clamp(max=1)
        if float(((ahead - after) * (after - y)).sum()) > 0:  # restart where it overshoots
            speed = 1.0
        faster = (1 + (1 + 4 * speed**2) ** 0.5) / 2
        ahead, y, speed = after + (speed - 1) / faster * (after - y), after, faster
        z = w.index_add(0, one, y, alpha=-1).index_add(0, other, y)
        apart = z[one] - z[other]
        if float((limits[:, 0] * apart.norm(dim=1) - (y * apart).sum(1)).sum()) <= gap:
            return z
    raise AssertionError("the reference did not converge")


@pytest.mark.parametrize("shape", [(2, 3), (7, 1), (13, 5)])
def test_the_penalty_pair_by_pair(shape):
    w = weights("normal", shape[0] * shape[1]).view(shape)
    coupling = symmetric(shape[0], 0.5)
    assert float(group_penalty(w, weights=coupling)) == pytest.approx(naive(w, coupling), rel=1e-13)
    everyone = torch.full((shape[0], shape[0]), 1 / (shape[0] - 1), dtype=torch.float64)
    assert float(group_penalty(w)) == pytest.approx(naive(w, everyone), rel=1e-13)


def test_block_couplings_are_groups():
    """`C_ij = 1/(d_g − 1)` within group `g`: `R_C = Σ_g R(w_g)`, in its value and in its proximal map."""
    w, labels = weights("normal", 31), torch.arange(31) % 7 - 1
    grouped = (labels[:, None] == labels) & (labels >= 0)
    coupling = torch.where(grouped, 1 / (grouped.sum(1) - 1).double(), 0.0).fill_diagonal_(0)
    assert float(group_penalty(w, labels)) == pytest.approx(naive(w[:, None], coupling), rel=1e-13)
    assert float(group_penalty(w, labels)) == pytest.approx(sum(penalty(w[labels == g]) for g in range(6)), rel=1e-13)
    exact = prox_groups(w, labels, 0.04)
    assert torch.allclose(exact, convex_clustering(w, 0.04, weights=coupling).z, rtol=0, atol=1e-12)
    assert torch.allclose(exact, graph_clusters(w, None, coupling, 0.04).z, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(2, 3), (5, 7), (7, 2), (13, 3)])
@pytest.mark.parametrize("step", [0.01, 0.1, 0.2, 1.0])
def test_clustering_of_rows_is_what_the_dual_says(shape, step):
    w = weights("normal", shape[0] * shape[1]).view(shape)
    everyone = torch.full((shape[0], shape[0]), step / (shape[0] - 1), dtype=torch.float64)
    found = convex_clustering(w, step)
    assert torch.allclose(found.z, slow(w, everyone), rtol=0, atol=1e-7)


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("step", [0.01, 0.03, 0.1])
def test_any_coupling_of_rows_is_what_the_dual_says(density, step):
    w, coupling = weights("normal", 39).view(13, 3), symmetric(13, density)
    found = convex_clustering(w, step, weights=coupling)
    assert torch.allclose(found.z, slow(w, step * coupling), rtol=0, atol=1e-7)


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("step", [0.003, 0.01, 0.1])
def test_total_variation_on_a_graph_is_what_the_dual_says(density, step):
    w, coupling = weights("normal", 17), symmetric(17, density)
    found = graph_clusters(w, None, coupling, step)
    assert torch.allclose(found.z[:, None], slow(w[:, None], step * coupling), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["normal", "tied"])
def test_of_all_partitions_the_best(kind):
    w = weights(kind, 7)
    best = best_partition(w, 0.05)
    assert torch.allclose(convex_clustering(w, 0.05).z, best, rtol=0, atol=1e-13)
    assert torch.allclose(graph_clusters(w, None, None, 0.05).z, best, rtol=0, atol=1e-14)


def test_two_rows_move_towards_each_other():
    """By `step` each, along the line between them, until they meet in the middle."""
    w = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    z = convex_clustering(w, 1.5).z
    assert torch.allclose(z, torch.tensor([[0.9, 1.2], [2.1, 2.8]], dtype=torch.float64), rtol=0, atol=1e-15)
    assert torch.allclose(convex_clustering(w, 2.6).z, w.mean(0).expand(2, 2), rtol=0, atol=1e-15)


def test_a_chain_obeys_its_optimality_conditions():
    """`y_i = Σ_{j≤i} (w_j − z_j)` stays within ±step, and is at the end it must be at wherever `z` jumps."""
    w = weights("normal", 101)
    z = graph_clusters(w, torch.stack([torch.arange(100), torch.arange(1, 101)]), None, 0.05).z
    dual = (w - z).cumsum(0)
    jumps = z.diff()
    assert float(dual.abs().max()) <= 0.05 + 1e-9
    assert abs(float(dual[-1])) <= 1e-12
    assert torch.allclose(dual[:-1][jumps != 0], -0.05 * jumps[jumps != 0].sign(), rtol=0, atol=1e-9)
    assert 1 < int((jumps != 0).sum()) < 99


def test_scalars_in_all_three_ways():
    w = weights("normal", 31)
    maps = [
        ws.prox_pairwise(w, 0.04),
        prox_groups(w, torch.zeros(31, dtype=torch.int64), 0.04),
        convex_clustering(w, 0.04).z,
        graph_clusters(w, None, None, 0.04).z,
    ]
    assert all(torch.allclose(z, maps[0], rtol=0, atol=1e-12) for z in maps)


@pytest.mark.parametrize("step", [0.01, 0.1])
def test_nothing_nearby_is_better(step):
    w, coupling = weights("normal", 39).view(13, 3), symmetric(13, 0.5)
    z = convex_clustering(w, step, weights=coupling).z
    for seed in range(1, 8):
        nudge = torch.randn(13, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for size in (1e-4, 1e-2):
            assert objective(z, w, step * coupling) < objective(z + size * nudge, w, step * coupling)
