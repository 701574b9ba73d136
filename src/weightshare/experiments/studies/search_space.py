"""Figure 1 of SPIN's supplement: how many topologies a network of 32 layers has, by the depth of its stages.

Source: Lin 2022, supplement, figure 1. Differs: the exact counts stand beside the paper's formula.
"""

from math import log10
from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK
from weightshare.depth.search_space import staged_topologies
from weightshare.experiments.jobs import Outcome
from weightshare.experiments.studies.regression_picture import LOOK
from weightshare.experiments.table import Found

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH = 32
STAGES = (1, 2, 4, 8, 16, 32)
"""Layers of a stage, `L_S`."""
READ = (8, 16, 32)
"""Slots `P` at which curves are read off."""


def staged(seed: int, stage: int, depth: int = DEPTH) -> Outcome:
    """`log10` of how many topologies a network with stages of one depth has, for each `P` from 1, where it has any.

    Args:
        seed: Nothing is drawn.
        stage: Layers of a stage, `L_S`.
        depth: Layers of the network, `L_N`.

    Returns:
        Curves by the paper's formula and exact, and what they are at `READ`.
    """
    curves: dict[str, list[float | None]] = {
        count: [
            log10(ways) if (ways := staged_topologies([stage] * (depth // stage), slots, count)) else None
            for slots in range(1, depth + 1)
        ]
        for count in ("paper", "exact")
    }
    read = {f"{count}-{slots}": curve[slots - 1] for count, curve in curves.items() for slots in READ if slots <= depth}
    return Outcome({name: value for name, value in read.items() if value is not None}, curves=curves)


def picture(found: Found) -> "Figure":
    """A line for each depth of a stage, where there is a topology at all; dotted, the exact number."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with rc_context(LOOK):
        figure = Figure(figsize=(6.8, 4.2), layout="constrained")
        axes: Any = figure.subplots()
        drawn = {row: next(iter(outcomes.values())).curves for (row, _), outcomes in found.items()}
        for (row, curves), colour in zip(reversed(drawn.items()), COLOURS, strict=False):
            for count, style in (("paper", "-"), ("exact", ":")):
                points = [(slots, ways) for slots, ways in enumerate(curves[count], 1) if ways is not None]
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    ls=style,
                    lw=1.6,
                    marker="o" if len(points) == 1 else None,
                    ms=4,
                    label=f"$L_S$ = {row.removeprefix('stage-')}" if count == "paper" else None,
                )
        axes.set(xlabel=f"weight tensors P, of {DEPTH} layers", ylabel="topologies, log10")
        axes.set(xlim=(0, DEPTH + 1), ylim=(-1, None))
        axes.set_xticks([1, *range(4, DEPTH + 1, 4)])
        axes.grid()
        handles, _ = axes.get_legend_handles_labels()
        handles += [
            Line2D([], [], color=INK, lw=1.6, ls=style, label=label)
            for style, label in (("-", "the paper's formula"), (":", "exact"))
        ]
        figure.legend(handles=handles, loc="outside right upper")
    return figure
