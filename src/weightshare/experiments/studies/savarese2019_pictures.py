"""Layer similarity matrices from a table's curves: what layers are one in the end, and how that came about."""

from collections.abc import Mapping, Sequence
import math
from typing import TYPE_CHECKING

import torch

from weightshare.analysis.heat import colour_bar, draw_matrix
from weightshare.analysis.pictures import COLOURS, INK
from weightshare.depth.measure import Similarity
from weightshare.experiments.jobs import Outcome
from weightshare.experiments.table import Found

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE, GRID, KINDS = "stage", "pairs", "kinds"
"""How the names of curves begin: `stage1@250` has the pairs of the first stage after 250 steps, `pairs@30` those of the
one group of a network of grids, `kinds1` says for each layer of the first stage which one it became."""
CELL, LEAST, MOST = 0.13, 0.95, 2.0
"""Of a square for a pair of layers, and of a matrix, in inches."""
Strips = Mapping[str, Mapping[str, Similarity]]


def draw_folded(found: Found) -> "Figure":
    """Draw the last matrices of each network, a column for each stage; below each, layers that became one."""
    strips, kinds = {}, {}
    for (row, _), outcomes in found.items():
        one = _first(outcomes)
        last = f"@{max(_steps(one))}"
        stages = {name.removesuffix(last): name for name in one.curves if name.startswith(STAGE) and last in name}
        strips[row] = {f"stage {stage.removeprefix(STAGE)}": square(one.curves[name]) for stage, name in stages.items()}
        kinds[row] = [one.curves.get(f"{KINDS}{stage.removeprefix(STAGE)}", ()) for stage in stages]
    return draw_strips(strips, kinds)


def draw_evolved(found: Found) -> "Figure":
    """Draw the matrices of each network and stage, a column for each moment of the training."""
    strips: dict[str, dict[str, Similarity]] = {}
    for (row, _), outcomes in found.items():
        one = _first(outcomes)
        for name, values in one.curves.items():
            group, at, step = name.partition("@")
            if at and group.startswith((STAGE, GRID)):
                label = f"{row}\nstage {group.removeprefix(STAGE)}" if group.startswith(STAGE) else row
                strips.setdefault(label, {})[f"step {int(step):,}"] = square(values)
    return draw_strips(strips)


def draw_strips(strips: Strips, kinds: Mapping[str, Sequence[Sequence[float | None]]] | None = None) -> "Figure":
    """Draw rows of matrices with one colour bar for all.

    Args:
        strips: For each row's name its matrices by title; the titles of the first row stand above.
        kinds: For each row and matrix which layer each layer became; those that share one have one colour.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    columns = max(len(one) for one in strips.values())
    sides = [min(MOST, max(LEAST, CELL * len(next(iter(one.values())).rows))) for one in strips.values()]
    size = (3.0 + (max(sides) + 0.15) * columns, 0.7 + sum(sides) + (0.35 if kinds else 0.15) * len(strips))
    figure = Figure(figsize=size, layout="constrained")
    cells = figure.subplots(len(strips), columns, squeeze=False, gridspec_kw={"height_ratios": sides})
    shades = ScalarMappable(Normalize(0.0, 1.0), "viridis")
    for at, (name, matrices) in enumerate(strips.items()):
        for axes in cells[at, len(matrices) :]:
            axes.set_axis_off()
        for place, (title, one) in enumerate(matrices.items()):
            axes = cells[at, place]
            draw_matrix(axes, one, shades)
            if kinds and kinds[name][place]:
                _mark(axes, [int(kind or 0) for kind in kinds[name][place]])
            if at == 0 or list(matrices) != list(next(iter(strips.values()))):
                axes.set_title(title, color=INK, fontsize=9)
        cells[at, 0].set_ylabel(name, color=INK, fontsize=8, rotation=0, ha="right", va="center")
    colour_bar(figure, shades, list(cells.flat), "|cos| of coefficients")
    return figure


def square(pairs: Sequence[float | None]) -> Similarity:
    """The matrix of pairs that are listed row by row below the diagonal.

    Example:
        >>> square([0.5, 0.1, 0.2]).values.tolist()[2]
        [0.10000000149011612, 0.20000000298023224, 1.0]
    """
    layers = (1 + math.isqrt(1 + 8 * len(pairs))) // 2
    values = torch.eye(layers)
    rows, columns = torch.tril_indices(layers, layers, offset=-1)
    values[rows, columns] = torch.tensor([math.nan if value is None else value for value in pairs])
    values[columns, rows] = values[rows, columns]
    names = tuple(map(str, range(layers)))
    return Similarity("|cos| of coefficients", names, names, values)


def _mark(axes: "Axes", kinds: Sequence[int]) -> None:
    """Below a matrix a square for each layer, filled where it became one with others."""
    from matplotlib.patches import Rectangle

    high = len(kinds) / 14
    shared = [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]
    for layer, kind in enumerate(kinds):
        colour = COLOURS[shared.index(kind) % len(COLOURS)] if kind in shared else "none"
        place = (layer + 0.1, len(kinds) + 0.4 * high)
        axes.add_patch(Rectangle(place, 0.8, high, facecolor=colour, edgecolor=colour if kind in shared else INK))
    axes.set(ylim=(len(kinds) + 1.6 * high, 0))
    axes.set_xlabel(f"{len(kinds)} layers, {len({*kinds})} left", color=INK, fontsize=8)


def _first(outcomes: Mapping[int, Outcome]) -> Outcome:
    return outcomes[min(outcomes)]


def _steps(outcome: Outcome) -> list[int]:
    return [int(name.partition("@")[2]) for name in outcome.curves if name.startswith(STAGE) and "@" in name]
