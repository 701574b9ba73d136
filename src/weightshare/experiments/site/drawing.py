"""Pictures of the site, as inline SVG whose grey is the page's own, so that they suit light pages and dark ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK, quiet, svg
from weightshare.experiments.jobs import Outcome
from weightshare.experiments.table import Found, Table
from weightshare.experiments.view import LESS, Value, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 200
"""Of a curve that are drawn."""
MOST_CURVES = 12
"""Names of curves of a table that are drawn."""
MARKERS = "osD^vPX*"
ACROSS = 3
"""Panels side by side."""
WIDE, HIGH = 240, 130
"""Of a small picture of curves."""


@dataclass(frozen=True)
class Point:
    """A network on a picture of trade-offs: how many numbers it stores, and how good it is, with its spread."""

    stored: float
    accuracy: float
    spread: float


def inline(figure: "Figure", title: str, name: str) -> str:
    """A figure as an `<svg>` element that can stand beside others in a page.

    Args:
        figure: What is drawn.
        title: What it shows, for readers who do not see it.
        name: Of this picture in its page, before every id of its parts.
    """
    text = svg(figure, title)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    # Equal images have equal names, which nothing refers to.
    text = re.sub(r'(<image xlink:href="data:[^"]*") id="[^"]*"', r"\1", text)
    text = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    width = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', text)[1])  # type: ignore[index]
    text = text.replace(INK, "currentColor").replace("stroke: #000000", "stroke: currentColor")
    return text.replace("<svg ", f'<svg style="min-width: min({width:.0f}pt, 30rem)" ', 1)


def beside(table: Table, found: Found) -> "Figure | None":
    """Draw ours beside the paper's: a panel for each metric, a line for each row; nothing if none of it is measured.

    Differences to another row are left out: they are seen.
    """
    from matplotlib.figure import Figure

    shown = [value for value in values(table, found) if not value.metric.endswith(LESS)]
    metrics = [name for name in table.metrics if any(one.metric == name and math.isfinite(_mean(one)) for one in shown)]
    if not metrics:
        return None
    rows = [row for row in table.rows if any(one.row == row for one in shown)]
    across = min(ACROSS, len(metrics))
    down = -(-len(metrics) // across)
    size = (3.1 + 1.9 * across, down * (0.9 + 0.27 * len(rows)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, name in zip(panels.flat, metrics, strict=False):
        _pairs(axes, [one for one in shown if one.metric == name], rows)
    for axes in list(panels.flat)[len(metrics) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_yticks(range(len(rows)), [textwrap.shorten(row, 34, placeholder="…") for row in rows])
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _mean(value: Value) -> float:
    """Ours, or nan where there is no number."""
    return math.nan if value.ours is None else value.ours


def _pairs(axes: "Axes", shown: Sequence[Value], rows: Sequence[str]) -> None:
    at = {one.row: rows.index(one.row) for one in shown}
    printed = [
        (one.printed.value, at[one.row]) for one in shown if one.printed is not None and one.printed.value is not None
    ]
    ours = [(_mean(one), one.spread, at[one.row]) for one in shown if math.isfinite(_mean(one))]
    both = {row for _, row in printed} & {row for *_, row in ours}
    for value, row in printed:
        if row in both:
            mine = next(one for one, _, other in ours if other == row)
            axes.plot([value, mine], [row, row], color=INK, alpha=0.45, lw=1, zorder=1)
    axes.plot([x for x, _ in printed], [y for _, y in printed], "o", mfc="none", mec=COLOURS[1], ms=6, label="paper")
    mean, spread, height = zip(*ours, strict=True)
    axes.errorbar(mean, height, xerr=spread, fmt="o", color=COLOURS[0], ms=4.5, lw=1.2, label="ours, with spread")
    kind = shown[0].kind
    unit = f" ({kind.unit})" if kind.unit else ""
    axes.set_title("\n".join(textwrap.wrap(f"{kind.title}{unit}", 30)), color=INK, fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="both", color=INK, alpha=0.2, lw=0.6)
    quiet(axes)


@dataclass(frozen=True)
class Curves:
    """One curve of every run: small pictures with axes alike, one for each row.

    Args:
        title: What is drawn.
        panels: `<svg>` elements by row.
    """

    title: str
    panels: Mapping[str, str]


def curves(table: Table, found: Found) -> Iterator[Curves]:
    """Draw the curves of every run: for each curve and column a picture for each row, with a line for each seed."""
    names = list(dict.fromkeys(key for some in found.values() for one in some.values() for key in one.curves))
    for name in names[:MOST_CURVES]:
        for column in table.columns:
            runs = {row: _runs(found.get((row, column), {}), name) for row in table.rows}
            runs = {row: drawn for row, drawn in runs.items() if drawn}
            if runs:
                words = f"{name.replace('_', ' ')}{f', {column}' if column else ''}"
                yield Curves(words, {row: _panel(drawn, runs.values(), row, words) for row, drawn in runs.items()})


def _runs(outcomes: Mapping[int, Outcome], name: str) -> dict[int, list[tuple[int, float]]]:
    """Points of each seed, some of them if there are many; runs with fewer than two are left out."""
    found = {}
    for seed, one in outcomes.items():
        points = [(at, value) for at, value in enumerate(one.curves.get(name, ()), 1) if value is not None]
        every = max(1, -(-len(points) // MOST_POINTS))
        if len(points) > 1:
            found[seed] = [*points[:-1:every], points[-1]]
    return found


def _panel(
    drawn: Mapping[int, list[tuple[int, float]]],
    beside: Iterable[Mapping[int, list[tuple[int, float]]]],
    row: str,
    words: str,
) -> str:
    """One small picture, as an `<svg>` element; its axes are those of all that stand beside it."""
    every = [point for runs in beside for points in runs.values() for point in points]
    low, high = min(y for _, y in every), max(y for _, y in every)
    last = max(x for x, _ in every)
    (left, right), (top, bottom) = (46, WIDE - 6), (8, HIGH - 18)

    def place(x: float, y: float) -> str:
        across = left + (right - left) * (x - 1) / max(1, last - 1)
        return f"{across:.1f},{bottom - (bottom - top) * (y - low) / ((high - low) or 1):.1f}"

    ends = ", ".join(f"seed {seed} ends at {points[-1][1]:.4g}" for seed, points in drawn.items())
    title = f"<title>{escape(f'{words} of {row}: {ends}')}</title>"
    lines = "".join(
        f'<polyline class="c{seed % len(COLOURS)}" points="{" ".join(place(*point) for point in points)}"/>'
        for seed, points in drawn.items()
    )
    return (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" class="panel">{title}'
        f'<path class="axis" d="M{left} {top}H{right}M{left} {bottom}H{right}"/>'
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{left - 6}" y="{bottom + 4}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{left}" y="{HIGH - 4}">1</text><text x="{right}" y="{HIGH - 4}" text-anchor="end">{last}</text>'
        f"{lines}</svg>"
    )


STORED, ACCURACY = "stored numbers", "test accuracy (%), with spread over runs"


def trade_off(groups: Mapping[str, Sequence[tuple[int, Point]]], across: str = STORED, up: str = ACCURACY) -> "Figure":
    """Draw accuracy against stored numbers: a colour and a mark for each group, numbers where there is room.

    Args:
        groups: Numbered points, by what they have in common.
        across: What the horizontal axis has.
        up: What the vertical axis has.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(8.6, 5.4), layout="constrained")
    axes = figure.subplots()
    for index, (group, numbered) in enumerate(groups.items()):
        points = [point for _, point in numbered]
        colour = COLOURS[index % len(COLOURS)]
        axes.errorbar(
            [point.stored for point in points],
            [point.accuracy for point in points],
            yerr=[point.spread for point in points],
            fmt=MARKERS[index % len(MARKERS)],
            color=colour,
            ms=6,
            lw=1,
            label=group,
        )
    axes.set(xscale="log", xlabel=across, ylabel=up)
    axes.grid(color=INK, alpha=0.2, lw=0.6)
    for (number, point), offset in _labels([one for some in groups.values() for one in some]):
        place = (point.stored, point.accuracy)
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "fontsize": 8}
        axes.annotate(str(number), place, offset, textcoords="offset points", **centred)
    most, least = (pick(point.stored for some in groups.values() for _, point in some) for pick in (max, min))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if most > 2.5 * least else MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.legend(frameon=False, labelcolor=INK, fontsize=9, loc="outside lower center", ncols=3)
    quiet(axes)
    return figure


def _labels(numbered: Sequence[tuple[int, Point]]) -> Iterator[tuple[tuple[int, Point], tuple[int, int]]]:
    """Where numbers stand beside their points: where no point and no other number is, else nowhere."""
    across, up = [math.log(point.stored) for _, point in numbered], [point.accuracy for _, point in numbered]
    wide, high = (max(across) - min(across)) or 1, (max(up) - min(up)) or 1
    taken = [((x - min(across)) / wide * 520, (y - min(up)) / high * 280) for x, y in zip(across, up, strict=True)]
    for at, one in enumerate(numbered):
        x, y = taken[at]
        for offset in ((9, 7), (-9, 7), (9, -7), (-9, -7), (0, 11), (0, -11)):
            place = (x + offset[0], y + offset[1])
            others = (other for where, other in enumerate(taken) if where != at)
            if all(abs(place[0] - other[0]) > 9 or abs(place[1] - other[1]) > 7 for other in others):
                taken.append(place)
                yield one, offset
                break
