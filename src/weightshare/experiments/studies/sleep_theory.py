"""How fast dynamic weight sharing shares, beside what theory says: `−log SNR` of a layer's weights over its sleep.

| figure | what is simulated | learning rate | theory |
|---|---|---|---|
| 4A | the Hebbian update (eq. 4), 2,000 inputs | `0.5/(1000 + k)` | the fixed point (eq. 5) |
| 4B | the circuit with `α` = 10 (eq. 8), 4,000 inputs of 150 ms | see `circuit_rates` | eq. 24 |
| 5A | the update with the bias of `α` = 10 (eq. 21), 10,000 inputs | as 4A | eq. 24 |
| 5B | as 4B, 10,000 inputs | as 4B | eq. 24 |

Eq. 24 takes rates as settled; beside it stands where the circuit ends with the time that its rates take
(`Circuit.presented`). For kernel sizes `k` 3, 6 and 9 (`k²` inputs), `γ` 0.1, 0.01 and 0.001, 100 neurons, momentum
0.95, 10 runs. All `γ` and runs of a kernel size are one simulation. A run's initial weights and inputs are the same for
every `γ`, and in every figure: 4B is the beginning of 5B.

Source: Pogodin 2021, figs 4 and 5, A.5. Differs: inputs are `N(0, 1)`, as the authors' program draws them; the text has
`N(1, 1)`, which `input_mean=1` draws. With those, `C = I + 11ᵀ`, and the mean response is not 0 on average: inhibition
of finite strength then takes the mean weight away much faster, and with `γ` = 0.1 hardly anything is shared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
import math
from pathlib import Path
import time
from typing import Any

import torch
from torch import Tensor

from weightshare._table import render
from weightshare.errors import ConfigError
from weightshare.experiments.studies.sleep_theory_picture import draw_sleep
from weightshare.files.atomic import replacing, write_json
from weightshare.space import circuit, theory
from weightshare.space.measure import snr
from weightshare.training.environment import environment

PAPER = "pogodin2021"
FORMAT = "weightshare.curves/1"
SEEDS = tuple(range(10))
POINTS = 120  # of a curve are kept
PRESENTED = 150  # steps of 1 ms for each input
MOMENTUM = 0.95


@dataclass(frozen=True)
class Figure:
    """What a figure shows.

    Args:
        name: The paper's name of it.
        steps: How many inputs.
        alpha: Strength of inhibition; `None` for the update without its bias.
        neural: Whether the circuit is simulated, instead of the update that it stands for.
    """

    name: str
    steps: int
    alpha: float | None = None
    neural: bool = False


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("4A", 2000),
        Figure("4B", 4000, 10.0, neural=True),
        Figure("5A", 10_000, 10.0),
        Figure("5B", 10_000, 10.0, neural=True),
    )
}


@dataclass(frozen=True)
class Layer:
    """Which layers are simulated.

    Args:
        kernels: Kernel sizes `k`; a neuron has `k²` inputs.
        gammas: Pulls to the initial weights.
        neurons: Neurons of a layer.
        input_mean: Mean of the inputs; their deviation is 1.
    """

    kernels: tuple[int, ...] = (3, 6, 9)
    gammas: tuple[float, ...] = (0.1, 0.01, 0.001)
    neurons: int = 100
    input_mean: float = 0.0

    def __post_init__(self) -> None:
        if not self.kernels or not self.gammas or min(*self.kernels, self.neurons) < 1 or not min(self.gammas) > 0:
            raise ConfigError(f"{self}: needs kernel sizes and neurons of at least 1, and every gamma above 0.")
        if not math.isfinite(self.input_mean):
            raise ConfigError(f"{self}: needs a finite input_mean.")


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


def draw(kernel: int, seeds: Sequence[int], steps: int, layer: Layer) -> tuple[Tensor, Tensor]:
    """Initial weights `N(1, 1)` and inputs of each run, `(seeds, neurons, k²)` and `(seeds, steps, k²)`."""
    weights, inputs = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        weights.append(1 + torch.randn(layer.neurons, kernel**2, generator=generator, dtype=torch.float64))
        inputs.append(layer.input_mean + torch.randn(steps, kernel**2, generator=generator, dtype=torch.float64))
    return torch.stack(weights), torch.stack(inputs)


def times(steps: int) -> list[int]:
    """After how many inputs a curve has its points: evenly spread, first and last included."""
    return sorted({round(steps * point / POINTS) for point in range(POINTS + 1)})


def course(figure: Figure, kernel: int, seeds: Sequence[int], layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate all `γ` and runs of one kernel size at once.

    Returns:
        `−log SNR` over time, `(gammas, seeds, times)`; then, both `(gammas, seeds)`, that of the fixed point, and that
        of the fixed point with the time that rates take, which is the same one where there are no rates.
    """
    start, inputs = draw(kernel, seeds, figure.steps, layer)
    gamma, at = torch.tensor(layer.gammas, dtype=torch.float64)[:, None], times(figure.steps)
    second = theory.normal_covariance(kernel**2, layer.input_mean)
    settled = -snr(theory.fixed_point(start, second, gamma, figure.alpha)).log()
    if not figure.neural:
        found = theory.simulate(start, inputs, hebbian_rates(figure.steps), gamma, figure.alpha, MOMENTUM, at)
        return found.curve, settled, settled
    neurons = circuit.Circuit() if figure.alpha is None else circuit.Circuit(figure.alpha)
    found = circuit.simulate(start, inputs, circuit_rates(figure.steps), gamma, neurons, MOMENTUM, at)
    gain, alpha = neurons.presented(PRESENTED)
    return found.curve, settled, -snr(theory.fixed_point(start, gain * second, gamma, alpha)).log()


def sleep_figure(
    name: str,
    out: str | Path,
    seeds: Sequence[int] = SEEDS,
    layer: Layer | None = None,
    figures: Mapping[str, Figure] = FIGURES,
) -> dict[str, Any]:
    """Simulate a figure, write its numbers and its picture.

    Args:
        name: One of `figures`.
        out: Folder that gets `pogodin2021/fig4a/mean-0.json` and `mean-0.png`, by the figure and the inputs' mean.
        seeds: One run for each.
        layer: What is simulated; the paper's by default.
        figures: By the names that they are asked for with.

    Returns:
        What the JSON file holds. Each of its `cells` is a kernel size and `γ`: the mean curve over runs, the end of
        each run and their mean, theory, `distance` (the end less theory, both means over runs), theory with the time
        that rates take (`presented`), and the curve's minimum and after how many inputs it was there.

    Raises:
        ConfigError: If there is no such figure, or no seed.
    """
    if name not in figures:
        raise ConfigError(f"name={name!r}: need one of {', '.join(figures)}.")
    if not seeds:
        raise ConfigError(f"seeds={seeds!r}: need at least one.")
    figure, layer = figures[name], Layer() if layer is None else layer
    cells, begun = [], time.perf_counter()
    for kernel in layer.kernels:
        drawn = course(figure, kernel, seeds, layer)
        cells += [_cell(figure, kernel, *one) for one in zip(layer.gammas, *drawn, strict=True)]
    data = {
        "format": FORMAT,
        "paper": PAPER,
        "figure": name,
        "metric": "minus_log_snr",
        "config": {**asdict(figure), **asdict(layer), "momentum": MOMENTUM},
        "seeds": list(seeds),
        "environment": environment(),
        "seconds": round(time.perf_counter() - begun, 2),
        "times": times(figure.steps),
        "cells": cells,
        "notes": "Curves are means over runs, as theory is; distance is the end less theory.",
    }
    file = path(data, out)
    write_json(file, data)
    with replacing(file.with_suffix(".png")) as temporary:
        draw_sleep(data).savefig(temporary, format="png", dpi=144, transparent=True, metadata={"Software": None})
    return data


def draw_figure(name: str, out: str | Path, seeds: Sequence[int] = SEEDS, input_mean: float = 0.0) -> tuple[str, Path]:
    """Make one of the paper's figures: see `sleep_figure`.

    Returns:
        Its numbers as a text table, and the path of its picture.
    """
    data = sleep_figure(name, out, seeds, Layer(input_mean=input_mean))
    return table(data), path(data, out).with_suffix(".png")


def table(data: Mapping[str, Any]) -> str:
    """The cells of a figure as a text table, all in units of `−log SNR`."""
    columns = ("kernel", "gamma", "theory", "end", "distance", "minimum", "at input")
    rows = [
        (cell["kernel"], cell["gamma"], *(f"{cell[key]:.3f}" for key in columns[2:6]), cell["minimum_at"])
        for cell in data["cells"]
    ]
    return render(columns, rows, numbers=columns)


def path(data: Mapping[str, Any], out: str | Path) -> Path:
    """Where the numbers of a figure lie below a folder of results; its picture is beside them."""
    return Path(out) / PAPER / f"fig{data['figure'].lower()}" / f"mean-{data['config']['input_mean']:g}.json"


def _cell(
    figure: Figure, kernel: int, gamma: float, curves: Tensor, settled: Tensor, presented: Tensor
) -> dict[str, Any]:
    mean = curves.mean(0)
    lowest = int(mean.argmin())
    end, aim = float(mean[-1]), float(settled.mean())
    return {
        "kernel": kernel,
        "gamma": gamma,
        "theory": aim,
        "presented": float(presented.mean()),
        "limit": float(theory.minus_log_snr_limit(gamma)),
        "end": end,
        "distance": end - aim,
        "minimum": float(mean[lowest]),
        "minimum_at": times(figure.steps)[lowest],
        "ends": [round(float(value), 4) for value in curves[:, -1]],
        "curve": [round(float(value), 4) for value in mean],
    }
