"""Pictures of the shortest paths: scores through the phases and over distances, and what each network marks.

They are drawn from the curves of a table's outcomes, which `shortest_paths_table` makes.
"""

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.experiments.jobs import Outcome
from weightshare.experiments.table import Found

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FREE, OBSTACLE, QUERY, PATH, EXTRA = "#f2f3f5", "#8d939c", "#d2762a", "#2f6fb4", "#b3478f"
MISSED = "#a9c8e8"
FRESH = "-fresh"
"""The end of the names of rows that see new grids in each step; they are drawn apart."""
COLOUR: Mapping[str, str] = dict(zip(("plain", "templates-4", "templates-4-lsm0.01"), COLOURS, strict=False))
"""By row, without that end."""
PIXELS = ".#*Q"
"""What a pixel is, by its number in curves named `truth@DISTANCE`: free, an obstacle, on a shortest path, an end."""
Runs = Mapping[str, Mapping[int, Outcome]]


def draw_paths(found: Found) -> "Figure":
    """Draw the IoU over steps, on grids of the phase that is trained on then, and over distances in the end.

    Args:
        found: The outcomes of the table.

    Returns:
        A matplotlib figure: lines for means over seeds, bands for their standard errors; a row of panels for grids that
        are seen again and again, and one for new grids in each step.
    """
    from matplotlib.figure import Figure

    parts: list[tuple[str, dict[str, Mapping[int, Outcome]]]] = []
    for title, fresh in (("the same grids in each epoch", False), ("new grids in each step", True)):
        runs = {row: outcomes for (row, _), outcomes in found.items() if row.endswith(FRESH) is fresh}
        parts += [(title, runs)] if runs else []
    figure = Figure(figsize=(10.4, 3.1 * len(parts)), layout="constrained")
    for (title, runs), panels in zip(
        parts, figure.subplots(len(parts), 3, squeeze=False, width_ratios=(2, 1, 1)), strict=True
    ):
        _phases(panels[0], runs)
        panels[0].set_title(title, color=INK, fontsize=10)
        for axes, key, size in ((panels[1], "distances", "as trained"), (panels[2], "larger", "larger grids")):
            _distances(axes, runs, key)
            axes.set_title(f"in the end, {size}", color=INK, fontsize=10)
        for axes in panels:
            axes.set(ylim=(0, 1.05))
            axes.grid(color=INK, alpha=0.25, lw=0.6)
            quiet(axes)
        panels[0].set_ylabel("IoU of the path")
    lines = {
        str(line.get_label()): line for axes in figure.axes for line in axes.get_lines() if line.get_label() in COLOUR
    }
    figure.legend(
        lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False, labelcolor=INK
    )
    return figure


def draw_marks(found: Found) -> "Figure":
    """Draw held-out grids, the truth, and what each network marks: its first seed.

    Args:
        found: The outcomes of the table.

    Returns:
        A matplotlib figure: a row for each grid, a column for the truth and each network.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    networks = {row: outcomes[0].curves for (row, _), outcomes in found.items() if 0 in outcomes}
    first = next(iter(networks.values()))
    longest = _trained(first)
    distances = [int(name.partition("@")[2]) for name in first if name.startswith("truth@")]
    columns = 1 + len(networks)
    figure = Figure(figsize=(1.9 * columns, 2.0 * len(distances) + 0.5), layout="constrained")
    for distance, line in zip(distances, figure.subplots(len(distances), columns, squeeze=False), strict=True):
        truth = _lines(first[f"truth@{distance}"], PIXELS)
        marks = {row: _lines(curves[f"marks@{distance}"], ".*") for row, curves in networks.items()}
        for axes, (name, marked) in zip(line, {"truth": truth, **marks}.items(), strict=True):
            axes.imshow(_pixels(truth, marked), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if distance == distances[0]:
                axes.set_title(name.replace("-lsm", "\n-lsm").replace(FRESH, f"\n{FRESH}"), color=INK, fontsize=8)
            quiet(axes)
        told = "trained" if distance <= longest else "never trained"
        line[0].set_ylabel(f"{distance} steps,\n{told}", color=INK, fontsize=8)
    meanings = {QUERY: "query point", OBSTACLE: "obstacle", PATH: "path", EXTRA: "marked, but off the path"}
    meanings[MISSED] = "path that is not marked"
    figure.legend(
        handles=[Patch(color=colour, label=text) for colour, text in meanings.items()],
        loc="outside lower center",
        ncols=len(meanings),
        frameon=False,
        labelcolor=INK,
        fontsize=8,
    )
    return figure


def _phases(axes: "Axes", runs: Runs) -> None:
    """Scores over steps, phase by phase, with a line where the next one starts."""
    curves = next(iter(next(iter(runs.values())).values())).curves
    steps, phases = ([int(value or 0) for value in curves[name]] for name in ("step", "phase"))
    for row, outcomes in runs.items():
        for phase in sorted({*phases}):
            at = [place for place, one in enumerate(phases) if one == phase]
            of_seeds = [[one.curves["iou"][place] for place in at] for one in outcomes.values()]
            _line(axes, [steps[place] for place in at], of_seeds, row)
    for place, phase in enumerate(phases):
        if place and phase != phases[place - 1]:
            axes.axvline(steps[place], color=INK, lw=0.8, ls=":")
    axes.set_xlabel("step (dotted: longer distances from here on)")


def _distances(axes: "Axes", runs: Runs, key: str) -> None:
    """Scores over the distance of the query points, shaded where it was trained on."""
    first = next(iter(next(iter(runs.values())).values())).curves
    for row, outcomes in runs.items():
        _line(axes, first[key], [one.curves[f"{key}_iou"] for one in outcomes.values()], row)
    axes.axvspan(0.5, _trained(first) + 0.5, color=INK, alpha=0.12, lw=0)
    axes.set_xlabel("distance (shaded: trained on)")


def _trained(curves: Mapping[str, Sequence[float | None]]) -> int:
    """The longest distance of training."""
    return int(curves["trained"][-1] or 0)


def _lines(pixels: Sequence[float | None], letters: str) -> list[str]:
    side = math.isqrt(len(pixels))
    text = "".join(letters[int(pixel or 0)] for pixel in pixels)
    return [text[start : start + side] for start in range(0, len(text), side)]


def _pixels(truth: Sequence[str], marks: Sequence[str]) -> list[list[tuple[float, float, float]]]:
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
    return [
        [to_rgb(colours[true + mark]) for true, mark in zip(*lines, strict=True)]
        for lines in zip(truth, marks, strict=True)
    ]


def _line(axes: "Axes", x: Sequence[Any], of_seeds: Sequence[Sequence[Any]], row: str) -> None:
    """The mean over seeds, and a band of its standard error."""
    columns, name = list(zip(*of_seeds, strict=True)), row.removesuffix(FRESH)
    means = [statistics.fmean(values) for values in columns]
    errors = [statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0 for values in columns]
    axes.plot(x, means, color=COLOUR[name], lw=1.4, marker=".", markersize=3, label=name)
    low = [mean - error for mean, error in zip(means, errors, strict=True)]
    high = [mean + error for mean, error in zip(means, errors, strict=True)]
    axes.fill_between(x, low, high, color=COLOUR[name], alpha=0.2, lw=0)
