"""How long one proximal map takes: the paper's three algorithms, ours, and scipy's, for up to a million weights.

Each is measured in turn with our exact map, so that whatever else the machine does slows both: read the ratios rather
than the seconds. No two measurements of a table are made at once, whatever the number of workers.

Source: Shakerinava 2023, timings of the proximal map. Differs: the weights are ours, `N(0, 0.05²)` at a step of 0.01,
because the paper's are not in the text that the project has.
"""

from collections.abc import Callable, Mapping
import math
from pathlib import Path
import statistics
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.errors import ConfigError
from weightshare.experiments.cells import mean
from weightshare.experiments.jobs import Outcome
from weightshare.experiments.table import Found
from weightshare.training.workplace import at_work
from weightshare.values.binned import prox_pairwise_binned
from weightshare.values.collisions import end_collisions, imminent_collisions, search_collisions
from weightshare.values.prox import prox_pairwise, prox_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP, SPREAD = 0.01, 0.05
PATH = tuple(STEP * (part + 1) / 16 for part in range(16))
PATIENCE = 24 * 3600.0  # seconds that a measurement waits for the others before it

SIZES = {"1e3": 10**3, "1e4": 10**4, "1e5": 10**5, "1e6": 10**6}
ROWS = {
    "end": "end collisions (the paper's, sequential)",
    "imminent": "imminent collisions (the paper's)",
    "search": "search collisions (the paper's, parallel)",
    "scipy": "sort, and scipy's isotonic regression",
    "exact": "ours, exact",
    "binned": "ours, sort-free with 65,536 bins",
    "path": "ours, exact, warm: each of 16 strengths from the clusters of the one before",
}


def by_scipy(w: Tensor) -> Tensor:
    """The map by scipy's isotonic regression of where each weight would stand alone."""
    from scipy.optimize import isotonic_regression

    places, order = torch.sort(w.cpu())
    d = len(w)
    ends = places.double() + STEP * (d - 1 - 2 * torch.arange(d, dtype=torch.float64)) / (d - 1)
    found = torch.from_numpy(isotonic_regression(ends.numpy()).x)
    return torch.empty_like(found).index_copy_(0, order, found).to(w.device, w.dtype)


MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "end": lambda w: end_collisions(w, STEP),
    "imminent": lambda w: imminent_collisions(w, STEP),
    "search": lambda w: search_collisions(w, STEP),
    "scipy": by_scipy,
    "exact": lambda w: prox_pairwise(w, STEP),
    "binned": lambda w: prox_pairwise_binned(w, STEP)[0],
    "path": lambda w: prox_path(w, PATH)[-1],
}
MANY = {"path": len(PATH)}
"""How many maps one call makes, where it is not one."""


def prox_timing(
    method: str, size: str, drawn: str, rounds: int, least: float, device: str, seed: int, folder: Path
) -> Outcome:
    """Measure one way to the proximal map, in turn with our exact one.

    Args:
        method: A key of `MAPS`.
        size: The name of the column.
        drawn: How many weights there are, as a key of `SIZES`; less than `size` says to try the code alone.
        rounds: How often both are measured at least, after one round that is not counted.
        least: Seconds to go on measuring for at least: small problems are measured many times.
        device: Of the weights: `cpu`, or `auto` for a GPU where there is one.
        seed: Of the weights.
        folder: Where other measurements are waited for.

    Returns:
        `<size>/seconds`, a median, and `<size>/ratio`, the median of its seconds over our exact map's of the same
        round; in `numbers` the greatest difference to our exact map.

    Raises:
        ConfigError: If there is no such method.
    """
    if method not in MAPS:
        raise ConfigError(f"method={method!r}: need one of {', '.join(MAPS)}.")
    place = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    w = (SPREAD * torch.randn(SIZES[drawn], generator=torch.Generator().manual_seed(seed))).to(place)
    ours, theirs = MAPS["exact"], MAPS[method]
    off = float((theirs(w) - ours(w)).abs().max())
    with at_work(folder / "one-at-a-time", PATIENCE):
        begun = time.perf_counter()
        taken: list[tuple[float, float]] = []
        while len(taken) <= rounds or time.perf_counter() - begun < least:
            taken.append((_seconds(theirs, w) / MANY.get(method, 1), _seconds(ours, w)))
        spent = time.perf_counter() - begun
    metrics = {
        f"{size}/seconds": statistics.median(mine for mine, _ in taken[1:]),
        f"{size}/ratio": statistics.median(mine / other for mine, other in taken[1:]),
    }
    numbers = {"off": off, "threads": torch.get_num_threads(), "rounds": len(taken) - 1}
    return Outcome(metrics, numbers, seconds=spent)


def _seconds(run: Callable[[Tensor], Tensor], w: Tensor) -> float:
    if w.is_cuda:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    run(w)
    if w.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def picture(found: Found) -> "Figure":
    """Seconds of one map over the number of weights, both in powers of ten."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for colour, row in zip(COLOURS, ROWS, strict=False):
        seconds = {n: mean(found.get((row, size), {}), f"{size}/seconds") for size, n in SIZES.items()}
        points = {n: value for n, value in seconds.items() if value is not None and math.isfinite(value)}
        ours = row in ("exact", "binned", "path")
        if points:
            axes.plot([*points], [*points.values()], color=colour, marker=".", ls="-" if ours else "--", label=row)
    axes.set(xscale="log", yscale="log", xlabel="weights", ylabel="seconds for one map")
    axes.minorticks_off()
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    if axes.lines:
        axes.legend(
            frameon=False,
            labelcolor=INK,
            fontsize=9,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            title="dashed: not ours",
        ).get_title().set(color=INK, fontsize=9)
    quiet(axes)
    return figure
