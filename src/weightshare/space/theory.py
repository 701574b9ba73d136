"""Weight sharing among neurons that see the same input: its loss, its update, where it ends, and how it gets there.

In the grid: what the sleep phase of the space axis does, as pure functions that the real layers' sleep can be held
against. With inhibition of finite strength `α` a fraction `1/(1 + α)` of the mean response is left in the update, which
pulls the mean weight to 0, slowly; `alpha=None` (or infinity) is the update without that bias.

All are batched: weights are `(..., neurons, inputs)`, and the leading dimensions of every argument (`γ` and `α` are
numbers or tensors of that shape) are broadcast, so that many `γ`, `α` and seeds are one computation.

Source: Pogodin 2021, section 4, A.1 and A.2. `circuit` has eqs 8 and 9, `noisy` has A.3.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from jaxtyping import Float
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.hooks import expect_count, expect_number
from weightshare.space import check
from weightshare.space.measure import snr

AT_ONCE = 200  # inputs that are looked at together; more fall out of the cache
Level = float | Tensor
"""A number, or a tensor with one for each problem."""


class Course(NamedTuple):
    """Where a simulation came, and how.

    Args:
        weights: `(..., neurons, inputs)` at the end.
        curve: `(..., times)`: `−log SNR` (eq. 6) at the times that were asked for; natural logarithm.
    """

    weights: Tensor
    curve: Tensor


def covariance(inputs: Float[Tensor, "... patterns inputs"]) -> Float[Tensor, "... inputs inputs"]:
    """Second moments of the inputs: `C = 1/M Σ_m x_m x_mᵀ`; nothing is subtracted.

    Args:
        inputs: `(..., M, k)`, float32 or float64.

    Returns:
        `(..., k, k)`, symmetric, of the inputs' dtype.

    Raises:
        SpecError: If `inputs` is anything else, empty, or not finite.

    Source: Pogodin 2021, before eqs 5 and 19.
    Differs: nothing.

    Example:
        >>> covariance(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        tensor([[5., 1.],
                [1., 2.]])
    """
    x = check.weights(inputs, "covariance")
    return x.mT @ x / x.shape[-2]


def normal_covariance(inputs: int, mean: float = 0.0) -> Float[Tensor, "inputs inputs"]:
    """Second moments of independent `N(mean, 1)` inputs: `C = I + mean² 11ᵀ`.

    Args:
        inputs: How many there are, at least 1.
        mean: Of each of them.

    Returns:
        `(inputs, inputs)`, float64.

    Raises:
        SpecError: If there is no input, or if the mean is not finite.

    Source: Pogodin 2021, A.5, whose `N(1, 1)` inputs have `I + 11ᵀ`.
    Differs: A.5's limit takes `C = I`.

    Example:
        >>> normal_covariance(2, mean=1.0)
        tensor([[2., 1.],
                [1., 2.]], dtype=torch.float64)
    """
    expect_count("inputs", inputs, 1)
    return torch.eye(inputs, dtype=torch.float64) + expect_number("mean", mean, low=-math.inf) ** 2


def loss(w: Tensor, w_init: Tensor, inputs: Tensor, gamma: Level) -> Float[Tensor, "..."]:
    """What sharing minimises: how much responses differ, plus how far weights have gone.

    `1/(4MN) Σ_m Σ_i Σ_j (w_iᵀx_m − w_jᵀx_m)² + γ/2 Σ_i ‖w_i − w_i^init‖²`; computed without pairs, by
    `Σ_i Σ_j (z_i − z_j)² = 2N Σ_i (z_i − mean z)²`.

    Args:
        w: `(..., N, k)`, float32 or float64.
        w_init: The weights at the start of the sleep; as `w`.
        inputs: `(..., M, k)`, of the dtype of `w`.
        gamma: Pull to the start, at least 0; a number or `(...)`.

    Returns:
        `(...)`, at least 0.

    Raises:
        SpecError: If an argument has another shape, dtype or range.

    Source: Pogodin 2021, eqs 11 and 12.
    Differs: nothing.

    Example:
        >>> w = torch.tensor([[1.0], [3.0]])
        >>> loss(w, torch.zeros(2, 1), torch.tensor([[2.0]]), gamma=0.5)
        tensor(6.5000)
    """
    w, w_init = check.pair(w, w_init, "loss")
    x, pull = check.patterns(inputs, "loss", w), check.level(gamma, "gamma", w)
    check.lead("loss", w.shape[:-2], w_init.shape[:-2], x.shape[:-2], pull.shape)
    z = w @ x.mT
    apart = (z - z.mean(-2, keepdim=True)).square().sum((-2, -1)) / (2 * x.shape[-2])
    return apart + pull / 2 * (w - w_init).square().sum((-2, -1))


def gradient(
    w: Tensor, w_init: Tensor, inputs: Tensor, gamma: Level, alpha: Level | None = None
) -> Float[Tensor, "... neurons inputs"]:
    """The opposite of the Hebbian update, `(z_i − α/(1 + α) mean_j z_j) x + γ (w_i − w_i^init)`, mean over inputs.

    Without `alpha` it is the gradient of `loss`.

    Args:
        w: As for `loss`.
        w_init: As for `loss`.
        inputs: As for `loss`; one input is `(..., 1, k)`.
        gamma: As for `loss`.
        alpha: Strength of inhibition, at least 0; `None` or infinite without bias. A number or `(...)`.

    Returns:
        `(..., N, k)`.

    Raises:
        SpecError: As `loss`.

    Source: Pogodin 2021, eqs 4 and 13 (their right hand side, negated), 17, and with `alpha` 21 and 22.
    Differs: nothing.

    Example:
        >>> w = torch.tensor([[1.0], [3.0]])
        >>> gradient(w, w, torch.tensor([[2.0]]), gamma=0.5).flatten()
        tensor([-4.,  4.])
        >>> gradient(w, w, torch.tensor([[2.0]]), gamma=0.5, alpha=1.0).flatten()
        tensor([0., 8.])
    """
    w, w_init = check.pair(w, w_init, "gradient")
    x, pull, left = check.patterns(inputs, "gradient", w), check.level(gamma, "gamma", w), check.leak(alpha, w)
    check.lead("gradient", w.shape[:-2], w_init.shape[:-2], x.shape[:-2], pull.shape, left.shape)
    z = w @ x.mT
    push = z - (1 - left)[..., None, None] * z.mean(-2, keepdim=True)
    return push @ x / x.shape[-2] + pull[..., None, None] * (w - w_init)


def fixed_point(
    w_init: Tensor, covariance: Float[Tensor, "... inputs inputs"], gamma: Level, alpha: Level | None = None
) -> Float[Tensor, "... neurons inputs"]:
    """Where sharing ends: `w_i* = (C + γI)⁻¹ (C μ + γ w_i^init)`, with `μ` the mean of the initial weights.

    With `alpha` the mean itself shrinks, to `μ* = γ (C/(1 + α) + γI)⁻¹ μ`, and `C μ` above becomes `α/(1 + α) C μ*`.

    Args:
        w_init: `(..., N, k)`, float32 or float64.
        covariance: `(..., k, k)`, symmetric, positive semidefinite.
        gamma: As for `loss`; above 0 wherever the covariance has no inverse, and wherever `alpha` is infinite.
        alpha: As for `gradient`.

    Returns:
        `(..., N, k)` of the dtype of `w_init`, solved in float64.

    Raises:
        SpecError: If an argument has another shape, dtype or range, or if there is no single fixed point.

    Source: Pogodin 2021, eqs 5 and 19 (20 for `C = I`), and with `alpha` 24 (25 for `C = I`).
    Differs: nothing.

    Example:
        >>> w = torch.tensor([[1.0], [3.0]])
        >>> fixed_point(w, torch.eye(1), gamma=0.25).flatten()
        tensor([1.8000, 2.2000])
    """
    what = "fixed_point"
    start = check.weights(w_init, what).double()
    C = check.weights(covariance, what).double()
    k = start.shape[-1]
    if C.shape[-2:] != (k, k) or not torch.allclose(C, C.mT, rtol=1e-5, atol=1e-8):
        raise SpecError(f"{what}: needs a symmetric covariance (..., {k}, {k}), got one of shape {tuple(C.shape)}.")
    pull, left = check.level(gamma, "gamma", start)[..., None, None], check.leak(alpha, start)[..., None, None]
    check.lead(what, start.shape[:-2], C.shape[:-2], pull.shape[:-2], left.shape[:-2])
    unit, mean = torch.eye(k, dtype=C.dtype, device=C.device), start.mean(-2)[..., None]
    end = mean if alpha is None else _solve(left * C + pull * unit, pull * mean)
    return _solve(C + pull * unit, (1 - left) * (C @ end) + pull * start.mT).mT.to(w_init.dtype)


def minus_log_snr_limit(gamma: Level, alpha: Level | None = None) -> Float[Tensor, "..."]:
    """The lowest `−log SNR` that sharing comes to with unit covariance: `2 log(γ/(1 + γ))`, in float64.

    It takes the mean of the initial weights as 1 and their variance as 1, as `N(1, 1)` has them for many neurons. With
    `alpha` eq. 25 gives `2 log((1 + γ(1 + α)) / ((1 + γ)(1 + α)))`.

    Args:
        gamma: At least 0; with 0 and no `alpha` the limit is minus infinity.
        alpha: As for `gradient`.

    Returns:
        One number for each `γ` and `α`.

    Raises:
        SpecError: If one is out of its range.

    Source: Pogodin 2021, A.5; with `alpha` from eq. 25, ours.
    Differs: The paper calls it `−log SNR_min`; it belongs to the greatest SNR.

    Example:
        >>> minus_log_snr_limit(torch.tensor([0.1, 0.01]))
        tensor([-4.7958, -9.2302], dtype=torch.float64)
    """
    like = torch.zeros((), dtype=torch.float64)
    pull, left = check.level(gamma, "gamma", like), check.leak(alpha, like)
    return 2 * ((left + pull) / (1 + pull)).log()


def simulate(
    w_init: Tensor,
    inputs: Float[Tensor, "... steps inputs"],
    rates: Float[Tensor, " steps"],
    gamma: Level,
    alpha: Level | None = None,
    momentum: float = 0.95,
    at: Sequence[int] = (),
) -> Course:
    """Share weights step by step, with a new input in each: `v ← μ v + g(w)`, `w ← w − η v`, `g` as in `gradient`.

    Args:
        w_init: `(..., N, k)`, float32 or float64; where it starts, at rest.
        inputs: `(..., steps, k)`, of the dtype of `w_init`.
        rates: Learning rate `η` of each step, at least 0.
        gamma: As for `loss`.
        alpha: As for `gradient`.
        momentum: `μ`, from 0 to below 1, as in `torch.optim.SGD`.
        at: After how many steps to record `−log SNR`, ascending; 0 is before the first.

    Returns:
        The weights at the end and the recorded curve.

    Raises:
        SpecError: If an argument has another shape, dtype or range.

    Source: Pogodin 2021, eqs 4, 13 and 21, with A.5's momentum.
    Differs: nothing.

    Example:
        >>> w = torch.tensor([[0.0], [2.0]])
        >>> course = simulate(w, torch.ones(60, 1), torch.full((60,), 0.5), gamma=0.25, momentum=0.0, at=(0, 60))
        >>> course.weights.flatten(), course.curve
        (tensor([0.8000, 1.2000]), tensor([-0.0000, -3.2189], dtype=torch.float64))
    """
    what = "simulate"
    start = check.weights(w_init, what)
    x = check.patterns(inputs, what, start)
    pull, left = check.level(gamma, "gamma", start), check.leak(alpha, start)
    eta = expect_rates(rates, x.shape[-2:-1], what, start)
    inertia, times = expect_momentum(momentum), check.moments(at, x.shape[-2], what)
    shape = check.lead(what, start.shape[:-2], x.shape[:-2], pull.shape, left.shape)
    first, pull, left = flat(start, shape, 2), flat(pull, shape, 0), flat(left, shape, 0)[:, None]
    state = torch.zeros((len(first), 2, *first.shape[1:]), dtype=start.dtype, device=start.device)
    one, curve = torch.ones_like(pull), [-snr(first).log()] if 0 in times else []
    wanted = set(times)
    for begin in range(0, x.shape[-2], AT_ONCE):
        some = flat(x[..., begin : begin + AT_ONCE, :], shape, 2)
        answers = some @ first.mT  # of the initial weights: (problems, steps, N)
        for n, rate in enumerate(eta[begin : begin + AT_ONCE].tolist()):
            given = some[:, n]
            z = answers[:, n] + (state[:, 0] @ given[..., None])[..., 0]
            push = z - (1 - left) * z.mean(-1, keepdim=True)
            mix = torch.stack((1 - rate * pull, -rate * inertia * one, pull, inertia * one), -1).view(-1, 2, 2)
            state = advance(state, mix, torch.stack((-rate * push, push), 1), given)
            if begin + n + 1 in wanted:
                curve.append(-snr(first + state[:, 0]).log())
    return course(first + state[:, 0], curve, shape)


def advance(state: Tensor, mix: Tensor, pushes: Tensor, x: Tensor) -> Tensor:
    """Mix how far weights have gone and their momentum, and push both along the input.

    Args:
        state: `(problems, 2, N, k)`: `w − w^init` and `v`.
        mix: `(problems, 2, 2)`.
        pushes: `(problems, 2, N)`: of the input, for each neuron.
        x: `(problems, k)`.

    Returns:
        The next state.
    """
    problems, _, neurons, inputs = state.shape
    mixed = torch.bmm(mix, state.view(problems, 2, -1)).view(problems, 2 * neurons, inputs)
    return mixed.baddbmm_(pushes.reshape(problems, -1, 1), x[:, None, :]).view_as(state)


def course(weights: Tensor, curve: Sequence[Tensor], shape: torch.Size) -> Course:
    """The end and the curve of flattened problems, in the shape of the problems."""
    recorded = torch.stack(list(curve), -1) if curve else weights.new_zeros((len(weights), 0), dtype=torch.float64)
    return Course(weights.reshape(*shape, *weights.shape[1:]), recorded.reshape(*shape, -1 if curve else 0))


def expect_rates(rates: object, shape: Sequence[int], what: str, like: Tensor) -> Tensor:
    """Learning rates of the given shape, finite and at least 0; `SpecError` otherwise."""
    eta = check.level(rates, f"{what}'s rates", like)
    if eta.shape != tuple(shape):
        raise SpecError(f"{what}: needs rates of shape {tuple(shape)}, one for each step, got {tuple(eta.shape)}.")
    return eta


def expect_momentum(momentum: object) -> float:
    """A momentum from 0 to below 1; `SpecError` otherwise."""
    value = expect_number("momentum", momentum, high=1.0)
    if value == 1:
        raise SpecError("momentum=1: need a number below 1; with 1 nothing ever comes to rest.")
    return value


def flat(value: Tensor, shape: torch.Size, dims: int) -> Tensor:
    """Problems in one dimension; the last `dims` dimensions are what each of them holds."""
    own = value.shape[value.ndim - dims :]
    return value.expand((*shape, *own)).reshape(-1, *own)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    answer, info = torch.linalg.solve_ex(*_together(matrix, right))
    if bool(info.any()) or not bool(answer.isfinite().all()):
        raise SpecError(
            "fixed_point: C + γI has no inverse, so the weights could end at more than one place. Use gamma > 0."
        )
    return answer


def _together(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    return matrix.expand(*shape, *matrix.shape[-2:]), right.expand(*shape, *right.shape[-2:])
