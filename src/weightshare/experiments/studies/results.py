"""Results: the one writer and reader of `results/<paper>/<table>/<run>.json`, which every experiment uses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
import json
import math
from pathlib import Path
import re
import statistics
from typing import TYPE_CHECKING, Any, Self

from weightshare._table import render
from weightshare.errors import ConfigError, FileError
from weightshare.files.atomic import read_json, replacing, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "weightshare.result/1"


@dataclass(frozen=True)
class Result:
    """One row of a table: a configuration, run with one or several seeds.

    Args:
        paper: Key of the paper, such as `lin2022`.
        table: Such as `table3`, or a name of ours where the paper has no such table.
        run: Name of the row.
        metric: What is measured, such as `test_accuracy`.
        values: The metric for each seed, in the order of `seeds`.
        seeds: The seeds.
        config: What the run depends on.
        environment: Versions, hardware and commit.
        seconds: Wall time of training, for each seed.
        numbers: Further counts: stored numbers, bytes, peak memory and the like.
        paper_value: The paper's number, or `None` where it has none.
        source: Where in the paper that number stands.
        notes: What differs from the paper's protocol.
    """

    paper: str
    table: str
    run: str
    metric: str
    values: Sequence[float]
    seeds: Sequence[int]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    seconds: Sequence[float]
    numbers: Mapping[str, float] = field(default_factory=dict)
    paper_value: float | None = None
    source: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        for name in ("paper", "table", "run"):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", getattr(self, name)):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}: need letters, digits, '.', '_' and '-', as in a file name."
                )
        if not self.values or len(self.values) != len(self.seeds) or len(self.seconds) != len(self.seeds):
            raise ConfigError(
                f"Result '{self.run}' has {len(self.values)} values and {len(self.seconds)} times for "
                f"{len(self.seeds)} seeds: need one of each for every seed."
            )

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (of a sample); 0 with one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def gap(self) -> float | None:
        """Ours less the paper's, or `None`."""
        return None if self.paper_value is None else self.mean - self.paper_value

    def write(self, root: str | Path) -> Path:
        """Write the result below `root` in one step, and return its path."""
        path = Path(root) / self.paper / self.table / f"{self.run}.json"
        write_json(path, {"format": FORMAT, **asdict(self), "mean": self.mean, "spread": self.spread, "gap": self.gap})
        return path

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a result.

        Raises:
            FileError: If the file is none, or of another format.
        """
        data = read_json(path)
        try:
            if data.pop("format") != FORMAT:
                raise FileError(f"'{path}' is no result of format {FORMAT!r}.")
            for derived in ("mean", "spread", "gap"):
                data.pop(derived)
            made = cls(**data)
            values = [*made.values, *made.seconds, *made.numbers.values()]
            values += [] if made.paper_value is None else [made.paper_value]
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                raise TypeError("values, seconds and numbers have to be finite numbers")
            return made
        except FileError:
            raise
        except (OverflowError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise FileError(f"'{path}' is no result file: {type(error).__name__}: {error}") from error


def pooled_deviation(results: Sequence[Result]) -> float:
    """One standard deviation over seeds for all rows: the root of the mean of their variances; 0 with one seed."""
    several = [result for result in results if len(result.values) > 1]
    freedom = sum(len(result.values) - 1 for result in several)
    squares = sum(result.spread**2 * (len(result.values) - 1) for result in several)
    return (squares / freedom) ** 0.5 if freedom else 0.0


def compared(
    results: Sequence[Result], pairs: Sequence[tuple[str, str]], published: Mapping[str, float] | None = None
) -> str:
    """Rows less other rows in points, with a standard error, as a text table.

    The error is that of a difference of two means over seeds, of the deviation that all rows have in common.

    Args:
        results: Whose values are fractions.
        pairs: For each line a row, and the one that is subtracted; lines of which there is only one are left out.
        published: For rows of the paper its value, in percent.
    """
    held, paper = {result.run: result for result in results}, published or {}
    deviation = pooled_deviation(results)
    rows = []
    for one, other in pairs:
        if one in held and other in held:
            a, b = held[one], held[other]
            error = deviation * (1 / len(a.values) + 1 / len(b.values)) ** 0.5
            gap = a.mean - b.mean
            counts = "" if not error else ("yes" if abs(gap) > 2 * error else "no")
            papers = f"{paper[one] - paper[other]:+.2f}" if {one, other} <= paper.keys() else ""
            rows.append((one, other, f"{100 * gap:+.2f}", f"± {100 * error:.2f}", counts, papers))
    columns = ("row", "less", "points", "error", "above two errors", "paper")
    return render(columns, rows, numbers=columns[2:])


def save_png(figure: "Figure", path: str | Path) -> None:
    """Write a picture beside its results, in one step."""
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=110, transparent=True)


def filled(page: str, blocks: Mapping[str, str], markdown: bool = False) -> str:
    """A page of text with what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` as it should be.

    Args:
        page: The text.
        blocks: What belongs between the markers, by name.
        markdown: Whether it is Markdown itself, and not to be shown letter by letter.

    Raises:
        ConfigError: If the page has no place, or several, for a block.
    """
    for name, text in blocks.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        inside = (f"\n{text}\n\n" if text else "") if markdown else f"```text\n{text}\n```\n"
        page, count = pattern.subn(lambda _, whole=begin + inside + end: whole, page)
        if count != 1:
            raise ConfigError(f"The page has {count} places for {name!r}, need one.")
    return page


def costs(path: str | Path, rows: Mapping[str, tuple[str, str, str]]) -> str:
    """A table of what benchmarks wrote to a file.

    Args:
        path: Of the JSON file.
        rows: By the name of a benchmark what was measured, over what, and the ratio that it should have.
    """
    ratios = json.loads(Path(path).read_text(encoding="utf-8"))["ratios"]
    found = [
        (what, over, f"{ratios[name]['ratio']:.3g}", goal, f"{ratios[name]['ours_seconds']:.3g}")
        for name, (what, over, goal) in rows.items()
        if name in ratios
    ]
    return render(("what", "over", "ratio", "goal", "seconds"), found, numbers=("ratio", "seconds"))
