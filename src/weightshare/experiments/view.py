"""A table as it is shown: the paper's number, ours, their difference and our spread; text here, HTML in `site`."""

from collections.abc import Iterator
from dataclasses import dataclass
import math

from weightshare._table import render
from weightshare.experiments.cells import mean, spread
from weightshare.experiments.printed import Printed
from weightshare.experiments.table import Found, Metric, Table

LESS = "-diff"
"""The end of the name of a metric that is another one's difference to that of the table's row `against`."""


@dataclass(frozen=True)
class Value:
    """One number of a table.

    Args:
        row: Its row.
        metric: Its name.
        kind: What it is.
        ours: The mean over runs; `nan` if one diverged; nothing if there is none.
        spread: The standard deviation over runs, 0 with one.
        runs: How many.
        printed: What the paper prints.
    """

    row: str
    metric: str
    kind: Metric
    ours: float | None
    spread: float
    runs: int
    printed: Printed | None

    @property
    def gap(self) -> float | None:
        """Ours less the paper's, or nothing."""
        if self.ours is None or self.printed is None or self.printed.value is None or math.isnan(self.ours):
            return None
        return self.ours - self.printed.value

    @property
    def text(self) -> str:
        """Ours as it is written: `87.31 ± 0.12`, `diverged`, or nothing."""
        if self.ours is None:
            return ""
        if math.isnan(self.ours):
            return "diverged"
        return f"{number(self.ours, self.kind)}{f' ± {number(self.spread, self.kind)}' if self.runs > 1 else ''}"

    @property
    def paper_text(self) -> str:
        """The paper's as it is written."""
        if self.printed is None:
            return ""
        return self.printed.word if self.printed.value is None else f"{self.printed.value:g}"


def number(value: float, kind: Metric) -> str:
    """A number with the digits of its metric; very small and very large ones in powers of ten."""
    if value and kind.digits and (abs(value) < 10**-kind.digits or abs(value) >= 1e7):
        return f"{value:.3g}"
    return f"{value:,.{kind.digits}f}"


def values(table: Table, found: Found) -> Iterator[Value]:
    """All numbers of a table, row by row, those that are neither there nor printed left out."""
    for row in table.rows:
        for column, metrics in table.columns.items():
            for name, kind in metrics.items():
                printed = table.printed.get(row, {}).get(name)
                outcomes = found.get((row, column), {})
                if name.endswith(LESS):
                    ours, deviation = _difference(table, found, row, column, name.removesuffix(LESS))
                else:
                    ours, deviation = mean(outcomes, name), spread(outcomes, name)
                if ours is not None or printed is not None:
                    yield Value(row, name, kind, ours, deviation, len(outcomes), printed)


def text_table(table: Table, found: Found) -> str:
    """The table as text, one line a number."""
    columns = ("row", "", "paper", "ours", "runs", "ours less paper")
    rows = []
    for value in values(table, found):
        unit = f" ({value.kind.unit})" if value.kind.unit else ""
        gap = "" if value.gap is None else f"{value.gap:+.{value.kind.digits}f}"
        mark = "*" if value.printed is not None and value.printed.misprint else ""
        paper = f"{value.paper_text}{mark}"
        rows.append((value.row, f"{value.kind.title}{unit}", paper, value.text, value.runs or "", gap))
    notes = {
        f"* {value.printed.misprint}" for value in values(table, found) if value.printed and value.printed.misprint
    }
    return "\n".join([render(columns, rows, numbers=columns[2:]), *sorted(notes)])


def _difference(table: Table, found: Found, row: str, column: str, name: str) -> tuple[float | None, float]:
    if table.against is None or row == table.against:
        return None, 0.0
    ours, other = found.get((row, column), {}), found.get((table.against, column), {})
    one, base = mean(ours, name), mean(other, name)
    if one is None or base is None:
        return None, 0.0
    return one - base, math.hypot(spread(ours, name), spread(other, name))
