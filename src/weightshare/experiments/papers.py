"""The catalogue: every table and figure of the four papers, and what goes beyond them, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.experiments.cells import Kept, load
from weightshare.experiments.jobs import SCALES, Scale
from weightshare.experiments.table import Table, nearest

PAPERS = {
    "pogodin2021": "Pogodin, Mehta, Lillicrap, Latham 2021: Towards biologically plausible convolutional networks",
    "lin2022": "Lin, Prabhu, Merth, Mehta, Ranjan, Horton, Rastegari 2022: SPIN",
    "savarese2019": "Savarese, Maire 2019: Learning implicitly recurrent CNNs through parameter sharing (poster)",
    "shakerinava2023": "Shakerinava, Sohrabi, Ravanbakhsh, Lacoste-Julien 2023: Weight-sharing regularization",
    "beyond": "Beyond the four papers: their neighbours, and all four methods on one task",
}
"""By the name of the module that holds its tables."""


@cache
def tables() -> Mapping[str, Table]:
    """All tables and figures by name, paper by paper."""
    modules = [import_module(f"weightshare.experiments.{paper}") for paper in PAPERS]
    return {table.name: table for module in modules for table in module.TABLES}


def table_named(name: str) -> Table:
    """A table or figure by its name.

    Raises:
        ConfigError: If there is none, with the nearest names.
    """
    known = tables()
    if name not in known:
        raise ConfigError(f"There is no table {name!r}{nearest(name, list(known))}. See: weightshare papers")
    return known[name]


def holder(table: Table) -> Table:
    """The table that holds the cells of a table: itself, or the one that it is like."""
    while table.like is not None:
        table = table_named(table.like)
    return table


def kept(results: str | Path, table: Table, scale: Scale, version: str) -> Kept:
    """What counts of a table, its rows and columns alone, and computed from another's where it is derived."""
    held = load(results, holder(table), scale, version)
    found = {cell: held.found[cell] for cell in table.cells if cell in held.found}
    if table.derived is not None:
        found = {cell: table.derived(outcomes) for cell, outcomes in found.items()}
    return Kept(found, held.apart, held.changed)


@dataclass(frozen=True)
class State:
    """How much of a table is there.

    Args:
        table: Which.
        made: By scale, cells that have all their seeds; with fewer seeds a cell counts as its share.
        cells: How many there are.
    """

    table: Table
    made: Mapping[Scale, float]
    cells: int


def states(results: str | Path, version: str, paper: str | None = None) -> list[State]:
    """The state of all tables, or of those of one paper.

    Raises:
        ConfigError: If there is no such paper.
    """
    if paper is not None and paper not in PAPERS:
        raise ConfigError(f"There is no paper {paper!r}{nearest(paper, list(PAPERS))}.")
    read = cache(lambda name, scale: load(results, table_named(name), scale, version).found)  # several may be alike
    found = []
    for table in tables().values():
        if paper in (None, table.paper):
            held = holder(table)
            made: dict[Scale, float] = {
                scale: sum(
                    min(1.0, len(read(held.name, scale).get(cell, {})) / held.seeds[scale]) for cell in table.cells
                )
                for scale in SCALES
            }
            found.append(State(table, made, len(table.cells)))
    return found
