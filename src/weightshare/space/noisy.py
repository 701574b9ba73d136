"""Sharing when every neuron sees its own noisy input: a bound on how far the weights are from where they would end.

In the grid: the space axis's theory for real inputs. Neuron `i` sees `x_m + ε_i`, with `ε_i` of mean 0 and covariance
`σ²I`, independent from neuron to neuron and from step to step, and the weights follow the gradient of

    f(W, X) = 1/(4N) Σ_i Σ_j (w_iᵀx_i − w_jᵀx_j)² + γ/2 Σ_i ‖w_i − w_i^init‖²    at X = X_m + E.

With `c ≥ E‖x_m + ε_i‖⁴`, `e_k = E‖W^k − W*‖²` and `W*` from `fixed_point`, each step obeys

    e_(k+1) ≤ (1 − γ η + 8(2c + γ²) η²) e_k + η σ²‖W*‖² + η² (8(2c + γ²)‖W*‖² + 4γ²‖W^init‖²).

Proof. `‖W^(k+1) − W*‖² = ‖W^k − W*‖² − 2η⟨W^k − W*, ∇f⟩ + η²‖∇f‖²`.

- The inner product. `f` is γ-strongly convex in `W`, so `−⟨W^k − W*, ∇f⟩ ≤ f(W*, X + E) − f(W^k, X + E) − γ/2
  ‖W^k − W*‖²`. `f` is quadratic in `X`, so noise of mean 0 adds just `E f(W, X + E) − f(W, X) = ½(1 − 1/N) σ²‖W‖²`:
  at most `½σ²‖W*‖²` for `W*`, at least 0 for `W^k`. Over `m`, `E f(W*, X_m) − f(W^k, X_m) ≤ 0`, as `W*` is the least.
  Together, times `2η`: `−γη e_k + ησ²‖W*‖²`.
- The square. `∂f/∂w_i = (1 − 1/N) A_i w_i − B_i W + γ w_i − γ w_i^init`, with `A_i = x_i x_iᵀ` and
  `(B_i)_j = x_i x_jᵀ/N` for `j ≠ i`. `E‖A_i‖² ≤ E‖x_i‖⁴ ≤ c` and, as noise is independent over neurons,
  `E‖B_i‖² ≤ (N − 1)/N² c`. A sum of four has at most four times the sum of squares, so summing over neurons
  `E‖∇f‖² ≤ 4(2c + γ²)‖W^k‖² + 4γ²‖W^init‖²`, and `‖W^k‖² ≤ 2‖W^k − W*‖² + 2‖W*‖²`. ∎

With `Σ η = ∞` and `η → 0` the terms in `η²` die out and leave the floor `σ²‖W*‖²/γ`; with `η_k = a/(k + b)`, `γa > 1`,
the rest falls as `1/k`.

Source: Pogodin 2021, A.3, Theorem 1, eqs 26 to 57. Differs: eq. 27 has `w_i` where its second one is `w_j`. Eq. 44 has
half of what eq. 42 bounds; that `f` is quadratic in `X` makes it right. The condition before eq. 55 needs `σ²‖W*‖²`
where it has `σ²`, and the product in eq. 57 runs over the steps after `t`, not up to it: here the steps are iterated,
as they stand in eqs 53 and 54.
"""

from jaxtyping import Float
import torch
from torch import Tensor

from weightshare.space import check
from weightshare.space.theory import Level, covariance, expect_rates, fixed_point


def noisy_moment(inputs: Float[Tensor, "... patterns inputs"], noise: Level) -> Float[Tensor, "..."]:
    """The fourth moment of inputs with normal noise: `1/M Σ_m E‖x_m + ε‖⁴`, `ε ~ N(0, σ²I)`.

    `E‖x + ε‖⁴ = ‖x‖⁴ + (2k + 4) σ²‖x‖² + (k² + 2k) σ⁴` for `k` inputs; its mean over `m` is all that the proof needs.

    Args:
        inputs: `(..., M, k)`, float32 or float64.
        noise: `σ`, at least 0; a number or `(...)`.

    Returns:
        `(...)`: the least `c` that `noise_bound` holds for.

    Raises:
        SpecError: If an argument has another shape, dtype or range.

    Source: Pogodin 2021, eq. 29.
    Differs: The mean over inputs instead of the greatest; its first half follows from its second.

    Example:
        >>> noisy_moment(torch.tensor([[1.0, 0.0]]), noise=1.0)  # 1 + 8 + 8
        tensor(17.)
    """
    x = check.weights(inputs, "noisy_moment")
    k, variance = x.shape[-1], check.level(noise, "noise", x)[..., None].square()
    square = x.square().sum(-1)
    return (square.square() + (2 * k + 4) * variance * square + (k * k + 2 * k) * variance.square()).mean(-1)


def noise_bound(
    w_init: Tensor, inputs: Tensor, rates: Float[Tensor, " steps"], gamma: Level, noise: Level
) -> Float[Tensor, "... times"]:
    """Bound the expected `‖W − W*‖²` before the first step and after each, by the recursion at the top of this file.

    Args:
        w_init: `(..., N, k)`, float32 or float64; where it starts.
        inputs: `(..., M, k)`, of the dtype of `w_init`; each step takes one of the `M` at random, and adds noise.
        rates: Learning rate `η` of each step, at least 0. The bound falls where `8(2c + γ²) η < γ`.
        gamma: Pull to the start, above 0; a number or `(...)`.
        noise: `σ`, standard deviation of the normal noise in each input, at least 0; a number or `(...)`.

    Returns:
        `(..., steps + 1)`, float64.

    Raises:
        SpecError: If an argument has another shape, dtype or range.

    Source: Pogodin 2021, Theorem 1, eqs 53 and 54.
    Differs: as at the top of this file.

    Example:
        >>> w, x = torch.tensor([[0.0], [2.0]]), torch.ones(1, 1)
        >>> noise_bound(w, x, torch.full((2,), 0.01), gamma=1.0, noise=0.0)
        tensor([0.5000, 0.5038, 0.5076], dtype=torch.float64)
    """
    what = "noise_bound"
    start = check.weights(w_init, what)
    x, eta = check.patterns(inputs, what, start).double(), expect_rates(rates, tuple(rates.shape[:1]), what, start)
    start = start.double()
    pull, sigma = check.level(gamma, "gamma", start), check.level(noise, "noise", start)
    shape = check.lead(what, start.shape[:-2], x.shape[:-2], pull.shape, sigma.shape)
    target = fixed_point(start, covariance(x), pull)
    size, begun = target.square().sum((-2, -1)), start.square().sum((-2, -1))
    steep = 8 * (2 * noisy_moment(x, sigma) + pull.square())
    error = (start - target).square().sum((-2, -1)).expand(shape)
    steady, quick = sigma.square() * size, steep * size + 4 * pull.square() * begun
    bounds = [error]
    for rate in eta.double().tolist():
        error = (1 - pull * rate + steep * rate**2) * error + rate * steady + rate**2 * quick
        bounds.append(error)
    return torch.stack(bounds, -1)


def noise_floor(w_init: Tensor, inputs: Tensor, gamma: Level, noise: Level) -> Float[Tensor, "..."]:
    """What `noise_bound` comes down to with ever smaller steps: `σ²‖W*‖²/γ`.

    Args:
        w_init: As for `noise_bound`.
        inputs: As for `noise_bound`.
        gamma: As for `noise_bound`.
        noise: As for `noise_bound`.

    Returns:
        `(...)`, float64.

    Raises:
        SpecError: As `noise_bound`.

    Source: Pogodin 2021, Theorem 1, its second term.
    Differs: The paper leaves the constant out.

    Example:
        >>> noise_floor(torch.tensor([[0.0], [2.0]]), torch.ones(1, 1), gamma=1.0, noise=0.5)
        tensor(0.6250, dtype=torch.float64)
    """
    start = check.weights(w_init, "noise_floor").double()
    x = check.patterns(inputs, "noise_floor", w_init).double()
    pull, sigma = check.level(gamma, "gamma", start), check.level(noise, "noise", start)
    check.lead("noise_floor", start.shape[:-2], x.shape[:-2], pull.shape, sigma.shape)
    return sigma.square() * fixed_point(start, covariance(x), pull).square().sum((-2, -1)) / pull
