"""Pogodin 2021: what its other equations stand on, and the proof of theorem 1 step by step, in float64.

Expectations are exact: noise is ±σ for each input of each neuron, which has mean 0 and covariance σ²I, and all of its
signs are summed over. `f` is written out here; the library has its mean over inputs, `theory.loss`, and the bound that
the proof ends with.
"""

from itertools import product
import math

import pytest
import torch

import weightshare as ws
from weightshare.space import theory
from weightshare.space.circuit import Circuit
from weightshare.space.noisy import noise_bound, noisy_moment

N, K, M = 3, 2, 5
GAMMA, SIGMA, ETA = 0.7, 0.6, 0.01


def normal(*shape, seed=0, mean=0.0):
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


START, X, W = normal(N, K, mean=1.0), normal(M, K, seed=1), normal(N, K, seed=2)
END = theory.fixed_point(START, theory.covariance(X), GAMMA)
SIGNS = SIGMA * torch.tensor(list(product((-1.0, 1.0), repeat=N * K)), dtype=torch.float64).view(-1, N, K)
SEEN = X[:, None, None] + SIGNS
"""What neurons see: (input, signs of the noise, neuron, component)."""


def pairs(w, x):
    """1/(4N) Σ_i Σ_j (w_iᵀx_i − w_jᵀx_j)², with an input for each neuron."""
    z = (w * x).sum(-1)
    return (z[..., :, None] - z[..., None, :]).square().sum((-2, -1)) / (4 * N)


def f(w, x):
    """Eq. 27, its second w_i read as w_j."""
    return pairs(w, x) + GAMMA / 2 * (w - START).square().sum()


def slope(w, x):
    """Eq. 45: the gradient of f in w."""
    z = (w * x).sum(-1, keepdim=True)
    return (z - z.mean(-2, keepdim=True)) * x + GAMMA * (w - START)


def steepness(w, x):
    """The gradient of f in X: (z_i − mean_j z_j) w_i."""
    z = (w * x).sum(-1, keepdim=True)
    return (z - z.mean(-2, keepdim=True)) * w


def inner(a, b):
    return (a * b).sum((-2, -1))


def test_weights_that_depend_on_the_difference_alone_are_a_convolution():
    """Eq. 1: z_i = Σ_j w_(i−j) x_j; eq. 2: z_i = Σ_j w_ij x_j, with w_ij 0 outside of the field."""
    conv = torch.nn.Conv1d(1, 1, 3, padding=1, bias=False).double()
    local = ws.LocallyConnected1d.from_conv(conv, input_size=7)
    x, taps = normal(7), conv.weight.detach().flatten()
    shared = torch.tensor([[float(taps[j - i + 1]) if abs(i - j) < 2 else 0.0 for j in range(7)] for i in range(7)])
    assert torch.allclose(local(x.view(1, 1, 7)).flatten(), shared.double() @ x, rtol=0, atol=1e-12)
    with torch.no_grad():
        local.weight.normal_(generator=torch.Generator().manual_seed(5))
    kernels = local.as_conv_weight(local.kernels()).detach().view(7, 3).tolist()
    own = [[kernels[i][j - i + 1] if abs(i - j) < 2 else 0.0 for j in range(7)] for i in range(7)]
    found = local(x.view(1, 1, 7)).flatten()
    assert torch.allclose(found, torch.tensor(own, dtype=torch.float64) @ x, rtol=0, atol=1e-12)


def test_a_neuron_answers_what_it_differs_from_the_mean_by():
    """Eq. 7: r_i = z_i − 1/N Σ_j z_j is where strong inhibition settles, and the update is −r_i x."""
    x = X[:1]
    z = [sum(float(a * b) for a, b in zip(row, x[0], strict=True)) for row in W]
    rates = [one - sum(z) / N for one in z]
    neurons = Circuit(alpha=1e9, bias=1.5, step=1e-9)
    settled = neurons.settled(torch.tensor(z, dtype=torch.float64)) - 1.5
    assert settled.tolist() == pytest.approx(rates, abs=1e-8)
    naive = torch.tensor([[-rate * float(one) for one in x[0]] for rate in rates], dtype=torch.float64)
    assert torch.allclose(-theory.gradient(W, W, x, 0.0), naive, rtol=0, atol=1e-14)


def test_over_neurons_the_pull_cancels_and_the_mean_stays():
    """Eqs 14 to 16: Σ_i dL/dw_i = γ Σ_i (w_i − w_i^init), so at the end the mean response to x_m is μ^initᵀx_m."""
    summed = theory.gradient(W, START, X, GAMMA).sum(0)
    assert torch.allclose(summed, GAMMA * (W - START).sum(0), rtol=0, atol=1e-14)
    assert torch.allclose((END @ X.T).mean(0), START.mean(0) @ X.T, rtol=0, atol=1e-13)


def test_the_gradient_by_the_covariance():
    """Eq. 18: dL/dw_i = C (w_i − μ^init) + γ (w_i − w_i^init) wherever the mean of w is μ^init."""
    w = W - W.mean(0) + START.mean(0)
    naive = (w - START.mean(0)) @ theory.covariance(X) + GAMMA * (w - START)
    assert torch.allclose(theory.gradient(w, START, X, GAMMA), naive, rtol=0, atol=1e-14)


def test_the_objective_is_a_mean_over_inputs():
    """Eqs 26 and 27; as printed, with w_i twice, the first term of eq. 27 would be 0."""
    whole = sum(f(W, x.expand(N, K)) for x in X) / M
    assert float(theory.loss(W, START, X, GAMMA)) == pytest.approx(float(whole), rel=1e-13)
    assert float(pairs(W, X[0].expand(N, K))) > 0.01


def test_the_gradients_of_one_input():
    """Eq. 28's gradient, eqs 45 and 46: as autograd has it, and by A_i = x_i x_iᵀ and (B_i)_j = [i ≠ j] x_i x_jᵀ/N."""
    w, x = W.clone().requires_grad_(), SEEN[0, 3].clone().requires_grad_()
    f(w, x).backward()
    assert torch.allclose(slope(W, SEEN[0, 3]), w.grad, rtol=0, atol=1e-14)
    assert torch.allclose(steepness(W, SEEN[0, 3]), x.grad, rtol=0, atol=1e-14)
    seen = SEEN[0, 3]
    for i in range(N):
        others = sum(torch.outer(seen[i], seen[j]) @ W[j] / N for j in range(N) if j != i)
        naive = (1 - 1 / N) * torch.outer(seen[i], seen[i]) @ W[i] - others + GAMMA * (W[i] - START[i])
        assert torch.allclose(slope(W, seen)[i], naive, rtol=0, atol=1e-14)


def test_a_step_by_its_square():
    """Eqs 31 to 33: ‖W − η f' − W*‖² = ‖W − W*‖² − 2η⟨W − W*, f'⟩ + η²‖f'‖²."""
    push = slope(W, SEEN)
    left = (W - ETA * push - END).square().sum((-2, -1))
    right = (W - END).square().sum() - 2 * ETA * inner(W - END, push) + ETA**2 * push.square().sum((-2, -1))
    assert torch.allclose(left, right, rtol=0, atol=1e-13)


def test_the_second_term_is_bounded():
    """Eqs 34 and 35, strong convexity in W; 36 and 37, convexity in X; 38, the gradient that noise adds."""
    clean = X[:, None, None].expand_as(SEEN)
    pulled = -inner(W - END, slope(W, SEEN))
    assert bool((pulled <= f(END, SEEN) - f(W, SEEN) - GAMMA / 2 * (W - END).square().sum() + 1e-12).all())
    turned = inner(steepness(END, SEEN) - steepness(W, clean), SIGNS)
    assert bool((f(END, SEEN) - f(W, SEEN) <= f(END, clean) - f(W, clean) + turned + 1e-12).all())
    z = (END * SIGNS).sum(-1, keepdim=True)
    added = steepness(END, clean) + (z - z.mean(-2, keepdim=True)) * END
    assert torch.allclose(steepness(END, SEEN), added, rtol=0, atol=1e-13)


def test_the_second_term_on_the_average():
    """Eqs 39 to 42: W* is the least of L, and noise turns the inner product by (1 − 1/N) σ²‖W*‖² at most."""
    clean = X[:, None, None].expand_as(SEEN)
    fallen = float((f(END, clean) - f(W, clean)).mean())
    assert fallen == pytest.approx(
        float(theory.loss(END, START, X, GAMMA) - theory.loss(W, START, X, GAMMA)), rel=1e-12
    )
    assert fallen < 0
    turned = float(inner(steepness(END, SEEN) - steepness(W, clean), SIGNS).mean())
    exact = (1 - 1 / N) * SIGMA**2 * float(END.square().sum())
    assert turned == pytest.approx(exact, rel=1e-12)
    assert exact <= SIGMA**2 * float(END.square().sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_second_term_with_half_the_noise(seed):
    """Eqs 43 and 44: eq. 42 times 2η would give 2ησ²‖W*‖²; half of it is enough, since f is quadratic in X."""
    w = normal(N, K, seed=seed, mean=1.0)
    found = float((-2 * ETA * inner(w - END, slope(w, SEEN))).mean())
    away, size = float((w - END).square().sum()), float(END.square().sum())
    assert found <= -GAMMA * ETA * away + ETA * SIGMA**2 * size
    more = float((f(w, SEEN) - f(w, X[:, None, None].expand_as(SEEN))).mean())
    assert more == pytest.approx((1 - 1 / N) / 2 * SIGMA**2 * float(w.square().sum()), rel=1e-10)


def test_the_third_term_is_bounded():
    """Eqs 47 to 52, by the moments of eq. 29: c ≥ E‖x + ε‖⁴ ≥ (E‖x + ε‖²)²."""
    squares = SEEN.square().sum(-1)
    c = float(squares.square().mean((0, 1)).max())
    assert float(squares.mean((0, 1)).max()) <= c**0.5
    outer = SEEN[..., :, None] * SEEN[..., None, :]
    first = torch.linalg.matrix_norm(outer, 2).square()
    crossed = (squares[..., :, None] * squares[..., None, :]).sum(-1) - squares.square()
    second = crossed / N**2
    push = slope(W, SEEN)
    size, begun = W.square().sum(-1), START.square().sum(-1)
    bound = 4 * first * size + 4 * second * size.sum() + 4 * GAMMA**2 * (size + begun)
    assert bool((push.square().sum(-1) <= bound + 1e-12).all())
    assert float(first.mean((0, 1)).max()) <= c * (1 + 1e-12)
    assert float(second.mean((0, 1)).max()) <= c / N
    whole = float(push.square().sum((-2, -1)).mean())
    steep = 2 * c + GAMMA**2
    at_w = 4 * steep * float(size.sum()) + 4 * GAMMA**2 * float(begun.sum())
    away, least = float((W - END).square().sum()), float(END.square().sum())
    assert whole <= at_w
    assert at_w <= 8 * steep * (away + least) + 4 * GAMMA**2 * float(begun.sum())


@pytest.mark.parametrize("eta", [0.001, 0.01, 0.05])
def test_one_step_stays_under_the_bound(eta):
    """Eqs 53 and 54: exactly averaged over inputs and noise, from the start that the bound has."""
    bound = noise_bound(START, X, torch.tensor([eta], dtype=torch.float64), GAMMA, SIGMA)
    stepped = (START - eta * slope(START, SEEN) - END).square().sum((-2, -1)).mean()
    assert float(bound[0]) == pytest.approx(float((START - END).square().sum()), rel=1e-12)
    assert float(stepped) < float(bound[1])


def test_small_rates_have_the_short_form():
    """Eqs 55 to 57, with σ²‖W*‖² in the condition, and the product over the steps after t."""
    steep = 8 * (2 * float(noisy_moment(X, SIGMA)) + GAMMA**2)
    size, begun = float(END.square().sum()), float(START.square().sum())
    most = SIGMA**2 * size / (steep * size + 4 * GAMMA**2 * begun)
    rates = most / (1 + torch.arange(7, dtype=torch.float64))
    bound = noise_bound(START, X, rates, GAMMA, SIGMA)
    factors = [1 - GAMMA * eta + eta**2 * steep for eta in rates.tolist()]
    short = [float(bound[0])]
    for eta, factor in zip(rates.tolist(), factors, strict=True):
        short.append(factor * short[-1] + 2 * eta * SIGMA**2 * size)
    assert bool((bound <= torch.tensor(short, dtype=torch.float64) + 1e-12).all())
    parts = [2 * SIGMA**2 * eta * size for eta in rates.tolist()]
    after = sum(part * math.prod(factors[t + 1 :]) for t, part in enumerate(parts))
    upto = sum(part * math.prod(factors[1 : t + 1]) for t, part in enumerate(parts))
    assert short[-1] == pytest.approx(short[0] * math.prod(factors) + after, rel=1e-12)
    assert upto != pytest.approx(after, rel=1e-4)  # as printed
