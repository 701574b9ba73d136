"""Shakerinava 2023, weight-sharing regularisation: its equations, written out pair by pair in float64."""

import pytest
import torch

from tests.particles import exact, objective, penalty, weights
import weightshare as ws
from weightshare.values.pairwise import pairwise_subgradient, subdifferential_distance
from weightshare.values.prox import prox_clusters


@pytest.mark.parametrize("n", [2, 3, 7, 101])
def test_the_penalty_is_the_mean_distance_of_a_weight_from_the_others(n):
    """R(w) = 1/(d − 1) Σ_{i>j} |w_i − w_j|"""
    w = weights("normal", n)
    pairs = [abs(float(w[i] - w[j])) for i in range(n) for j in range(i)]
    assert float(ws.pairwise_penalty(w)) == pytest.approx(sum(pairs) / (n - 1), rel=1e-13)


@pytest.mark.parametrize("n", [2, 3, 7, 101])
def test_the_subgradient_is_the_mean_sign(n):
    """∂R/∂w_i = 1/(d − 1) Σ_j sign(w_i − w_j); among equal weights sign(0) = 0 gives the shortest subgradient."""
    for kind in ("normal", "tied", "equal"):
        w = weights(kind, n)
        naive = torch.sign(w[:, None] - w).sum(1) / (n - 1)
        assert torch.allclose(pairwise_subgradient(w), naive, rtol=0, atol=1e-15)


def test_the_proximal_map_minimises_its_objective():
    """prox(w) = argmin_z ½‖z − w‖² + α R(z): by optimality, (w − z)/α is a subgradient of R at z."""
    for step in (0.01, 0.1, 1.0):
        w = weights("normal", 101)
        z = ws.prox_pairwise(w, step)
        assert subdifferential_distance(z, (w - z) / step) < 1e-12
        for seed in range(1, 8):
            other = z + 0.01 * torch.randn(101, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            assert objective(z, w, step) < objective(other, w, step)


def test_a_particle_alone_moves_with_its_own_velocity():
    """v_i = α (d − 1 − 2i)/(d − 1), i from 0: with a step too small for collisions, each place moves by that."""
    w = torch.arange(7, dtype=torch.float64)
    velocities = torch.tensor([0.3 * (6 - 2 * i) / 6 for i in range(7)], dtype=torch.float64)
    assert torch.allclose(ws.prox_pairwise(w, 0.3), w + velocities, rtol=0, atol=1e-15)


def test_a_cluster_moves_with_the_mean_velocity_of_its_members():
    """Particles stick when they meet and keep their momentum: a cluster stands at its mean place plus mean velocity."""
    w = weights("normal", 101).sort().values
    z, labels = prox_clusters(w, 0.05)
    velocities = torch.tensor([0.05 * (100 - 2 * i) / 100 for i in range(101)], dtype=torch.float64)
    ends = torch.stack([(w + velocities)[labels == k].mean() for k in labels])
    assert torch.allclose(z, ends, rtol=0, atol=1e-14)


def test_the_proximal_map_is_the_way_of_sticky_particles_over_unit_time():
    """Step through time, merging what has met: at every small step each cluster moves with its mean velocity."""
    w = weights("normal", 13)
    places, masses, time = w.sort().values.tolist(), [1] * 13, 0.0
    while time < 0.08:
        velocities, below = [], 0
        for mass in masses:
            velocities.append((12 - 2 * below - (mass - 1)) / 12)
            below += mass
        waits = [(places[i + 1] - places[i]) / (velocities[i] - velocities[i + 1]) for i in range(len(places) - 1)]
        wait = min([*waits, 0.08 - time])
        places = [place + wait * velocity for place, velocity in zip(places, velocities, strict=True)]
        for i in [i for i in reversed(range(len(waits))) if waits[i] <= wait]:
            total = masses[i] + masses[i + 1]
            places[i : i + 2] = [(masses[i] * places[i] + masses[i + 1] * places[i + 1]) / total]
            masses[i : i + 2] = [total]
        time += wait
    slow = torch.tensor(places, dtype=torch.float64).repeat_interleave(torch.tensor(masses))
    assert len(masses) < 13
    assert torch.allclose(ws.prox_pairwise(w, 0.08).sort().values, slow, rtol=0, atol=1e-13)


def test_the_proximal_map_is_isotonic_regression_of_place_plus_velocity():
    w = weights("tied", 1009)
    assert torch.allclose(ws.prox_pairwise(w, 0.02), exact(w, 0.02), rtol=0, atol=1e-14)


def test_a_strong_step_makes_all_weights_one():
    """For α ≥ the greatest distance from the mean, nothing but the mean is left: R has no more to take."""
    w = weights("normal", 101)
    z = ws.prox_pairwise(w, float((w - w.mean()).abs().max()) * 101)
    assert torch.allclose(z, w.mean().expand(101), rtol=0, atol=1e-15)
    assert penalty(z) == 0
