"""Pictures of folded networks: chains of blocks, and the loops in them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.depth.chain import Chain
from weightshare.errors import SpecError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HIGH, GAP = 0.62, 0.5, 0.38
"""Of a box, and between two of them, in units of the axes."""


def draw_loops(chains: Sequence[Chain]) -> "Figure":
    """Draw chains of blocks: a box for each block that is stored, an arrow back and its passes over each loop.

    Args:
        chains: Of a plan from `depth.fold.plan_loops`.

    Returns:
        A matplotlib figure: a row for each chain, with the names that its blocks have there. Blocks of a loop are
        filled.

    Raises:
        SpecError: If there is no chain.

    Example:
        >>> from weightshare.depth.loops import find_loops
        >>> chain = Chain("blocks", ("0", "1", "2", "3"), find_loops("abbb"), ())
        >>> [text.get_text() for text in draw_loops([chain]).axes[0].texts]
        ['0', '1', '3 ×']
    """
    from matplotlib.figure import Figure

    if not chains:
        raise SpecError("draw_loops has nothing to show: no weights of different blocks are one.")
    widths = [sum(run.length for run in chain.runs) * (WIDE + GAP) for chain in chains]
    names = 0.1 * max(len(chain.path or "model") for chain in chains)
    figure = Figure(figsize=(1.0 + names + 0.85 * max(widths), 0.3 + 1.05 * len(chains)), layout="constrained")
    rows = figure.subplots(len(chains), 1, squeeze=False)[:, 0]
    for axes, chain in zip(rows, chains, strict=True):
        _draw(axes, chain)
        axes.set(xlim=(-GAP, max(widths)), ylim=(-0.15, 1.2), xticks=(), yticks=(), aspect="equal")
        axes.set_ylabel(chain.path or "model", rotation=0, ha="right", va="center")
        quiet(axes)
    return figure


def _draw(axes: "Axes", chain: Chain) -> None:
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    at = 0.0
    for number, run in enumerate(chain.runs):
        colour, loop = COLOURS[number % len(COLOURS)], run.passes > 1
        first = at
        for block in range(run.start, run.start + run.length):
            if at:
                ends = (at - GAP, HIGH / 2), (at, HIGH / 2)
                axes.add_patch(
                    FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=8, color=INK, shrinkA=1, shrinkB=1)
                )
            box = "round,pad=0,rounding_size=0.08"
            face = colour if loop else "none"
            axes.add_patch(FancyBboxPatch((at, 0), WIDE, HIGH, boxstyle=box, facecolor=face, edgecolor=colour))
            ink = "white" if loop else colour
            axes.text(at + WIDE / 2, HIGH / 2, chain.names[block], ha="center", va="center", color=ink, fontsize=9)
            at += WIDE + GAP
        if loop:
            middle, last = (first + at - GAP) / 2, at - GAP
            back = FancyArrowPatch(
                *((last - 0.1, HIGH), (first + 0.1, HIGH)),
                connectionstyle=f"arc3,rad={0.9 if run.length == 1 else 0.35}",
                arrowstyle="-|>",
                mutation_scale=8,
                color=colour,
                shrinkA=1,
                shrinkB=1,
            )
            axes.add_patch(back)
            axes.text(middle, 1.0, f"{run.passes} ×", ha="center", va="center", color=colour, fontsize=9)
