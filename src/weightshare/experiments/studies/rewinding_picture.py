"""The picture of strength and rewinding: accuracy and distinct values over strength, a line for each ρ."""

from typing import TYPE_CHECKING

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.experiments.cells import mean, spread
from weightshare.experiments.studies.shakerinava2023_protocol import REWINDING, REWINDS, STRENGTHS
from weightshare.experiments.table import Found

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {"accuracy": "held-out accuracy (%)", "distinct": "distinct values of weights (%)"}


def picture(found: Found) -> "Figure":
    """Two panels over strength, with a bar of one standard deviation; cells that are missing are left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for rewind, colour in zip(REWINDS, COLOURS, strict=False):
            points = []
            for row, (strength, at) in REWINDING.items():
                outcomes = found.get((row, ""), {})
                value = mean(outcomes, metric)
                if at == rewind and value is not None:
                    points.append((strength, value, spread(outcomes, metric)))
            if points:
                x, y, bars = zip(*points, strict=True)
                axes.errorbar(x, y, bars, color=colour, marker=".", lw=1.2, elinewidth=0.8, label=f"ρ = {rewind:g}")
        axes.set(xscale="log", xlabel="strength, a multiple of the paper's", ylabel=title)
        axes.minorticks_off()
        axes.set_xticks(STRENGTHS, [str(strength) for strength in STRENGTHS])
        axes.grid(color=INK, alpha=0.25, lw=0.6)
        quiet(axes)
    last = figure.axes[-1]
    if last.get_legend_handles_labels()[0]:
        last.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure
