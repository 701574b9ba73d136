"""Figure 1 of SPIN's supplement: how many topologies a network of 32 layers has, by the depth of its stages.

Source: Lin 2022, supplement, figure 1. Differs: the exact counts stand beside the paper's formula.
"""

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightshare._table import render
from weightshare.analysis.pictures import COLOURS, INK
from weightshare.depth.search_space import staged_topologies
from weightshare.errors import ConfigError
from weightshare.experiments.studies.regression_picture import LOOK
from weightshare.experiments.studies.results import save_png
from weightshare.files.atomic import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "lin2022"
DEPTH = 32
STAGES = (1, 2, 4, 8, 16, 32)
"""Layers of a stage, `L_S`."""
SHOWN = (1, 2, 4, 8, 16, 32)
"""Slots of which the table has a row."""


def draw_search_space(out: str | Path, seeds: Sequence[int] = (), input_mean: float = 0.0) -> tuple[str, Path]:
    """Count, and write numbers and picture.

    Args:
        out: Folder of results.
        seeds: Of the figures that draw numbers; this one counts.
        input_mean: Of the simulated figures; 0 here.

    Returns:
        A table, and the path of the picture.

    Raises:
        ConfigError: If `input_mean` is given.
    """
    if input_mean:
        raise ConfigError(f"The search space is counted: input_mean={input_mean} is for the simulated figures.")
    counts = search_space()
    folder = Path(out) / PAPER / "fig1"
    # As texts: readers of JSON in other languages would round integers of 49 digits.
    written = {
        count: {str(stage): [str(ways) for ways in row] for stage, row in rows.items()}
        for count, rows in counts.items()
    }
    source = "supplement, figure 1 and equation 1; one entry for each P from 1"
    write_json(folder / "search-space.json", {"figure": "1", "source": source, "layers": DEPTH, "topologies": written})
    save_png(picture(counts), folder / "search-space.png")
    return table(counts), folder / "search-space.png"


def search_space(depth: int = DEPTH, stages: Sequence[int] = STAGES) -> dict[str, dict[int, list[int]]]:
    """The number of topologies by the paper's formula and exact, for each depth of a stage and each `P` from 1."""
    return {
        count: {
            stage: [staged_topologies([stage] * (depth // stage), slots, count) for slots in range(1, depth + 1)]
            for stage in stages
        }
        for count in ("paper", "exact")
    }


def table(counts: Mapping[str, Mapping[int, Sequence[int]]]) -> str:
    """`log10` of the paper's and of the exact number at some `P`."""
    columns = ("P", *(f"L_S = {stage}" for stage in counts["paper"]))
    rows = [
        (slots, *(_pair(counts["paper"][stage][slots - 1], counts["exact"][stage][slots - 1]) for stage in STAGES))
        for slots in SHOWN
    ]
    return f"log10 of the number of topologies, by the paper's formula / exact\n\n{render(columns, rows, columns)}"


def picture(counts: Mapping[str, Mapping[int, Sequence[int]]]) -> "Figure":
    """A line for each depth of a stage, where there is a topology at all; dotted, the exact number."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with rc_context(LOOK):
        figure = Figure(figsize=(6.8, 4.2), layout="constrained")
        axes: Any = figure.subplots()
        for stage, colour in zip(reversed(STAGES), COLOURS, strict=False):
            for count, style in (("paper", "-"), ("exact", ":")):
                points = [(slots, log10(ways)) for slots, ways in enumerate(counts[count][stage], 1) if ways]
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    ls=style,
                    lw=1.6,
                    marker="o" if len(points) == 1 else None,
                    ms=4,
                    label=f"$L_S$ = {stage}" if count == "paper" else None,
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


def _pair(paper: int, exact: int) -> str:
    return f"{log10(paper):.2f} / {log10(exact):.2f}" if paper and exact else "none"
