"""A paper's tables as Markdown, for its page in `docs/papers`: what the paper prints, ours, and what stands behind it.

It shows what the site shows (`site`), cut to what a page of text can hold: rows and metrics of which nothing was made
are left out, and a table of which nothing was made is nothing.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
import math

from weightshare.experiments.papers import State
from weightshare.experiments.site import Part, share
from weightshare.experiments.studies.results import Result, compared
from weightshare.experiments.table import Found, Table
from weightshare.experiments.view import LESS, Value, number, values

WIDEST = 7
"""Columns of numbers that one table may have; further metrics go to a table of their own."""
ROUNDED = "Differences that are not those of the printed accuracies: both were rounded by themselves, and stay."


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table.

    Args:
        columns: Titles.
        rows: One text for each column.
        words: How many columns from the left hold words; the others are aligned to the right.
    """
    rule = ["---" if at < words else "---:" for at in range(len(columns))]
    return "\n".join(f"| {' | '.join(_cell(one) for one in line)} |" for line in (columns, rule, *rows))


def section(part: Part, metrics: Sequence[str] | None = None, picture: str | None = None) -> str:
    """A table at a scale: its title, what the scale changed, its numbers, where they come from, how to make them again.

    Args:
        part: Which table, at which scale.
        metrics: Those that are shown, by the ends of their names; all without.
        picture: Where the table's picture lies, if there is one.

    Returns:
        Nothing if nothing was made.
    """
    if not part.kept.found:
        return ""
    table, facts = part.table, dict(part.facts)
    seeds = " or ".join(str(count) for count in sorted({len(one) for one in part.sources.found.values()}))
    told = [
        f"{table.source[0].upper()}{table.source[1:]}, at scale `{part.scale}`: {part.state} cells, {seeds} runs each.",
        f"What the scale changes: {table.protocol[part.scale]}",
        table.note,
        f"Made by commit {facts['commit']}; {facts['time']}; {facts['machine']}.",
        "" if facts["data"].startswith("the data sets") else f"Data: {facts['data']}.",
    ]
    parts = [
        f"### {table.title}",
        " ".join(one for one in told if one),
        numbers(table, part.kept.found, metrics),
        "" if picture is None else f"![{table.title}]({picture})",
        f"```console\n{part.command}\n```",
    ]
    return "\n\n".join(one for one in parts if one)


def numbers(table: Table, found: Found, metrics: Sequence[str] | None = None) -> str:
    """The numbers of a table, with notes on what the paper gets wrong; many metrics stand in several tables.

    Args:
        table: Which.
        found: What counts of it.
        metrics: Those that are shown, by the ends of their names; all without.
    """
    held = {
        (value.row, value.metric): value
        for value in values(table, found)
        if value.ours is not None and (metrics is None or value.metric.endswith(tuple(metrics)))
    }
    notes: list[str] = []
    for value in held.values():
        if value.printed and value.printed.misprint and value.printed.misprint not in notes:
            notes.append(value.printed.misprint)
    shown = []
    for names in _portions(table, held):
        columns = ["row", "", *(title for name in names for title in _titles(table, held, name))]
        rows = [
            [f"`{row}`", what, *(cell for name in names for cell in _cells(held, row, name, notes))]
            for row, what in table.rows.items()
            if any((row, name) in held for name in names)
        ]
        shown.append(grid(columns, rows, words=2))
    listed = "\n".join(f"{at}. {note}" for at, note in enumerate(notes, 1))
    return "\n\n".join([*shown, *([listed] if listed else [])])


def differences(table: Table, found: Found, metric: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Rows less other rows, ours with a standard error and the paper's; nothing where none of the pairs is there.

    Args:
        table: Which.
        found: What counts of it.
        metric: In percent.
        pairs: For each line a row, and the one that is subtracted.
    """
    results = []
    for (row, _), outcomes in found.items():
        seeds = [seed for seed, one in outcomes.items() if math.isfinite(one.metrics.get(metric, math.nan))]
        if seeds:
            of = [outcomes[seed] for seed in seeds]
            made = [one.metrics[metric] / 100 for one in of]
            result = Result(table.paper, table.key, row, metric, made, seeds, {}, {}, [one.seconds for one in of])
            results.append(result)
    there = {result.run for result in results}
    published = {row: one[metric].number for row, one in table.printed.items() if metric in one and one[metric].value}
    if not any({one, other} <= there for one, other in pairs):
        return ""
    return f"```text\n{compared(results, pairs, published)}\n```"


def overview(states: Sequence[State]) -> str:
    """All tables and figures of a paper: what they show, where they stand, and how much is there at each scale."""
    columns = ("table", "what it shows", "where", "cells", "`small`", "`paper`")
    rows = [
        (
            f"`{one.table.name}`",
            one.table.title,
            one.table.source,
            str(one.cells),
            *(share(one.made[scale], one.cells) for scale in ("small", "paper")),
        )
        for one in states
    ]
    return grid(columns, rows, words=3)


def misprints(paper: str) -> str:
    """What a paper gets wrong, or says in two ways: equations and claims, then cells of its tables."""
    held = import_module(f"weightshare.experiments.printed.{paper}")
    told: Mapping[str, str] = held.MISPRINTS
    cells: dict[str, list[str]] = {}
    for name, table in held.TABLES.items():
        for row, metrics in table.items():
            for metric, cell in metrics.items():
                if cell.misprint:
                    what = ROUNDED if metric.endswith(LESS) else cell.misprint
                    cells.setdefault(what, []).append(f"{name}, `{row}`, {metric}")
    rows = [(where, what) for where, what in told.items()]
    rows += [("; ".join(where) if len(where) < 4 else f"{where[0]} and {len(where) - 1} more", what)
             for what, where in cells.items()]  # fmt: skip
    return grid(("where", "what"), rows, words=2)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _portions(table: Table, held: Mapping[tuple[str, str], Value]) -> list[list[str]]:
    """Metrics that stand in one table: those of the same rows, as many as there is room for."""
    made: list[tuple[set[str], list[str]]] = []
    for name in table.metrics:
        mine = {row for row, metric in held if metric == name}
        width = len(_titles(table, held, name))
        for rows, names in made:
            if rows == mine and width + sum(len(_titles(table, held, one)) for one in names) <= WIDEST:
                names.append(name)
                break
        else:
            made += [(mine, [name])] if mine else []
    return [names for _, names in made]


def _titles(table: Table, held: Mapping[tuple[str, str], Value], name: str) -> list[str]:
    kind = table.metrics[name]
    title = f"{kind.title}{f' ({kind.unit})' if kind.unit else ''}"
    if not _printed(held, name):
        return [title]
    return [f"{title}: paper", "ours", *(["less paper"] if _compared(held, name) else [])]


def _cells(held: Mapping[tuple[str, str], Value], row: str, name: str, notes: Sequence[str]) -> list[str]:
    value, both = held.get((row, name)), _printed(held, name)
    width = 1 + both + (both and _compared(held, name))
    if value is None:
        return [""] * width
    ours = value.text if value.spread else value.text.split(" ± ")[0]
    if not both:
        return [ours]
    wrong = value.printed.misprint if value.printed else ""
    paper = f"{value.paper_text}{f' <sup>{notes.index(wrong) + 1}</sup>' if wrong else ''}"
    gap = "" if value.gap is None else f"{'+' if value.gap > 0 else ''}{number(value.gap, value.kind)}"
    return [paper, ours, gap][:width]


def _printed(held: Mapping[tuple[str, str], Value], name: str) -> bool:
    return any(metric == name and value.printed is not None for (_, metric), value in held.items())


def _compared(held: Mapping[tuple[str, str], Value], name: str) -> bool:
    return any(metric == name and value.gap is not None for (_, metric), value in held.items())
