"""A table or a figure of a paper: rows, columns, what the paper prints, and the work behind each cell at three scales.

A `Table` is a value, made once by the module of its paper. It says for each cell which job gives it (`jobs`), and knows
neither where results lie (`cells`) nor how missing ones are made (`reproduce`).

- `smoke` takes seconds, learns from scikit-learn's digits or from made-up numbers, and shows that all of it runs.
- `small` takes under an hour for a table on two cores, and is meant to show what the paper shows.
- `paper` is the paper's own protocol, for GPUs.

A figure is a table too: its rows are curves, and it has a picture. A table may hold the cells of another (`like`), as
the main text's tables repeat rows of the appendix, or be computed from another's (`derived`), as spreads are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from weightshare.errors import ConfigError
from weightshare.experiments.jobs import SCALES, Job, Outcome, Scale
from weightshare.experiments.printed import Printed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Outcomes = Mapping[int, Outcome]
"""By seed."""
Found = Mapping[tuple[str, str], Outcomes]
"""By row and column."""
Printing = Mapping[str, Mapping[str, Printed]]
"""By row and metric."""


@dataclass(frozen=True)
class Metric:
    """What a column of numbers is.

    Args:
        title: As it stands over the column.
        unit: Such as `%`, or nothing for counts.
        better: Whether high or low numbers are better; nothing for neither.
        digits: After the point.
    """

    title: str
    unit: str = "%"
    better: Literal["high", "low", ""] = "high"
    digits: int = 2


def _everywhere(row: str, column: str) -> bool:
    return True


def _nothing(row: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Table:
    """A table or a figure.

    Args:
        name: `<paper>/<table>`, such as `pogodin2021/table4` or `lin2022/figure1`.
        title: What it shows, in our words.
        source: Where it stands in the paper.
        rows: By name, what they are, in the order in which they are shown.
        columns: By name, the metrics that one job gives, by name; a table whose rows have one job each has the one
            column `""`.
        job: For a row, a column and a scale, the work behind the cell.
        printed: What the paper prints, by row and metric.
        protocol: For each scale, in words, what it changed of the paper's protocol; `paper` says what differs even
            there.
        seeds: How many runs of a cell, by scale.
        holds: Whether there is a cell for a row and a column.
        needs: Rows whose runs of the same seed a row starts from.
        like: The name of the table that holds these cells, or nothing. `job` is then never asked.
        derived: Computes the metrics of a row and column from the outcomes of `like`'s cells, or nothing.
        against: The row that metrics named `...-diff` are differences to; nobody measures them, they are computed.
        picture: Draws the table's picture, or nothing for one of bars.
        note: What a reader should know besides, such as a misprint of an equation.
    """

    name: str
    title: str
    source: str
    rows: Mapping[str, str]
    columns: Mapping[str, Mapping[str, Metric]]
    job: Callable[[str, str, Scale], Job]
    protocol: Mapping[Scale, str]
    printed: Printing = field(default_factory=dict)
    seeds: Mapping[Scale, int] = field(default_factory=lambda: {"smoke": 1, "small": 3, "paper": 5})
    holds: Callable[[str, str], bool] = _everywhere
    needs: Callable[[str], Sequence[str]] = _nothing
    like: str | None = None
    derived: Callable[[Outcomes], Outcomes] | None = None
    against: str | None = None
    picture: "Callable[[Found], Figure] | None" = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.name.count("/") != 1 or not self.rows or not self.columns:
            raise ConfigError(f"A table needs a name 'paper/table', rows and columns, got {self.name!r}.")
        unknown = [(row, metric) for row, one in self.printed.items() for metric in one if not self._known(row, metric)]
        if unknown:
            raise ConfigError(f"{self.name} prints what is no cell of it: {unknown[0]}.")

    @property
    def paper(self) -> str:
        return self.name.partition("/")[0]

    @property
    def key(self) -> str:
        """Its name within the paper."""
        return self.name.partition("/")[2]

    @property
    def is_figure(self) -> bool:
        return self.key.startswith("figure")

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Rows and columns, row by row."""
        return [(row, column) for row in self.rows for column in self.columns if self.holds(row, column)]

    @property
    def metrics(self) -> dict[str, Metric]:
        """Of all columns, by name."""
        return {name: metric for one in self.columns.values() for name, metric in one.items()}

    def chosen(self, rows: Sequence[str] | None) -> list[str]:
        """Rows by name, in the table's order; `None` for all.

        Raises:
            ConfigError: If there is no such row, with the nearest names.
        """
        if rows is None:
            return list(self.rows)
        for row in rows:
            if row not in self.rows:
                raise ConfigError(f"{self.name} has no row {row!r}{nearest(row, list(self.rows))}.")
        return [row for row in self.rows if row in rows]

    def _known(self, row: str, metric: str) -> bool:
        return row in self.rows and metric in self.metrics


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: those that are like it, then all, if they are few."""
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    guess = f": did you mean {' or '.join(map(repr, near))}?" if near else ":"
    return f"{guess} There are {', '.join(known[:24])}{' ...' if len(known) > 24 else ''}"


def checked_scale(scale: str) -> Scale:
    """A scale by its name.

    Raises:
        ConfigError: If there is none.
    """
    for one in SCALES:
        if scale == one:
            return one
    raise ConfigError(f"scale={scale!r}: need {', '.join(SCALES)}.")


def single(**metrics: Metric) -> dict[str, dict[str, Metric]]:
    """The columns of a table whose rows have one job each."""
    return {"": metrics}


def no_job(row: str, column: str, scale: Scale) -> Any:
    """The `job` of a table whose cells are another's."""
    raise ConfigError(f"The cell {row!r}, {column!r} is another table's.")
