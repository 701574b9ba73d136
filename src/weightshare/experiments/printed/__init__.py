"""What the four papers print: each number of their tables, where it stands, and what is wrong with it.

One module a paper. Its `TABLES` lead from a table over a row and a metric, such as `cifar10/top1`, to a `Printed`; its
`MISPRINTS` say what else a paper gets wrong or says in two ways: equations, captions and claims. Numbers are as
printed, wrong ones too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weightshare.errors import ConfigError


@dataclass(frozen=True)
class Printed:
    """What a paper prints in one cell.

    Args:
        value: The number, in the unit of the metric; nothing where the paper prints a word.
        source: Where it stands, such as `table 3`.
        misprint: Why it cannot be right, or what it disagrees with, and how we read it; or nothing.
        word: What the paper prints instead of a number, such as `Diverged`.
    """

    value: float | None
    source: str
    misprint: str = ""
    word: str = ""

    @property
    def number(self) -> float:
        """The value of a cell that holds a number.

        Raises:
            ConfigError: If it holds a word.
        """
        if self.value is None:
            raise ConfigError(f"{self.source} has a word there: got {self.word!r}, need a number.")
        return self.value


Row = dict[str, Printed]
Table = dict[str, Row]


def table(
    source: str,
    metrics: Sequence[str],
    rows: Mapping[str, Sequence[float | str]],
    misprints: Mapping[tuple[str, str], str] | None = None,
) -> Table:
    """The cells of a table.

    Args:
        source: Where the table stands.
        metrics: The names of its columns.
        rows: What is printed, by row, in the order of the metrics: numbers, or words.
        misprints: What is wrong, by row and metric.

    Raises:
        ConfigError: If a row has another length, or a misprint is of no cell.

    Example:
        >>> table("table 2", ["top1"], {"unshared": [74.93], "all": ["Diverged"]})["all"]["top1"]
        Printed(value=None, source='table 2', misprint='', word='Diverged')
    """
    wrong = dict(misprints or {})
    made: Table = {}
    for row, cells in rows.items():
        if len(cells) != len(metrics):
            raise ConfigError(f"{source}, row {row!r}: got {len(cells)} cells, need {len(metrics)}.")
        made[row] = {
            metric: Printed(None, source, wrong.pop((row, metric), ""), cell)
            if isinstance(cell, str)
            else Printed(float(cell), source, wrong.pop((row, metric), ""))
            for metric, cell in zip(metrics, cells, strict=True)
        }
    if wrong:
        raise ConfigError(f"{source} has no cell {', '.join(map(str, wrong))} of which a misprint is told.")
    return made
