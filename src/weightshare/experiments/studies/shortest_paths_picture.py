"""Pictures of the shortest paths: scores through the phases and over distances, and what each network marks."""

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK
from weightshare.experiments.studies.regression_picture import LOOK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FREE, OBSTACLE, QUERY, PATH, EXTRA = "#f2f3f5", "#8d939c", "#d2762a", "#2f6fb4", "#b3478f"
MISSED = "#a9c8e8"
SCORES = {"iou": "IoU of the path", "whole": "grids without a wrong pixel"}
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def draw_phases(runs: Runs, phases: Sequence[Sequence[int]]) -> "Figure":
    """Draw scores over steps, on held-out grids of the phase that is trained on then.

    Args:
        runs: For each network its runs, one for each seed, as `train` returns them.
        phases: Least and most distance of each.

    Returns:
        A matplotlib figure: a panel for each score, lines for means over seeds, bands for their standard errors.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(LOOK):
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        panels: Any = figure.subplots(1, len(SCORES), sharex=True)
        for axes, (score, title) in zip(panels, SCORES.items(), strict=True):
            for (name, of_seeds), colour in zip(runs.items(), COLOURS, strict=False):
                for phase in range(len(phases)):
                    points = [[one for one in run["curve"] if one["phase"] == phase] for run in of_seeds]
                    steps = [one["step"] for one in points[0]]
                    _line(axes, steps, [[one[score] for one in curve] for curve in points], colour, name, phase == 0)
            changes = sorted({one["step"] for one in next(iter(runs.values()))[0]["curve"] if one["phase"] == 0})
            for number, (low, high) in enumerate(phases):
                if number:
                    axes.axvline(number * changes[-1], color=INK, lw=0.8, ls=":")
                middle = (number + 0.5) * changes[-1]
                axes.text(middle, 1.04, f"{low}–{high}" if low < high else f"{low}", color=INK, fontsize=8, ha="center")
            axes.set(xlabel="step (above: distances of the phase)", ylabel=title, ylim=(0, 1.1))
            axes.grid(axis="y")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(runs))
    return figure


def draw_distances(runs: Runs, trained: tuple[int, int], sizes: Mapping[str, int]) -> "Figure":
    """Draw the IoU over the distance of the query points, at the end of training.

    Args:
        runs: As for `draw_phases`.
        trained: Least and most distance of any phase; shaded.
        sizes: For `distances` and `larger` the side of the grids.

    Returns:
        A matplotlib figure: a panel for each size.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(LOOK):
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        panels: Any = figure.subplots(1, len(sizes), sharey=True)
        for axes, (key, size) in zip(panels, sizes.items(), strict=True):
            axes.axvspan(trained[0] - 0.5, trained[1] + 0.5, color=INK, alpha=0.12, lw=0)
            for (name, of_seeds), colour in zip(runs.items(), COLOURS, strict=False):
                distances = [one["distance"] for one in of_seeds[0][key]]
                _line(axes, distances, [[one["iou"] for one in run[key]] for run in of_seeds], colour, name, True)
            axes.set(title=f"{size}×{size} pixels", xlabel="distance of the query points (shaded: trained on)")
            axes.set_ylim(0, 1)
            axes.grid(axis="y")
        panels[0].set_ylabel(SCORES["iou"])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(runs))
    return figure


def draw_marks(examples: Mapping[str, Any]) -> "Figure":
    """Draw grids, the truth, and what each network marks.

    Args:
        examples: `grids`, a list of grids with `distance`, whether that was `trained`, the rows of `truth` as text (`Q`
            for a query point, `#` for an obstacle, `*` for the path, `.` for the rest), and by each network's name in
            `marks` the rows of what it marks (`*` and `.`).

    Returns:
        A matplotlib figure: a row for each grid, a column for the truth and each network.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    grids = examples["grids"]
    names = list(grids[0]["marks"])
    with rc_context(LOOK):
        figure = Figure(figsize=(2.35 * (1 + len(names)), 2.5 * len(grids) + 0.4), layout="constrained")
        panels: Any = figure.subplots(len(grids), 1 + len(names), squeeze=False)
        for line, grid in zip(panels, grids, strict=True):
            for axes, name in zip(line, ["truth", *names], strict=True):
                axes.imshow(_pixels(grid, name), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                if grid is grids[0]:
                    axes.set_title(name)
            line[0].set_ylabel(f"{grid['distance']} steps" + (", trained" if grid["trained"] else ", never trained"))
        meanings = {QUERY: "query point", OBSTACLE: "obstacle", PATH: "path", EXTRA: "marked, but off the path"}
        meanings[MISSED] = "path that is not marked"
        figure.legend(
            handles=[Patch(color=colour, label=text) for colour, text in meanings.items()],
            loc="outside lower center",
            ncols=len(meanings),
        )
    return figure


def _pixels(grid: Mapping[str, Any], name: str) -> list[list[tuple[float, float, float]]]:
    """The colours of a panel."""
    from matplotlib.colors import to_rgb

    # Whether it is marked, by what is there.
    colours = {
        "Q*": QUERY,
        "Q.": QUERY,
        "##": OBSTACLE,
        "#.": OBSTACLE,
        "#*": EXTRA,
        "QQ": QUERY,
        "**": PATH,
        "*.": MISSED,
        "..": FREE,
        ".*": EXTRA,
    }
    marks = grid["truth"] if name == "truth" else grid["marks"][name]
    return [
        [to_rgb(colours[true + mark]) for true, mark in zip(*lines, strict=True)]
        for lines in zip(grid["truth"], marks, strict=True)
    ]


def _line(
    axes: "Axes", x: Sequence[float], of_seeds: Sequence[Sequence[float]], colour: str, name: str, named: bool
) -> None:
    """The mean over seeds, and a band of its standard error."""
    columns = list(zip(*of_seeds, strict=True))
    means = [statistics.fmean(values) for values in columns]
    errors = [statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0 for values in columns]
    axes.plot(x, means, color=colour, lw=1.5, marker=".", markersize=4, label=name if named else None)
    low = [mean - error for mean, error in zip(means, errors, strict=True)]
    high = [mean + error for mean, error in zip(means, errors, strict=True)]
    axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
