"""Pictures of a number over settings: heat maps with the numbers in them, lines, and points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 20.0  # greatest over least value from which an axis is logarithmic
Cell = float | None


@dataclass(frozen=True)
class Measure:
    """A number that settings are compared by: its name, and how it is written in a cell."""

    name: str
    text: Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """What varies along one side of a picture: its name and its values in order."""

    name: str
    values: Sequence[Any]

    @property
    def labels(self) -> list[str]:
        return [str(value) for value in self.values]

    @property
    def positions(self) -> list[float]:
        """Where values stand: numbers at their value, others side by side."""
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values):
            return [float(value) for value in self.values]
        return [float(at) for at in range(len(self.values))]


def draw_heat(
    tables: Sequence[tuple[Measure, Sequence[tuple[str, Sequence[Sequence[Cell]]]]]], down: Axis, across: Axis
) -> "Figure":
    """Draw tables of numbers as heat maps: a row of them for each measure, which has one colour scale.

    Args:
        tables: For each measure titles and tables; a table has a row for each value of `down`, and `None` where there
            is no number (yet).
        down: What varies from row to row.
        across: What varies from column to column.

    Returns:
        A matplotlib figure.

    Example:
        >>> accuracy = Measure("accuracy", "{:.0%}".format)
        >>> figure = draw_heat([(accuracy, [("", [[0.5, None]])])], Axis("lr", [1]), Axis("width", [2, 3]))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['50%', '–']
    """
    from matplotlib.figure import Figure

    most = max(len(panels) for _, panels in tables)
    wide, high = 0.85 * len(across.values) + 1.5, 0.5 * len(down.values) + 1.1
    beside = most == 1 and 2 * wide < 11  # one panel for each measure: side by side
    shape = (1, len(tables)) if beside else (len(tables), most)
    figure = Figure(figsize=(shape[1] * wide + 0.9, shape[0] * high), layout="constrained")
    grid = figure.subplots(*shape, squeeze=False)
    for row, (measure, panels) in enumerate(tables):
        drawn = [grid[0][row]] if beside else list(grid[row])
        _heat_row(figure, drawn, measure, panels, down, across)
    return figure


def _heat_row(
    figure: "Figure",
    drawn: list["Axes"],
    measure: Measure,
    panels: Sequence[tuple[str, Sequence[Sequence[Cell]]]],
    down: Axis,
    across: Axis,
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    known = [cell for _, table in panels for line in table for cell in line if cell is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    scale = Normalize(low, high if high > low else low + 1)
    shades = ScalarMappable(scale, "viridis")
    for axes, (title, table) in zip(drawn, panels, strict=False):
        numbers = [[float("nan") if cell is None else cell for cell in line] for line in table]
        axes.pcolormesh(numbers, cmap=shades.get_cmap(), norm=scale, edgecolors="none")
        for row, line in enumerate(table):
            for column, cell in enumerate(line):
                shade = INK if cell is None else ("white" if cell < low + 0.6 * (high - low) else "#111111")
                text = "–" if cell is None else measure.text(cell)
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=shade, fontsize=9)
        axes.set_xticks([at + 0.5 for at in range(len(across.values))], across.labels)
        axes.set_yticks([at + 0.5 for at in range(len(down.values))], down.labels)
        axes.set(xlim=(0, len(across.values)), ylim=(len(down.values), 0), xlabel=across.name, ylabel=down.name)
        axes.set_title(title or measure.name, color=INK, fontsize=10)
        quiet(axes)
    for axes in drawn[len(panels) :]:
        axes.set_visible(False)
    bar = figure.colorbar(shades, ax=drawn, shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, colors=INK, labelsize=8)
    if len(panels) > 1 or panels[0][0]:
        bar.set_label(measure.name, color=INK, fontsize=9)


def draw_points(
    measures: Sequence[tuple[Measure, Sequence[Sequence[float]]]], axes_of: Sequence[Axis], joined: bool
) -> "Figure":
    """Draw numbers over settings: a row for each measure, a column for each setting.

    Args:
        measures: For each measure the numbers of each configuration, one for each seed.
        axes_of: For each setting its value in each configuration.
        joined: Whether a line joins the means, in the order of the values.

    Returns:
        A matplotlib figure; a setting whose values span more than a factor of 20 has a logarithmic axis.
    """
    from matplotlib.figure import Figure

    size = (max(5.2, 3.0 * len(axes_of)), 2.4 * len(measures) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(measures), len(axes_of), squeeze=False, sharex="col", sharey="row")
    for row, (measure, numbers) in enumerate(measures):
        for column, axis in enumerate(axes_of):
            axes, colour = grid[row][column], COLOURS[row % len(COLOURS)]
            dots = [(at, one) for at, seeds in zip(axis.positions, numbers, strict=True) for one in seeds]
            axes.plot(*zip(*dots, strict=True), ".", color=colour, alpha=0.6) if dots else None
            if joined:
                held = [(at, sum(s) / len(s)) for at, s in zip(axis.positions, numbers, strict=True) if s]
                axes.plot(*zip(*sorted(held), strict=True), color=colour, lw=1.4) if held else None
            axes.grid(color=INK, alpha=0.25, lw=0.6)
            axes.set_ylabel(measure.name if column == 0 else "")
            _scale(axes, axis, last=row + 1 == len(measures))
            quiet(axes)
    return figure


def _scale(axes: "Axes", axis: Axis, last: bool) -> None:
    at = axis.positions
    numeric = at and all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis.values)
    if not numeric:
        axes.set_xticks(at, axis.labels)
    elif min(at) > 0 and max(at) > WIDE * min(at):
        axes.set_xscale("log")
    axes.set_xlabel(axis.name if last else "")


def draw_many(
    runs: Sequence[tuple[str, Sequence[tuple[float, float]]]], name: str, shown: int = len(COLOURS)
) -> "Figure":
    """Draw a line for each run over epochs: the first ones in colours with their names, the others grey.

    Args:
        runs: Names and points `(epoch, value)`, the best run first.
        name: Title of the vertical axis.
        shown: How many have colours.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for at, (label, points) in reversed(list(enumerate(runs))):
        named = at < shown
        style: dict[str, Any] = {"color": COLOURS[at % len(COLOURS)], "label": label} if named else {"color": INK}
        dot = "." if len(points) == 1 else ""
        axes.plot(*zip(*points, strict=True), marker=dot, lw=1.4 if named else 0.8, alpha=1 if named else 0.45, **style)
    axes.set(xlabel="epoch", ylabel=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    handles, labels = axes.get_legend_handles_labels()
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(handles[::-1], labels[::-1], frameon=False, labelcolor=INK, fontsize=8, **beside)
    quiet(axes)
    return figure
