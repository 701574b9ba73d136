"""Pogodin 2021, dynamic weight sharing: its equations, written out number by number in float64."""

import math

import pytest
import torch

from weightshare.space import circuit, theory
from weightshare.space.circuit import Circuit
from weightshare.space.measure import snr
from weightshare.space.noisy import noise_bound, noise_floor, noisy_moment

N, K, M = 7, 3, 5
GAMMAS = (0.3, 0.02)
ALPHAS = (2.0, 10.0)


def normal(*shape, seed=0, mean=0.0):
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(levels):
    return torch.tensor(levels, dtype=torch.float64)[:, None]


def dot(a, b):
    return sum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def descended(w, x, gamma, alpha=math.inf, steps=20_000, rate=0.1):
    """Where the mean update over all inputs comes to rest."""
    start, share = w, 1 - 1 / (1 + alpha)
    C = sum(torch.outer(one, one) for one in x) / len(x)
    for _ in range(steps):
        w = w - rate * ((w - share * w.mean(0)) @ C + gamma * (w - start))
    return w


def test_responses_and_update_of_one_input():
    """Eqs 3 and 4, and 13: Δw_i ∝ −(z_i − 1/N Σ_j z_j) x − γ (w_i − w_i^init)"""
    w, start, x = normal(N, K), normal(N, K, seed=1), normal(1, K, seed=2)
    z = [dot(row, x[0]) for row in w]
    for gamma in GAMMAS:
        naive = [
            [-(z[i] - sum(z) / N) * float(x[0, j]) - gamma * float(w[i, j] - start[i, j]) for j in range(K)]
            for i in range(N)
        ]
        assert torch.allclose(
            -theory.gradient(w, start, x, gamma), torch.tensor(naive, dtype=torch.float64), rtol=0, atol=1e-14
        )


def test_the_update_with_inhibition_of_finite_strength():
    """Eq. 21: Δw_i ∝ −(z_i − α/(N(1 + α)) Σ_j z_j) x − γ (w_i − w_i^init)"""
    w, start, x = normal(N, K), normal(N, K, seed=1), normal(1, K, seed=2)
    z = [dot(row, x[0]) for row in w]
    for gamma, alpha in zip(GAMMAS, ALPHAS, strict=True):
        share = alpha / (N * (1 + alpha))
        naive = [
            [-(z[i] - share * sum(z)) * float(x[0, j]) - gamma * float(w[i, j] - start[i, j]) for j in range(K)]
            for i in range(N)
        ]
        found = -theory.gradient(w, start, x, gamma, alpha)
        assert torch.allclose(found, torch.tensor(naive, dtype=torch.float64), rtol=0, atol=1e-14)


def test_infinite_inhibition_is_none():
    w, start, x = normal(N, K), normal(N, K, seed=1), normal(M, K, seed=2)
    assert torch.equal(theory.gradient(w, start, x, 0.1, math.inf), theory.gradient(w, start, x, 0.1))
    assert theory.fixed_point(w, theory.covariance(x), 0.1, math.inf).allclose(
        theory.fixed_point(w, theory.covariance(x), 0.1), rtol=0, atol=1e-13
    )


def test_steps_are_the_update_with_momentum():
    """Eqs 4 and 21 step by step, v ← μ v + g, w ← w − η v, for several γ, α and runs at once."""
    start, x = normal(2, N, K, mean=1.0), normal(2, 211, K, seed=1)
    rates = 0.5 / (10 + torch.arange(211, dtype=torch.float64))
    gamma = column(GAMMAS)[..., None]
    alpha = column([*ALPHAS, math.inf])
    found = theory.simulate(start, x, rates, gamma, alpha, momentum=0.9, at=(0, 205, 211))
    assert found.weights.shape == (2, 3, 2, N, K)
    for g, a, run in ((0, 0, 0), (1, 1, 1), (1, 2, 0)):
        w, v, share = start[run], torch.zeros(N, K), 1 - 1 / (1 + float(alpha[a]))
        for k in range(211):
            z = w @ x[run, k]
            v = 0.9 * v + torch.outer(z - share * z.mean(), x[run, k]) + GAMMAS[g] * (w - start[run])
            w = w - rates[k] * v
        assert torch.allclose(found.weights[g, a, run], w, rtol=0, atol=1e-12)
        assert float(found.curve[g, a, run, 2]) == pytest.approx(-math.log(float(snr(w))), rel=1e-10)
        assert float(found.curve[g, a, run, 0]) == pytest.approx(-math.log(float(snr(start[run]))), rel=1e-12)


def test_the_loss_is_a_sum_over_pairs():
    """Eqs 11 and 12: 1/(4MN) Σ_m Σ_i Σ_j (z_i − z_j)² + γ/2 Σ_i ‖w_i − w_i^init‖²"""
    w, start, x = normal(N, K), normal(N, K, seed=1), normal(M, K, seed=2)
    for gamma in GAMMAS:
        pairs = sum((dot(w[i], x[m]) - dot(w[j], x[m])) ** 2 for m in range(M) for i in range(N) for j in range(N)) / (
            4 * M * N
        )
        away = gamma / 2 * sum(float(w[i, j] - start[i, j]) ** 2 for i in range(N) for j in range(K))
        assert float(theory.loss(w, start, x, gamma)) == pytest.approx(pairs + away, rel=1e-13)


def test_the_update_goes_down_the_loss():
    """Eq. 17: the mean of eq. 13 over inputs is the loss's negative gradient."""
    w, start, x = normal(N, K).requires_grad_(), normal(N, K, seed=1), normal(M, K, seed=2)
    theory.loss(w, start, x, 0.3).backward()
    assert torch.allclose(theory.gradient(w.detach(), start, x, 0.3), w.grad, rtol=0, atol=1e-14)


def test_the_covariance_is_the_mean_outer_product():
    x = normal(M, K)
    naive = [[sum(float(x[m, i] * x[m, j]) for m in range(M)) / M for j in range(K)] for i in range(K)]
    assert torch.allclose(theory.covariance(x), torch.tensor(naive, dtype=torch.float64), rtol=0, atol=1e-14)
    many = theory.covariance(normal(100_000, K, mean=1.0))
    assert torch.allclose(many, theory.normal_covariance(K, mean=1.0), rtol=0, atol=0.03)


def test_the_fixed_point_is_where_the_update_rests():
    """Eqs 5 and 19: w_i* = (C + γI)⁻¹ (C μ^init + γ w_i^init); the gradient of eq. 18 is 0 there."""
    start, x = normal(N, K, mean=1.0), normal(M, K, seed=1)
    for gamma in GAMMAS:
        end = theory.fixed_point(start, theory.covariance(x), gamma)
        C = theory.covariance(x)
        inverse = torch.linalg.inv(C + gamma * torch.eye(K, dtype=torch.float64))
        rows = [inverse @ (C @ start.mean(0) + gamma * row) for row in start]
        assert torch.allclose(end, torch.stack(rows), rtol=0, atol=1e-12)
        assert float(theory.gradient(end, start, x, gamma).abs().max()) < 1e-13
        assert torch.allclose(end, descended(start, x, gamma), rtol=0, atol=1e-8)
        assert torch.allclose(end.mean(0), start.mean(0), rtol=0, atol=1e-13)  # eqs 14 and 15


def test_the_fixed_point_of_unit_covariance():
    """Eq. 20: w_i* = μ/(1 + γ) + γ/(1 + γ) w_i^init"""
    start = normal(N, K, mean=1.0)
    for gamma in GAMMAS:
        naive = start.mean(0) / (1 + gamma) + gamma / (1 + gamma) * start
        assert torch.allclose(
            theory.fixed_point(start, torch.eye(K, dtype=torch.float64), gamma), naive, rtol=0, atol=1e-14
        )


def test_the_sum_over_neurons_of_the_biased_update():
    """Eqs 22 and 23: Σ_i dL/dw_i = C/(1 + α) Σ_i w_i + γ Σ_i (w_i − w_i^init)"""
    w, start, x = normal(N, K), normal(N, K, seed=1), normal(M, K, seed=2)
    for gamma, alpha in zip(GAMMAS, ALPHAS, strict=True):
        naive = theory.covariance(x) @ w.sum(0) / (1 + alpha) + gamma * (w - start).sum(0)
        assert torch.allclose(theory.gradient(w, start, x, gamma, alpha).sum(0), naive, rtol=0, atol=1e-13)


def test_the_biased_fixed_point_is_where_the_biased_update_rests():
    """Eq. 24, and the mean before it: μ* = γ (C/(1 + α) + γI)⁻¹ μ"""
    start, x = normal(N, K, mean=1.0), normal(M, K, seed=1)
    C, unit = theory.covariance(x), torch.eye(K, dtype=torch.float64)
    for gamma, alpha in zip(GAMMAS, ALPHAS, strict=True):
        end = theory.fixed_point(start, C, gamma, alpha)
        mean = gamma * torch.linalg.inv(C / (1 + alpha) + gamma * unit) @ start.mean(0)
        inverse = torch.linalg.inv(C + gamma * unit)
        rows = [inverse @ (alpha / (1 + alpha) * C @ mean + gamma * row) for row in start]
        assert torch.allclose(end, torch.stack(rows), rtol=0, atol=1e-12)
        assert torch.allclose(end.mean(0), mean, rtol=0, atol=1e-12)
        assert float(theory.gradient(end, start, x, gamma, alpha).abs().max()) < 1e-13
        assert torch.allclose(end, descended(start, x, gamma, alpha), rtol=0, atol=1e-8)


def test_the_biased_fixed_point_of_unit_covariance():
    """Eq. 25: w_i* = γ/(1 + γ) (α/(1 + γ(1 + α)) μ + w_i^init)"""
    start = normal(N, K, mean=1.0)
    for gamma, alpha in zip(GAMMAS, ALPHAS, strict=True):
        naive = gamma / (1 + gamma) * (alpha / (1 + gamma * (1 + alpha)) * start.mean(0) + start)
        assert torch.allclose(
            theory.fixed_point(start, torch.eye(K, dtype=torch.float64), gamma, alpha), naive, rtol=0, atol=1e-14
        )


def test_many_levels_are_one_fixed_point_each():
    start, C = normal(2, N, K), theory.covariance(normal(2, M, K, seed=1))
    gamma = column(GAMMAS)
    together = theory.fixed_point(start, C, gamma, column(ALPHAS))
    for g, run in ((0, 1), (1, 0)):
        alone = theory.fixed_point(start[run], C[run], GAMMAS[g], ALPHAS[g])
        assert torch.allclose(together[g, run], alone, rtol=0, atol=1e-14)


def test_signal_to_noise():
    """Eq. 6: 1/k² Σ_j (1/N Σ_i w_ij)² / (1/N Σ_i (w_ij − 1/N Σ_i' w_i'j)²)"""
    w = normal(2, N, K, mean=1.0)
    for layer, found in zip(w, snr(w).tolist(), strict=True):
        total = 0.0
        for j in range(K):
            column = [float(layer[i, j]) for i in range(N)]
            mean = sum(column) / N
            total += mean**2 / (sum((value - mean) ** 2 for value in column) / N)
        assert found == pytest.approx(total / K, rel=1e-12)


def test_the_limit_of_signal_to_noise():
    """A.5: −log SNR comes to 2 log(γ/(1 + γ)) for mean and variance 1 and C = I; with α, by eq. 25."""
    start = normal(10_007, K)
    start = 1 + (start - start.mean(0)) / start.std(0, unbiased=False)
    for gamma in GAMMAS:
        assert float(theory.minus_log_snr_limit(gamma)) == pytest.approx(2 * math.log(gamma / (1 + gamma)), rel=1e-13)
        for alpha in (None, *ALPHAS):
            end = theory.fixed_point(start, torch.eye(K, dtype=torch.float64), gamma, alpha)
            limit = float(theory.minus_log_snr_limit(gamma, alpha))
            assert limit == pytest.approx(-math.log(float(snr(end))), abs=1e-9)


def test_rates_of_the_circuit():
    """Eq. 8 by Euler steps, neuron by neuron: τ ṙ_i = −r_i + z_i − α r_inh + b, τ ṙ_inh = −r_inh + mean_j r_j − b"""
    z, r, inh = normal(N).tolist(), normal(N, seed=1).tolist(), 0.7
    neurons = Circuit(alpha=10.0, bias=1.5, tau=30.0, step=1.0)
    rates, inhibition = neurons.euler(*(torch.tensor(one, dtype=torch.float64) for one in (r, inh, z)))
    naive = [r[i] + 1 / 30 * (-r[i] + z[i] - 10 * inh + 1.5) for i in range(N)]
    assert rates.tolist() == pytest.approx(naive, abs=1e-13)
    assert float(inhibition) == pytest.approx(inh + 1 / 30 * (-inh + sum(r) / N - 1.5), abs=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0, 40.0])
def test_the_circuit_rests_where_it_should(alpha):
    """Eq. 9: r_i* = b + z_i − mean_j z_j + mean_j z_j/(1 + α), from wherever it starts: it is stable."""
    z, neurons = normal(N), Circuit(alpha=alpha, bias=1.5)
    naive = [1.5 + float(z[i] - z.mean()) + float(z.mean()) / (1 + alpha) for i in range(N)]
    assert neurons.settled(z).tolist() == pytest.approx(naive, abs=1e-14)
    rates, inhibition = 10 * normal(N, seed=1), torch.tensor(-7.0, dtype=torch.float64)
    for _ in range(5000):
        rates, inhibition = neurons.euler(rates, inhibition, z)
    assert rates.tolist() == pytest.approx(naive, abs=1e-12)
    assert float(inhibition) == pytest.approx(float(z.mean()) / (1 + alpha), abs=1e-12)


def stepped(start, x, rates, gamma, alpha, momentum, bias=1.0, tau=30.0):
    """The circuit with all weights stepped in every millisecond."""
    w, v = start, torch.zeros_like(start)
    r, inh = torch.full((len(start),), bias, dtype=torch.float64), 0.0
    for given, learning in zip(x, rates, strict=True):
        for lr in learning:
            r, inh = (
                r + (w @ given - r - alpha * inh + bias) / tau,
                inh + (float(r.mean()) - bias - inh) / tau,
            )
            v = momentum * v + torch.outer(r - bias, given) + gamma * (w - start)
            w = w - lr * v
    return w


def test_the_circuit_shares_as_if_all_weights_were_stepped():
    """Eq. 8 and the update after eq. 9: the fast path against its slow twin, for more inputs than one chunk."""
    start, x = normal(2, N, K, mean=1.0), normal(2, 211, K, seed=1)
    rates = (0.003 / (1 + torch.arange(211 * 13, dtype=torch.float64) / 2).sqrt()).view(211, 13)
    rates[0, :5] = 0
    gamma, alpha = column(GAMMAS)[..., None], column(ALPHAS)
    found = circuit.simulate(start, x, rates, gamma, Circuit(alpha), momentum=0.9, at=(0, 211))
    assert found.weights.shape == (2, 2, 2, N, K)
    for g, a, run in ((0, 1, 0), (1, 0, 1)):
        slow = stepped(start[run], x[run], rates, GAMMAS[g], ALPHAS[a], momentum=0.9)
        assert float((slow - start[run]).abs().max()) > 0.05
        assert torch.allclose(found.weights[g, a, run], slow, rtol=0, atol=1e-10)
        assert float(found.curve[g, a, run, 1]) == pytest.approx(-math.log(float(snr(slow))), rel=1e-9)


@pytest.mark.slow
def test_the_circuit_shares_as_if_all_weights_were_stepped_for_150_ms_each():
    start, x = normal(101, 81, mean=1.0), normal(30, 81, seed=1)
    k = torch.arange(30 * 150, dtype=torch.float64)
    rates = (0.0003 / (1 + k / 2).sqrt() * (k >= 50)).view(30, 150)
    found = circuit.simulate(start, x, rates, 0.01)
    assert torch.allclose(found.weights, stepped(start, x, rates, 0.01, 10.0, 0.95), rtol=0, atol=1e-10)


def noisy_runs(start, x, rates, gamma, sigma, runs, seed=3):
    """Eq. 28, many runs at once: the mean of ‖W − W*‖² before the first step and after each."""
    generator = torch.Generator().manual_seed(seed)
    target = theory.fixed_point(start, theory.covariance(x), gamma)
    w, errors = start.expand(runs, N, K), []
    for rate in [*rates.tolist(), 0.0]:
        errors.append(float((w - target).square().sum((1, 2)).mean()))
        chosen = x[torch.randint(len(x), (runs,), generator=generator)]
        seen = chosen[:, None] + sigma * torch.randn(runs, N, K, generator=generator, dtype=torch.float64)
        z = (w * seen).sum(-1)
        w = w - rate * ((z - z.mean(1, keepdim=True))[..., None] * seen + gamma * (w - start))
    return torch.tensor(errors, dtype=torch.float64)


def harmonic(gamma, steps):
    """η_k = 2/γ / (k + b), with b so large that the bound falls from the first step on."""
    return 2 / gamma / (torch.arange(steps, dtype=torch.float64) + 1500)


def test_the_fourth_moment_of_noisy_inputs():
    """Eq. 29: E‖x + ε‖⁴, against drawn noise."""
    x = normal(M, K)
    drawn = (x + 0.5 * normal(200_003, M, K, seed=1)).square().sum(-1).square().mean()
    assert float(noisy_moment(x, 0.5)) == pytest.approx(float(drawn), rel=0.02)
    assert float(noisy_moment(x, 0.0)) == pytest.approx(float(x.square().sum(-1).square().mean()), rel=1e-13)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
def test_noisy_sharing_stays_under_the_bound(sigma):
    """Theorem 1: the recursion of eqs 53 and 54, written out, and simulated runs under it."""
    start, x, gamma = normal(N, K, mean=1.0), 0.5 * normal(M, K, seed=1), 1.0
    rates = harmonic(gamma, 3001)
    bound = noise_bound(start, x, rates, gamma, sigma)
    target = theory.fixed_point(start, theory.covariance(x), gamma)
    steep = 8 * (2 * float(noisy_moment(x, sigma)) + gamma**2)
    size, begun, error = float(target.norm() ** 2), float(start.norm() ** 2), float((start - target).norm() ** 2)
    naive = [error]
    for eta in rates.tolist():
        error = (1 - gamma * eta + eta**2 * steep) * error + eta * sigma**2 * size
        error += eta**2 * (steep * size + 4 * gamma**2 * begun)
        naive.append(error)
    assert bound.tolist() == pytest.approx(naive, rel=1e-12)
    found = noisy_runs(start, x, rates, gamma, sigma, runs=53)
    assert float(found[0]) == pytest.approx(float(bound[0]), rel=1e-12)
    assert bool((found[1:] < bound[1:]).all())


def test_without_noise_the_bound_falls_like_one_over_the_steps():
    """Theorem 1, first term: twice the steps, half the bound."""
    start, x = normal(N, K, mean=1.0), 0.5 * normal(M, K, seed=1)
    bound = noise_bound(start, x, harmonic(1.0, 40_000), 1.0, 0.0)
    assert float(bound[40_000] / bound[20_000]) == pytest.approx(21_500 / 41_500, rel=0.03)
    assert float(noise_floor(start, x, 1.0, 0.0)) == 0


def test_with_noise_the_bound_comes_to_a_floor_that_grows_with_the_variance():
    """Theorem 1, second term: O(σ²‖W*‖²), with 1/γ for its constant."""
    start, x = normal(N, K, mean=1.0), 0.5 * normal(M, K, seed=1)
    sigma = torch.tensor([0.5, 1.0], dtype=torch.float64)
    floor = noise_floor(start, x, 1.0, sigma)
    target = theory.fixed_point(start, theory.covariance(x), 1.0)
    assert float(floor[0]) == pytest.approx(0.25 * float(target.norm() ** 2), rel=1e-12)
    assert float(floor[1] / floor[0]) == pytest.approx(4, rel=1e-12)
    bound = noise_bound(start, x, harmonic(1.0, 40_000), 1.0, sigma)[:, -1]
    assert (bound / floor).tolist() == pytest.approx([1, 1], abs=0.12)
    assert bool((bound > floor).all())
