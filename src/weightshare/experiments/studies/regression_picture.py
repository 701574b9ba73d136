"""The picture of the regression: coefficients beside the truth, and how fast each method comes down."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from weightshare.analysis.pictures import COLOURS, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOK: dict[Any, Any] = {
    "axes.edgecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "xtick.color": INK,
    "xtick.labelsize": 9,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": INK,
    "ytick.labelsize": 9,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}
SHOWN = {
    "lasso": "lasso",
    "shared": "shared (convex)",
    "rewound-refit": "rewound and refit",
}
METHODS = {"plain": "plain proximal gradient", "momentum": "heavy ball", "fista": "FISTA"}


def draw_regression(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> "Figure":
    """Draw what was found, a panel for each way to fit, and how far the objective is above its least over steps.

    Args:
        curves: `truth` and `found` of `lasso`, `shared` and `rewound-refit`; `step` and `gap` of `steps-METHOD`. What
            is not there is left out.

    Returns:
        A matplotlib figure. Coefficients stand in the order of the truth, and of what was found within one value.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(LOOK):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        halves: Any = figure.subfigures(2, 1)
        panels = halves[0].subplots(1, len(SHOWN), sharey=True)
        for axes, (name, title), colour in zip(
            panels, SHOWN.items(), (COLOURS[0], COLOURS[4], COLOURS[2]), strict=True
        ):
            axes.grid(axis="y")
            if name not in curves:
                axes.set(title=title)
                continue
            truth, found = (torch.tensor(curves[name][key], dtype=torch.float64) for key in ("truth", "found"))
            # Two stable sorts: by what was found, then by the truth.
            order = found.argsort(stable=True)
            order = order[truth[order].argsort(stable=True)]
            axes.plot(truth[order], color=INK, lw=1.2, drawstyle="steps-mid", label="true")
            axes.plot(found[order], ".", color=colour, markersize=4, label="found")
            error = float((found - truth).norm() / truth.norm())
            axes.set(title=f"{title}: {len(found.unique())} values, error {error:.1%}", xlabel="coefficient, sorted")
        panels[0].set_ylabel("coefficient")
        if panels[0].lines:
            panels[0].legend(loc="upper left")
        axes = halves[1].subplots()
        for (name, title), colour in zip(METHODS.items(), (COLOURS[0], COLOURS[1], COLOURS[2]), strict=True):
            if (way := curves.get(f"steps-{name}")) is not None:
                last = int(way["step"][-1] or 0)
                axes.plot(way["step"], way["gap"], color=colour, lw=1.4, label=f"{title}: {last:,} steps")
        axes.set(
            xscale="symlog",
            yscale="log",
            xlabel="step",
            ylabel="objective above the optimum, relative",
        )
        axes.grid()
        if axes.lines:
            legend = axes.legend(loc="upper right", title="steps to a gap of 1e-6", title_fontsize=9)
            legend.get_title().set_color(INK)
    return figure
