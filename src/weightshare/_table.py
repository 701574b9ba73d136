"""Text tables that line up, for everything that is printed: plans, reports, the command line."""

from collections.abc import Sequence

WIDTH = 118


def render(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = ()) -> str:
    """Lay out rows under their column titles as plain text.

    Args:
        columns: Titles.
        rows: One value for each column; integers get thousands separators.
        numbers: Titles of the columns that are aligned to the right.

    Returns:
        Lines without trailing blanks, at most `WIDTH` characters wide; long cells are folded.
    """
    from rich.box import SIMPLE_HEAD  # imported when something is printed, so that `import weightshare` stays light
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in columns:
        table.add_column(title, justify="right" if title in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell) for cell in row)
        )
    console = Console(width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def shape_text(shape: Sequence[int]) -> str:
    """`768×1×3×3`, or `scalar`."""
    return "×".join(str(length) for length in shape) or "scalar"


def run_text(labels: Sequence[object], most: int = 12) -> str:
    """Labels in a row, the middle of a long one left out: `0 0 1 1 … 7 7`."""
    shown = [str(label) for label in labels]
    if len(shown) > most:
        shown = [*shown[: most - 4], "…", *shown[-2:]]
    return " ".join(shown)
