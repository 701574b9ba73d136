"""Pictures: which layer reads which slot, and how runs went. Grey text and no background suit light pages and dark."""

from collections.abc import Mapping, Sequence
import io
from typing import TYPE_CHECKING, Any

from weightshare.planning import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#7a7f87"  # readable on white and on near-black
COLOURS = ("#2f6fb4", "#d2762a", "#3c9a5f", "#b3478f", "#7f6bc4", "#a98a1d", "#2b9aa6", "#c4514f")
MOST_ROWS = 40


def draw_assignment(plan: Plan) -> "Figure":
    """Draw a plan: a row for each group, a column for each layer, one colour and number for each slot.

    Args:
        plan: Groups past the first 40 are left out, and the picture says so.

    Returns:
        A matplotlib figure. Colours repeat after eight slots; the numbers do not.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    groups = plan.groups[:MOST_ROWS]
    depth = max(len(group.items) for group in groups)
    cell = min(0.42, 8.4 / depth)
    figure = Figure(figsize=(max(5.4, 2.9 + cell * depth), 0.75 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(groups):
        for layer, slot in enumerate(group.assignment.labels.tolist()):
            alone = len(group.assignment.readers[slot]) == 1
            colour = COLOURS[slot % len(COLOURS)]
            axes.add_patch(
                Rectangle(
                    (layer + 0.06, row + 0.12), 0.88, 0.76, facecolor="none" if alone else colour, edgecolor=colour
                )
            )
            ink = colour if alone else "white"
            axes.text(
                layer + 0.5, row + 0.5, str(slot), ha="center", va="center", color=ink, fontsize=min(9, 20 * cell)
            )
    axes.set(xlim=(0, depth), ylim=(len(groups), 0), xlabel="layer (filled: shared; number: the slot that it reads)")
    every = max(1, depth // 16)
    axes.set_xticks([layer + 0.5 for layer in range(0, depth, every)], [str(layer) for layer in range(0, depth, every)])
    axes.set_yticks([row + 0.5 for row in range(len(groups))], [group.name for group in groups])
    if len(plan.groups) > MOST_ROWS:
        axes.set_title(f"the first {MOST_ROWS} of {len(plan.groups)} groups", color=INK, fontsize=9)
    quiet(axes)
    return figure


def draw_curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], metric: str, name: str) -> "Figure":
    """Draw a metric over epochs: a line for each name, and a band from the least to the greatest seed.

    Args:
        runs: For each name its histories, one for each seed, as `fit` returns them.
        metric: Key of a history's rows.
        name: Title of the vertical axis.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    many = len(runs) > 4  # then the legend stands beside the curves
    figure = Figure(figsize=(8.0 if many else 6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for index, (label, histories) in enumerate(runs.items()):
        epochs = [row["epoch"] for row in histories[0]]
        values = list(zip(*([row[metric] for row in history] for history in histories), strict=True))
        colour = COLOURS[index % len(COLOURS)]
        dots: dict[str, Any] = {"marker": ".", "markersize": 4} if len(epochs) <= 60 else {"lw": 1.2}
        axes.plot(epochs, [sum(at) / len(at) for at in values], color=colour, label=label, **dots)
        axes.fill_between(
            epochs, [min(at) for at in values], [max(at) for at in values], color=colour, alpha=0.18, lw=0
        )
    axes.set(xlabel="epoch", ylabel=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    if len(runs) > 1:
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if many else {}
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, **beside)
    quiet(axes)
    return figure


def svg(figure: "Figure", title: str) -> str:
    """A figure as an inline `<svg>` element with a title for readers who do not see it."""
    from html import escape

    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "weightshare"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    opening_end = body.index(">") + 1
    return f'{body[: opening_end - 1]} role="img"><title>{escape(title)}</title>{body[opening_end:]}'


def quiet(axes: "Axes") -> None:
    """Axes without a frame, in the grey that suits light pages and dark."""
    axes.tick_params(length=0, colors=INK, labelsize=9)
    parts: tuple[Any, ...] = (axes.xaxis.label, axes.yaxis.label)
    for part in parts:
        part.set(color=INK, fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
