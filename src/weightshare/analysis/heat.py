"""Heat maps of how alike layers are: what `depth.cka` and `depth.measure` give, as pictures."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import torch

from weightshare.analysis.pictures import INK, quiet
from weightshare.depth.measure import Similarity
from weightshare.errors import SpecError
from weightshare.surgery.blocks import NAMED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

MOST_NAMES = 24
MOST_NUMBERS = 12
NUMBER_SIDE = 0.3
"""Least side of a square that has its number in it, in inches."""


def draw_similarity(
    found: Similarity | Mapping[str, Similarity], low: float | None = None, high: float | None = None, side: float = 5.0
) -> "Figure":
    """Draw matrices of similarities side by side: a square for each pair of layers, one colour bar for all.

    Up to 12 layers have their numbers in the squares, up to 24 all have their names. What the names have in common is
    written once, with `*` for what differs. A pair without a value (NaN) has no square.

    Args:
        found: One matrix, or several of one measure, each with its title.
        low: Value of the darkest colour; by default 0, or the least value if that is below.
        high: Value of the lightest colour; by default 1, or the greatest value if above that, or of a distance.
        side: Largest side of a matrix, in inches. Squares that are too small for numbers have none.

    Returns:
        A matplotlib figure.

    Raises:
        SpecError: If there is no matrix, or the measures differ.

    Example:
        >>> found = Similarity("cosine", ("a.0", "a.1"), ("a.0", "a.1"), torch.eye(2))
        >>> [axes.get_xlabel() for axes in draw_similarity({"before": found, "after": found}).axes]
        ['a.*', 'a.*', '']
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    titled = {"": found} if isinstance(found, Similarity) else dict(found)
    measures = {one.measure for one in titled.values()}
    if len(measures) != 1:
        raise SpecError(f"draw_similarity needs matrices of one measure, got {sorted(measures) or 'none'}.")
    values = torch.cat([one.values.flatten() for one in titled.values()])
    values = values[values.isfinite()]
    least, greatest = (values.min().item(), values.max().item()) if len(values) else (0.0, 1.0)
    low = min(0.0, least) if low is None else low
    if high is None:
        high = greatest if "distance" in measures.pop() and greatest > low else max(1.0, greatest)
    rows = max(len(one.rows) for one in titled.values())
    columns = sum(len(one.columns) for one in titled.values())
    cell = min(0.44, max(0.075, side / max(rows, columns / len(titled))))
    size = (1.5 + columns * cell + 0.9 * len(titled), 1.3 + rows * cell)
    figure = Figure(figsize=size, layout="constrained")
    shades = ScalarMappable(Normalize(low, high), "viridis")
    drawn = figure.subplots(1, len(titled), squeeze=False)[0]
    for axes, (title, one) in zip(drawn, titled.items(), strict=True):
        draw_matrix(axes, one, shades)
        _name(axes, one, cell)
        axes.set_title(title, color=INK, fontsize=10)
        if max(len(one.rows), len(one.columns)) <= MOST_NUMBERS and cell >= NUMBER_SIDE:
            _number(axes, one, low, high)
    colour_bar(figure, shades, list(drawn), next(iter(titled.values())).measure)
    return figure


def draw_matrix(axes: "Axes", one: Similarity, shades: "ScalarMappable") -> None:
    """Draw a square for each pair of layers, the first layer above and on the left, without any names."""
    rows, columns = one.values.shape
    low, high = shades.get_clim()
    axes.pcolormesh(one.values.numpy(), cmap=shades.get_cmap(), vmin=low, vmax=high, edgecolors="none")
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal", xticks=(), yticks=())
    quiet(axes)


def colour_bar(figure: "Figure", shades: "ScalarMappable", axes: "Sequence[Axes]", label: str) -> None:
    """Draw one bar that says what the colours of all axes mean."""
    bar = figure.colorbar(shades, ax=list(axes), shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, colors=INK, labelsize=9)
    bar.set_label(label, color=INK, fontsize=9)


def short_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """What paths have in common, with `*` for the rest, and the rest of each.

    Example:
        >>> short_names(["blocks.0.fc1", "blocks.11.fc1"])
        ('blocks.*.fc1', ['0', '11'])
        >>> short_names(["layers.layer_0", "layers.layer_1"])
        ('layers.layer_*', ['0', '1'])
        >>> short_names(["stem", "head"])
        ('', ['stem', 'head'])
    """
    parts = [name.split(".") for name in names]
    shortest = min(len(one) for one in parts) - 1
    lead = next((at for at in range(shortest) if len({one[at] for one in parts}) > 1), shortest)
    rest = shortest - lead
    trail = next((at for at in range(rest) if len({one[-1 - at] for one in parts}) > 1), rest)
    if len(names) < 2 or not lead + trail:
        return "", list(names)
    common = [*parts[0][:lead], "*", *parts[0][len(parts[0]) - trail :]]
    rest_of = [".".join(one[lead : len(one) - trail]) for one in parts]
    numbers = [NAMED.fullmatch(one) for one in rest_of]
    stems = {found[1] if found else "" for found in numbers}
    if len(stems) == 1 and (stem := stems.pop()) and "." not in stem:
        common[lead] = f"{stem}*"
        rest_of = [one.removeprefix(stem) for one in rest_of]
    return ".".join(common), rest_of


def _name(axes: "Axes", one: Similarity, cell: float) -> None:
    (down, rows), (across, columns) = short_names(one.rows), short_names(one.columns)
    axes.set(xlabel=across, ylabel=down)
    for names, put in ((columns, axes.set_xticks), (rows, axes.set_yticks)):
        every = -(-len(names) // MOST_NAMES)
        put([at + 0.5 for at in range(0, len(names), every)], names[::every])
    quiet(axes)
    if max(map(len, columns)) > 2:
        axes.tick_params(axis="x", labelrotation=90)
    small = min(9.0, 72 * cell * max(1, len(columns) // MOST_NAMES))
    axes.tick_params(labelsize=max(6.0, small))


def _number(axes: "Axes", one: Similarity, low: float, high: float) -> None:
    for row, line in enumerate(one.values.tolist()):
        for column, value in enumerate(line):
            if isfinite(value):
                ink = "white" if value - low < 0.6 * (high - low) else "#111111"
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{round(value, 2) + 0.0:.2f}",
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=8,
                )
