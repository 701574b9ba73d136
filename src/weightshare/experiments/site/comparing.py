"""Tables of a page: for each row and metric the paper's number, ours and the difference, with notes on misprints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from weightshare.experiments.table import Found, Metric, Table
from weightshare.experiments.view import Value, number, values

WIDEST = 6
"""Columns of numbers that one table may have; further metrics go to a table of their own."""


@dataclass(frozen=True)
class Number:
    """One cell of a page's table.

    Args:
        kind: `paper`, `ours` or `difference`.
        text: As it is shown; nothing where there is none.
        runs: Of ours, how many it is the mean of.
        note: Of the paper's, the number of the note that tells what is wrong with it; 0 without one.
    """

    kind: str
    text: str = ""
    runs: int = 0
    note: int = 0


@dataclass(frozen=True)
class Head:
    """The columns of one metric: its title with the unit, and which kinds of numbers there are."""

    title: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One row: its name, what it is, and a cell for each kind of each metric."""

    name: str
    what: str
    cells: Sequence[Number]


@dataclass(frozen=True)
class Block:
    """One table of a page.

    Args:
        caption: The metrics that it shows.
        heads: Of the metrics.
        lines: Its rows.
    """

    caption: str
    heads: Sequence[Head]
    lines: Sequence[Line]

    @property
    def runs(self) -> int:
        """Of how many runs all of our numbers are means; 0 if that differs, or if there are none."""
        counts = {cell.runs for line in self.lines for cell in line.cells if cell.runs}
        return counts.pop() if len(counts) == 1 else 0


@dataclass(frozen=True)
class Compared:
    """The tables of a page at one scale, and the notes that their cells refer to, from 1."""

    blocks: Sequence[Block]
    notes: Sequence[str] = field(default_factory=list)


def compared(table: Table, found: Found) -> Compared:
    """A table beside its paper, cut into tables that are not too wide: metrics of different columns never share one.

    Args:
        table: Which.
        found: What counts of it at a scale; nothing if nothing was made yet.
    """
    held: dict[tuple[str, str], Value] = {(value.row, value.metric): value for value in values(table, found)}
    notes: list[str] = []
    for value in held.values():
        if value.printed and value.printed.misprint and value.printed.misprint not in notes:
            notes.append(value.printed.misprint)
    made = []
    for metrics in table.columns.values():
        heads = {
            name: _head(metric, [one for at, one in held.items() if at[1] == name]) for name, metric in metrics.items()
        }
        for names in _portions({name: head for name, head in heads.items() if head.kinds}):
            lines = [
                Line(row, what, [cell for name in names for cell in _cells(held.get((row, name)), heads[name], notes)])
                for row, what in table.rows.items()
                if any((row, name) in held for name in names)
            ]
            made.append(Block(", ".join(metrics[name].title for name in names), [heads[name] for name in names], lines))
    return Compared(made, notes)


def _head(metric: Metric, shown: Sequence[Value]) -> Head:
    there = {
        "paper": any(value.printed is not None for value in shown),
        "ours": any(value.ours is not None for value in shown),
        "difference": any(value.gap is not None for value in shown),
    }
    unit = f" ({metric.unit})" if metric.unit else ""
    return Head(f"{metric.title}{unit}", tuple(kind for kind, is_there in there.items() if is_there))


def _portions(heads: dict[str, Head]) -> Iterator[list[str]]:
    portion, width = list[str](), 0
    for name, head in heads.items():
        if portion and width + len(head.kinds) > WIDEST:
            yield portion
            portion, width = [], 0
        portion.append(name)
        width += len(head.kinds)
    if portion:
        yield portion


def _cells(value: Value | None, head: Head, notes: Sequence[str]) -> Iterator[Number]:
    for kind in head.kinds:
        if value is None:
            yield Number(kind)
        elif kind == "paper":
            wrong = value.printed.misprint if value.printed else ""
            yield Number(kind, value.paper_text, note=notes.index(wrong) + 1 if wrong else 0)
        elif kind == "ours":
            yield Number(kind, value.text, runs=value.runs if value.text else 0)
        else:
            yield Number(kind, _difference(value))


def _difference(value: Value) -> str:
    """Ours less the paper's, with the digits of the metric, unless the paper's number is too small for them."""
    if value.gap is None or value.printed is None or value.printed.value is None:
        return ""
    if value.kind.digits and 0 < abs(value.printed.value) < 10**-value.kind.digits:
        return f"{'+' if value.gap > 0 else ''}{number(value.gap, value.kind)}"
    return f"{value.gap:+,.{value.kind.digits}f}"
