"""Accuracy against stored numbers, over all methods: which axis gives up least, at which share."""

from collections.abc import Mapping
import math
import statistics
from typing import TYPE_CHECKING

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.experiments.cells import mean, spread
from weightshare.experiments.studies.four_methods import ARMS, SHARES
from weightshare.experiments.table import Found

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = ("nothing", "depth, hard", "depth, soft", "positions", "values", "two axes")
Dots = Mapping[str, tuple[float, float, float]]
"""By row: stored numbers, accuracy and its spread."""


def picture(found: Found) -> "Figure":
    """Draw the trade-off, and beside it every row by name.

    Args:
        found: Outcomes of the table `beyond/four-methods`; rows that are not there are left out.
    """
    from matplotlib.figure import Figure

    dots: dict[str, tuple[float, float, float]] = {}
    for row in ARMS:
        outcomes = found.get((row, ""), {})
        stored, accuracy = mean(outcomes, "stored"), mean(outcomes, "accuracy")
        if stored is not None and accuracy is not None and math.isfinite(accuracy):
            dots[row] = stored, accuracy, spread(outcomes, "accuracy")
    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 0.72))
    _trade_off(left, dots)
    _by_name(right, dots)
    for axes in (left, right):
        axes.grid(color=INK, alpha=0.25, lw=0.6)
        axes.set_axisbelow(True)
        quiet(axes)
    return figure


def colour_of(family: str) -> str:
    """The colour of an axis."""
    return COLOURS[FAMILIES.index(family)]


def _trade_off(axes: "Axes", dots: Dots) -> None:
    for number, family in enumerate(FAMILIES):
        mine = {row: dot for row, dot in dots.items() if ARMS[row].family == family}
        if not mine:
            continue
        colour, aside = colour_of(family), 1 + 0.04 * (number - (len(FAMILIES) - 1) / 2)
        best = sorted(
            max((dot for row, dot in mine.items() if ARMS[row].share == share), key=lambda dot: dot[1])
            for share in {ARMS[row].share for row in mine}
        )
        axes.plot([dot[0] * aside for dot in best], [dot[1] for dot in best], color=colour, lw=1.4, label=family)
        stored, accuracies, spreads = zip(*mine.values(), strict=True)
        axes.errorbar(
            *([x * aside for x in stored], accuracies, spreads),
            color=colour, fmt="o", markersize=4.5, elinewidth=1, capsize=0,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="stored numbers (labels: bits over 32)", ylabel="test accuracy, % (line: the best of an axis)")
    axes.minorticks_off()
    ticks = {
        share: statistics.median(dot[0] for row, dot in dots.items() if ARMS[row].share == share)
        for share in SHARES
        if share in {ARMS[row].share for row in dots}
    }
    axes.set_xticks([*ticks.values()], [f"{at / 1e3:,.0f} k\n{SHARES[share]}" for share, at in ticks.items()])
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="best")


def _by_name(axes: "Axes", dots: Dots) -> None:
    at, ticks, names = 0.0, [], []
    for share, word in SHARES.items():
        rows = [row for row in dots if ARMS[row].share == share]
        if rows:
            ticks.append(at)
            names.append(f"{word}:")
        for row in rows:
            at += 1
            _, accuracy, width = dots[row]
            axes.errorbar([accuracy], [at], xerr=[width], fmt="o", markersize=4.5, color=colour_of(ARMS[row].family))
            ticks.append(at)
            names.append(ARMS[row].title)
        at += 1.3 * bool(rows)
    axes.set_yticks(ticks, names)
    axes.set(ylim=(at - 0.6, -0.7), xlabel="test accuracy, %")
