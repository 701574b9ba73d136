"""How fast dynamic weight sharing shares, beside what theory says: `−log SNR` of a layer's weights over its sleep.

| figure | what is simulated | learning rate | theory |
|---|---|---|---|
| 4A | the Hebbian update (eq. 4), 2,000 inputs | `0.5/(1000 + k)` | the fixed point (eq. 5) |
| 4B | the circuit with `α` = 10 (eq. 8), 4,000 inputs of 150 ms | see `circuit_rates` | eq. 24 |
| 5A | the update with the bias of `α` = 10 (eq. 21), 10,000 inputs | as 4A | eq. 24 |
| 5B | as 4B, 10,000 inputs | as 4B | eq. 24 |

Eq. 24 takes rates as settled; beside it stands where the circuit ends with the time that its rates take
(`Circuit.presented`). For kernel sizes `k` 3, 6 and 9 (`k²` inputs), `γ` 0.1, 0.01 and 0.001, 100 neurons, momentum
0.95, 10 runs. All runs of a `k` and a `γ` are one simulation. A run's initial weights and inputs are the same for every
`γ`, and in every figure: 4B is the beginning of 5B.

Source: Pogodin 2021, figs 4 and 5, A.5. Differs: inputs are `N(0, 1)`, as the authors' program draws them; the text has
`N(1, 1)`, which `input_mean=1` draws. With those, `C = I + 11ᵀ`, and the mean response is not 0 on average: inhibition
of finite strength then takes the mean weight away much faster, and with `γ` = 0.1 hardly anything is shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightshare.experiments.jobs import Calculation, Outcome, Scale
from weightshare.space import circuit, theory
from weightshare.space.measure import snr

RUNS = 10
POINTS = 120  # of a curve are kept
PRESENTED = 150  # steps of 1 ms for each input
MOMENTUM = 0.95
NEURONS = 100
KERNELS, GAMMAS = (3, 6, 9), (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Sleep:
    """What a figure shows.

    Args:
        steps: How many inputs.
        alpha: Strength of inhibition; `None` for the update without its bias.
        neural: Whether the circuit is simulated, instead of the update that it stands for.
    """

    steps: int
    alpha: float | None = None
    neural: bool = False


SLEEPS = {
    "4A": Sleep(2000),
    "4B": Sleep(4000, 10.0, neural=True),
    "5A": Sleep(10_000, 10.0),
    "5B": Sleep(10_000, 10.0, neural=True),
}
SMOKE = {"steps": 150, "neurons": 11}

ROWS: dict[str, tuple[int, float]] = {
    f"k{kernel}-gamma{gamma:g}": (kernel, gamma) for kernel in KERNELS for gamma in GAMMAS
}
"""Kernel size and `γ`, by row."""


def job(name: str, row: str, scale: Scale, input_mean: float = 0.0) -> Calculation:
    """The simulation of a row of a figure; `small` is the paper's own, which takes a minute or two.

    Args:
        name: One of `SLEEPS`.
        row: One of `ROWS`.
        scale: How much of it.
        input_mean: Mean of the inputs; their deviation is 1.
    """
    kernel, gamma = ROWS[row]
    of, about = SLEEPS[name], {"input_mean": input_mean, "momentum": MOMENTUM}
    printed = {"kernel": kernel, "gamma": gamma, "steps": of.steps, "neurons": NEURONS, **about}
    printed |= {"alpha": of.alpha, "neural": of.neural}
    return Calculation(sleeping, printed | (SMOKE if scale == "smoke" else {}), printed, together=True)


def sleeping(
    seeds: Sequence[int],
    kernel: int,
    gamma: float,
    steps: int,
    alpha: float | None = None,
    neural: bool = False,
    neurons: int = NEURONS,
    input_mean: float = 0.0,
    momentum: float = MOMENTUM,
) -> dict[int, Outcome]:
    """Simulate all runs of a kernel size and a `γ` at once.

    Returns:
        For each run its curve and, as metrics, its `end` and its `minimum`, after how many inputs that was there, the
        fixed point that belongs to its initial weights (`theory`), and how far its end is from that (`distance`). As
        numbers the fixed point with the time that rates take (`presented`), which is the same one where there are no
        rates, and the `limit` for infinite inhibition.
    """
    start, inputs = draw(kernel, seeds, steps, neurons, input_mean)
    at = times(steps)
    second = theory.normal_covariance(kernel**2, input_mean)
    settled = presented = -snr(theory.fixed_point(start, second, gamma, alpha)).log()
    if neural:
        cells = circuit.Circuit() if alpha is None else circuit.Circuit(alpha)
        found = circuit.simulate(start, inputs, circuit_rates(steps), gamma, cells, momentum, at)
        gain, left = cells.presented(PRESENTED)
        presented = -snr(theory.fixed_point(start, gain * second, gamma, left)).log()
    else:
        found = theory.simulate(start, inputs, hebbian_rates(steps), gamma, alpha, momentum, at)
    limit = float(theory.minus_log_snr_limit(gamma))
    runs = zip(seeds, found.curve, settled.tolist(), presented.tolist(), strict=True)
    return {seed: _outcome(at, curve, aim, lagging, limit) for seed, curve, aim, lagging in runs}


def _outcome(at: Sequence[int], curve: Tensor, settled: float, presented: float, limit: float) -> Outcome:
    end, lowest = float(curve[-1]), int(curve.argmin())
    metrics = {"end": end, "theory": settled, "distance": end - settled}
    metrics |= {"minimum": float(curve[lowest]), "minimum-at": at[lowest]}
    shown = {"inputs": at, "minus_log_snr": [round(float(value), 4) for value in curve]}
    return Outcome(metrics, {"presented": presented, "limit": limit}, shown)


def hebbian_rates(steps: int) -> Tensor:
    """`η_k = 0.5/(1000 + k)`, `k` from 0."""
    return 0.5 / (1000 + torch.arange(steps, dtype=torch.float64))


def circuit_rates(presentations: int) -> Tensor:
    """`η_k = 0.0003/sqrt(1 + k/2)` for `k ≥ 50`, else 0, where `k` counts the milliseconds of the whole run, from 0.

    The text leaves open what `k` counts. This way the minimum is reached after 800 to 4,000 inputs, about 2,000 in the
    middle, as the paper says. Counted afresh for each input, or in inputs, the rate stays so high that with 9 inputs
    the minimum comes after 60 to 270 of them, and that 81 inputs hardly share in the first 400. If the rate of the
    whole run were 0 in the first 50 ms of every input, the minimum would come after 1,500 to 6,200.

    Returns:
        `(presentations, 150)`.
    """
    k = torch.arange(presentations * PRESENTED, dtype=torch.float64)
    return (0.0003 / (1 + k / 2).sqrt() * (k >= 50)).view(presentations, PRESENTED)


def draw(
    kernel: int, seeds: Sequence[int], steps: int, neurons: int = NEURONS, input_mean: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Initial weights `N(1, 1)` and inputs of each run, `(seeds, neurons, k²)` and `(seeds, steps, k²)`."""
    weights, inputs = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        weights.append(1 + torch.randn(neurons, kernel**2, generator=generator, dtype=torch.float64))
        inputs.append(input_mean + torch.randn(steps, kernel**2, generator=generator, dtype=torch.float64))
    return torch.stack(weights), torch.stack(inputs)


def times(steps: int) -> list[int]:
    """After how many inputs a curve has its points: evenly spread, first and last included."""
    return sorted({round(steps * point / POINTS) for point in range(POINTS + 1)})
