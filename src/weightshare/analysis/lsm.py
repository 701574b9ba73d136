"""Pictures of how layers become alike in training: the layer similarity matrix at some moments, still or moving."""

from collections.abc import Sequence
import math
from pathlib import Path
from typing import TYPE_CHECKING

from weightshare.analysis.heat import colour_bar, draw_matrix, short_names
from weightshare.analysis.pictures import INK
from weightshare.depth.measure import Similarity
from weightshare.depth.record import Evolution
from weightshare.errors import SpecError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

MOMENTS = (0.0, 0.02, 0.1, 0.5, 1.0)
"""Fractions of a training that are shown if none are named; a fit keeps its coefficients there."""
CELL, LEAST, MOST = 0.13, 0.8, 2.0
"""Of a square for a pair of layers, and of a matrix, in inches."""


def draw_evolution(evolution: Evolution, at: Sequence[float] = MOMENTS, signed: bool = False) -> "Figure":
    """Draw a film strip: a row for each group of layers, a column for each moment, one colour bar for all.

    Args:
        evolution: From `Record`, or from a run's `similarity.safetensors`.
        at: Fractions of the training, 0 to 1; of each the nearest moment that was kept, none twice.
        signed: Whether opposite layers are −1 rather than 1.

    Returns:
        A matplotlib figure. Each column says after how many steps; each row says what its layers have in common.

    Raises:
        SpecError: If there is no moment to show, or a fraction is out of its range.

    Source: Savarese 2019, evolution of sharing patterns.

    Example:
        >>> import torch
        >>> rows = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
        >>> history = Evolution((0, 50), {"blocks": ("a.0", "a.1", "a.2", "a.3")}, {"blocks": rows})
        >>> [axes.get_title() for axes in draw_evolution(history).axes]
        ['step 0', 'step 50', '']
    """
    from matplotlib.figure import Figure

    moments = sorted({evolution.nearest(fraction) for fraction in at})
    if not moments or not evolution.layers:
        raise SpecError("draw_evolution has nothing to show: need a moment, and layers that mix templates.")
    rows = list(evolution.layers)
    heights = [_side(len(evolution.layers[name])) for name in rows]
    widest = max(heights)
    figure = Figure(
        figsize=(2.7 + (widest + 0.15) * len(moments), 0.6 + sum(heights) + 0.15 * len(rows)), layout="constrained"
    )
    cells = figure.subplots(len(rows), len(moments), squeeze=False, gridspec_kw={"height_ratios": heights})
    shades = _shades(signed)
    shown = {moment: evolution.similarity(moment, signed) for moment in moments}
    for column, (moment, found) in enumerate(shown.items()):
        for row, name in enumerate(rows):
            axes = cells[row, column]
            draw_matrix(axes, found[name], shades)
            if column == 0:
                label = _label(name, found[name])
                axes.set_ylabel(label, color=INK, fontsize=8, rotation=0, ha="right", va="center")
            if row == 0:
                axes.set_title(f"step {evolution.steps[moment]:,}", color=INK, fontsize=9)
    colour_bar(figure, shades, list(cells.flat), shown[moments[0]][rows[0]].measure)
    return figure


def animate_evolution(evolution: Evolution, path: str | Path, seconds: float = 6.0, signed: bool = False) -> Path:
    """Write an animated GIF: the matrices of all groups side by side, a frame for each moment that was kept.

    Args:
        evolution: From `Record`, or from a run's `similarity.safetensors`.
        path: The file, `.gif`.
        seconds: How long all frames take, above 0.
        signed: Whether opposite layers are −1 rather than 1.

    Returns:
        The path.

    Raises:
        SpecError: If a value is out of its range, or there is nothing to show.

    Source: Savarese 2019, evolution of sharing patterns.
    """
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if not 0 < seconds < math.inf or path.suffix.lower() != ".gif" or not evolution.layers:
        raise SpecError(
            f"animate_evolution(path={str(path)!r}, seconds={seconds!r}) of {len(evolution.layers)} groups: need a "
            ".gif, a time above 0, and layers that mix templates."
        )
    shades = _shades(signed)
    sides = [_side(len(layers)) for layers in evolution.layers.values()]
    size = (1.2 + sum(sides) + 0.4 * len(sides), max(sides) + 0.8)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(1, len(sides), squeeze=False, gridspec_kw={"width_ratios": sides})[0]
    start = evolution.similarity(0, signed)
    for axes, (name, one) in zip(cells, start.items(), strict=True):
        draw_matrix(axes, one, shades)
        axes.set_xlabel(_label(name, one), color=INK, fontsize=8)
    colour_bar(figure, shades, list(cells), next(iter(start.values())).measure)

    def show(moment: int) -> list["Artist"]:
        for axes, one in zip(cells, evolution.similarity(moment, signed).values(), strict=True):
            axes.collections[0].set_array(one.values.numpy())
        return [figure.suptitle(f"step {evolution.steps[moment]:,}", color=INK, fontsize=9)]

    moving = FuncAnimation(figure, show, frames=len(evolution.steps))
    moving.save(path, writer=PillowWriter(fps=len(evolution.steps) / seconds))  # pyright: ignore[reportArgumentType]
    return path


def _shades(signed: bool) -> "ScalarMappable":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(-1.0 if signed else 0.0, 1.0), "RdBu_r" if signed else "viridis")


def _side(layers: int) -> float:
    return min(MOST, max(LEAST, CELL * layers))


def _label(name: str, one: Similarity) -> str:
    """What a group's layers have in common, and how many there are."""
    common, _ = short_names(one.rows)
    return f"{common or name}\n{len(one.rows)} layers"
