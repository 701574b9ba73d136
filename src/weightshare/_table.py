"""Text tables that line up, for everything that is printed: plans, reports, the command line."""

from collections.abc import Sequence
from textwrap import fill

WIDTH = 118
GAP = 3  # characters between two columns


def render(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = ()) -> str:
    """Lay out rows under their column titles as plain text.

    Args:
        columns: Titles.
        rows: One value for each column; integers get thousands separators.
        numbers: Titles of the columns that are aligned to the right.

    Returns:
        Lines without trailing blanks, at most `WIDTH` characters wide. Where it is too wide titles are broken between
        words; where that does not do, long cells are folded.
    """
    from rich.box import SIMPLE_HEAD  # imported when something is printed, so that `import weightshare` stays light
    from rich.console import Console
    from rich.table import Table

    cells = [
        [f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell) for cell in row]
        for row in rows
    ]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, shown in zip(columns, _fitting(columns, cells), strict=True):
        table.add_column(shown, justify="right" if title in numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = Console(width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def _fitting(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """The titles; broken between words, those first that stand widest over their cells, until a table fits."""
    titles = list(columns)
    below = [max((len(row[at]) for row in cells), default=0) for at in range(len(titles))]

    def width(at: int) -> int:
        return max(below[at], *map(len, titles[at].split("\n")))

    while sum(map(width, range(len(titles)))) + GAP * (len(titles) - 1) > WIDTH:
        over = {at: width(at) - below[at] for at, title in enumerate(titles) if " " in title}
        widest = max(over, key=lambda at: over[at], default=None)
        if widest is None or not over[widest]:
            break
        titles[widest] = fill(titles[widest], max(below[widest], width(widest) - 1), break_long_words=False)
        if width(widest) == over[widest] + below[widest]:
            below[widest] = width(widest)  # one long word: no narrower than that
    return titles


def shape_text(shape: Sequence[int]) -> str:
    """`768×1×3×3`, or `scalar`."""
    return "×".join(str(length) for length in shape) or "scalar"


def run_text(labels: Sequence[object], most: int = 12) -> str:
    """Labels in a row, the middle of a long one left out: `0 0 1 1 … 7 7`."""
    shown = [str(label) for label in labels]
    if len(shown) > most:
        shown = [*shown[: most - 4], "…", *shown[-2:]]
    return " ".join(shown)
