"""The circuit that shares weights: excitatory neurons, one inhibitory neuron, and anti-Hebbian plasticity.

In the grid: the space axis's sleep phase in continuous time. Rates follow `τ ṙ_i = −r_i + w_iᵀx − α r_inh + b` and
`τ ṙ_inh = −r_inh + mean_j r_j − b`, by Euler steps; weights `Δw_i ∝ −(r_i − b) x − γ (w_i − w_i^init)`, with momentum,
in every step.

`simulate` takes no such step on weights. While one input `x` is on,

    w_i(t) − w_i^init = p(t) (w_i(0) − w_i^init) + q(t) v_i(0) + e_i(t) x,    v_i(t) likewise,

and responses are `w_iᵀx`, so scalars are all that is stepped. They are linear in how the neuron begins: its rate,
`(w_i(0) − w_i^init)ᵀx`, `v_i(0)ᵀx`, `w_i^initᵀx`. Inhibition acts on the mean over neurons alone, so what neurons
differ by goes its way without it. Four unit beginnings of a difference and six of the mean (the rate of inhibition and
`b` come in) tell all, and depend on `‖x‖²` but on no weight: those of many inputs are stepped at once, and the weights
then follow, once for each input.

Source: Pogodin 2021, section 4.2. Differs: it leaves open how rates begin (here: at rest without input, `r = b`,
`r_inh = 0`) and whether they go on from one input to the next (here: they do).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.hooks import expect_count, expect_number
from weightshare.space import check
from weightshare.space.measure import snr
from weightshare.space.theory import AT_ONCE, Course, Level, advance, course, expect_momentum, expect_rates, flat

APART, TOGETHER = 4, 6  # unit beginnings: of what neurons differ by, and of their mean


@dataclass(frozen=True, eq=False)
class Circuit:
    """A layer's neurons and the one that inhibits them.

    Args:
        alpha: Strength of inhibition, at least 0; a number, or a tensor with one for each problem.
        bias: What neurons get besides their input, at least 0, as a rate: `b`.
        tau: Time constant of all neurons, in milliseconds, above 0.
        step: Euler's step, in milliseconds: above 0, below `2 tau/(1 + alpha)`, from where on rates would grow.

    Raises:
        SpecError: If one is out of its range.

    Source: Pogodin 2021, eq. 8, and A.5 for the defaults.

    Example:
        >>> Circuit(alpha=1.0).settled(torch.tensor([1.0, 5.0]))
        tensor([0.5000, 4.5000])
    """

    alpha: Level = 10.0
    bias: float = 1.0
    tau: float = 30.0
    step: float = 1.0

    def __post_init__(self) -> None:
        like = torch.zeros((), dtype=torch.float64)
        strongest = check.level(self.alpha, "alpha", like).amax() if not _empty(self.alpha) else like
        expect_number("bias", self.bias)
        most = 2 * expect_number("tau", self.tau) / (1 + float(strongest))
        if not 0 < expect_number("step", self.step) < most:
            raise SpecError(
                f"step={self.step!r}: with tau={self.tau!r} and alpha up to {float(strongest):g}, Euler's step has to "
                f"be above 0 and below {most:.3g} ms, or rates grow without end."
            )

    def settled(self, drive: Float[Tensor, "... neurons"]) -> Float[Tensor, "... neurons"]:
        """The rates at which the circuit rests: `b + z_i − mean_j z_j + mean_j z_j/(1 + α)`.

        Args:
            drive: What neurons get from their input, `z_i = w_iᵀx`.

        Returns:
            A rate for each neuron.

        Raises:
            SpecError: If `drive` is no float tensor with neurons in its last dimension.

        Source: Pogodin 2021, eq. 9.
        """
        mean = _drive(drive).mean(-1, keepdim=True)
        left = 1 / (1 + check.level(self.alpha, "alpha", drive)[..., None])
        return self.bias + drive - mean + left * mean

    def euler(self, rates: Tensor, inhibition: Tensor, drive: Tensor) -> tuple[Tensor, Tensor]:
        """One step of all rates, each from the rates before it.

        Args:
            rates: `r`, `(..., neurons)`.
            inhibition: `r_inh`, `(...)`.
            drive: `w_iᵀx`, `(..., neurons)`.

        Returns:
            The next `r` and `r_inh`.

        Raises:
            SpecError: As `settled`.

        Source: Pogodin 2021, eqs 8a and 8b.

        Example:
            >>> rates, inhibition = torch.ones(2), torch.zeros(())
            >>> for _ in range(1000):
            ...     rates, inhibition = Circuit(alpha=1.0).euler(rates, inhibition, torch.tensor([1.0, 5.0]))
            >>> rates, inhibition
            (tensor([0.5000, 4.5000]), tensor(1.5000))
        """
        h, strength = self.step / self.tau, check.level(self.alpha, "alpha", _drive(drive))
        more = drive - rates - (strength * inhibition)[..., None] + self.bias
        return rates + h * more, inhibition + h * (rates.mean(-1) - self.bias - inhibition)

    def presented(self, steps: int) -> tuple[Tensor, Tensor]:
        """What plasticity is given on the average over a presentation, whose first steps are not settled yet.

        Rates lag behind a new input, and inhibition lags behind the rates. In each step of the presentation a neuron
        that differs from the mean by 1 answers with its own part of it, and the mean with another; their averages are
        a gain `g` and a leak `g/(1 + α')`. So weights that learn slowly end at
        `fixed_point(w_init, g·C, gamma, α')`, where inputs are independent and of mean 0.

        Args:
            steps: Euler's steps of a presentation, at least 1.

        Returns:
            `g` and `α'`, float64, of the shape of `alpha`; they come to 1 and `alpha` for many steps.

        Raises:
            SpecError: If there is no step.

        Source: not in the paper, which takes rates as settled (eq. 24).

        Example:
            >>> gain, alpha = Circuit(alpha=10.0).presented(150)
            >>> round(float(gain), 3), round(float(alpha), 3)
            (0.808, 6.574)
        """
        expect_count("steps", steps, 1)
        strength = check.level(self.alpha, "alpha", torch.zeros((), dtype=torch.float64))
        drive = strength.new_tensor([2.0, 0.0]).expand(*strength.shape, 2)  # mean 1, and 1 away from it
        rates, inhibition = torch.full_like(drive, self.bias), torch.zeros_like(strength)
        total = torch.zeros_like(drive)
        for _ in range(steps):
            rates, inhibition = self.euler(rates, inhibition, drive)
            total = total + (rates - self.bias) / steps
        gain, mean = total.diff(dim=-1).squeeze(-1).neg() / 2, total.mean(-1)
        return gain, gain / mean - 1


def simulate(
    w_init: Tensor,
    inputs: Float[Tensor, "... presentations inputs"],
    rates: Float[Tensor, "presentations steps"],
    gamma: Level,
    circuit: Circuit | None = None,
    momentum: float = 0.95,
    at: Sequence[int] = (),
) -> Course:
    """Share weights in a circuit that sees one input after the other, each for some steps.

    In each step the rates move first, by their rates before; then `v ← μ v + (r_i − b) x + γ (w_i − w_i^init)` and
    `w ← w − η v`. Where `η` is 0 the momentum gathers all the same, as `torch.optim.SGD`'s does.

    Args:
        w_init: `(..., N, k)`, float32 or float64; where it starts, with no momentum.
        inputs: `(..., presentations, k)`, of the dtype of `w_init`.
        rates: Learning rate `η` in each step of each presentation, `(presentations, steps)`, at least 0.
        gamma: Pull to the start, at least 0; a number or `(...)`.
        circuit: Its neurons; `Circuit()` by default.
        momentum: `μ`, from 0 to below 1.
        at: After how many presentations to record `−log SNR`, ascending; 0 is before the first.

    Returns:
        The weights at the end and the recorded curve. They are those of stepping all weights in every step, to
        rounding.

    Raises:
        SpecError: If an argument has another shape, dtype or range.

    Source: Pogodin 2021, eq. 8, the update after eq. 9, A.5.
    Differs: nothing; computed as at the top of this file.

    Example:
        >>> w, x = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [-1.0]]).repeat(50, 1)
        >>> found = simulate(w, x, torch.full((100, 150), 0.001), gamma=0.25, circuit=Circuit(20.0), at=(0, 100))
        >>> found.curve.round(decimals=1)
        tensor([-0.0000, -2.8000], dtype=torch.float64)
    """
    what = "simulate"
    circuit = Circuit() if circuit is None else circuit
    start = check.weights(w_init, what)
    x = check.patterns(inputs, what, start)
    if not isinstance(rates, Tensor) or rates.ndim != 2 or not rates.shape[-1]:
        raise SpecError(f"{what}: needs rates (presentations, steps), at least one step in each.")
    eta = expect_rates(rates, (x.shape[-2], rates.shape[-1]), what, start)
    pull, strength = check.level(gamma, "gamma", start), check.level(circuit.alpha, "alpha", start)
    inertia, times = expect_momentum(momentum), check.moments(at, x.shape[-2], what)
    shape = check.lead(what, start.shape[:-2], x.shape[:-2], pull.shape, strength.shape)
    first, pull, strength = flat(start, shape, 2), flat(pull, shape, 0), flat(strength, shape, 0)

    problems, neurons, _ = first.shape
    state = torch.zeros((problems, 2, *first.shape[1:]), dtype=start.dtype, device=start.device)
    r, inhibition = torch.full_like(first[..., 0], circuit.bias), torch.zeros_like(pull)[:, None]
    bias = torch.full_like(inhibition, circuit.bias)
    curve, wanted = [-snr(first).log()] if 0 in times else [], set(times)
    for begin in range(0, x.shape[-2], AT_ONCE):
        now = slice(begin, begin + AT_ONCE)
        some = flat(x[..., now, :], shape, 2)
        apart, together, mixes = _responses(some, eta[now], pull, strength, circuit, inertia)
        answers = some @ first.mT
        for n in range(answers.shape[1]):
            given = some[:, n]
            gone = (state.view(problems, 2 * neurons, -1) @ given[..., None]).view(problems, 2, neurons)
            begun = torch.stack((r, gone[:, 0], gone[:, 1], answers[:, n]), -1)  # (problems, N, 4)
            mean = begun.mean(1)
            common = torch.cat((mean, inhibition, bias), -1)[:, None] @ together[n]  # (problems, 1, 4)
            ended = (begun - mean[:, None]) @ apart[n] + common[..., :3]
            r, inhibition = ended[..., 0], common[:, :, 3].reshape(-1, 1)
            state = advance(state, mixes[n], ended[..., 1:].mT, given)
            if begin + n + 1 in wanted:
                curve.append(-snr(first + state[:, 0]).log())
    return course(first + state[:, 0], curve, shape)


def _responses(
    x: Tensor, eta: Tensor, pull: Tensor, strength: Tensor, circuit: Circuit, inertia: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What unit beginnings end as, for every presentation.

    Returns:
        Of a difference from the mean, `(presentations, problems, 4, 3)`: from rate, `w − w^init`, `v` and `w^init`
        along `x` to rate, push of `w` and push of `v`. Of the mean, `(presentations, problems, 6, 4)`: from those four,
        the rate of inhibition and the bias to those three and the rate of inhibition. And how `w − w^init` and `v` mix,
        `(presentations, problems, 2, 2)`.
    """
    h, pull = circuit.step / circuit.tau, pull[:, None]
    unit = torch.eye(TOGETHER, dtype=x.dtype, device=x.device)
    # One row for each beginning: first those of a difference, which have neither inhibition nor bias.
    rate, gone, moving, initial, inhibition, bias = torch.cat((unit[:APART], unit))[..., None, None].unbind(1)
    felt = torch.zeros_like(bias).masked_fill(torch.arange(len(bias), device=x.device)[:, None, None] >= APART, 1.0)
    felt = felt * strength[:, None]
    norm = x.square().sum(-1)  # (problems, presentations)
    r, inh = rate.expand(-1, *norm.shape), inhibition.expand(-1, *norm.shape)
    w_push, v_push = torch.zeros_like(r), torch.zeros_like(r)
    w_gone, w_moving = torch.ones_like(norm), torch.zeros_like(norm)
    v_gone, v_moving = torch.zeros_like(norm), torch.ones_like(norm)
    for lr in eta.unbind(1):
        drive = w_gone * gone + w_moving * moving + initial + norm * w_push
        r, inh = r + h * (drive - r - felt * inh + bias), inh + h * (r - bias - inh)
        v_push = inertia * v_push + (r - bias) + pull * w_push
        w_push = w_push - lr * v_push
        v_gone, v_moving = inertia * v_gone + pull * w_gone, inertia * v_moving + pull * w_moving
        w_gone, w_moving = w_gone - lr * v_gone, w_moving - lr * v_moving
    ends = torch.stack((r, w_push, v_push, inh), -1).permute(2, 1, 0, 3).contiguous()
    mixes = torch.stack((w_gone, w_moving, v_gone, v_moving), -1).transpose(0, 1)
    apart, together = ends[..., :APART, :3].contiguous(), ends[..., APART:, :].contiguous()
    return apart, together, mixes.reshape(*mixes.shape[:2], 2, 2)


def _drive(drive: object) -> Tensor:
    if not isinstance(drive, Tensor) or not drive.is_floating_point() or not drive.ndim or not drive.shape[-1]:
        raise SpecError("Circuit: needs a drive (..., neurons) of floats, at least one neuron.")
    return drive


def _empty(level: object) -> bool:
    return isinstance(level, Tensor) and not level.numel()
