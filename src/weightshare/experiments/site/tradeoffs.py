"""Accuracy against stored numbers, over all methods: one picture for each task, which is a data set at a scale."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import math
import statistics

from weightshare.experiments.cells import Kept, mean, spread
from weightshare.experiments.jobs import Outcome, Scale
from weightshare.experiments.site.drawing import Point
from weightshare.experiments.table import Metric, Table
from weightshare.experiments.view import LESS

STORED = "stored"


@dataclass(frozen=True)
class Network:
    """A row of a table, as a point.

    Args:
        table: Which holds it.
        row: Its name.
        metric: What was measured, and whether it is 100 less an error.
        point: Where it stands.
        runs: How many.
    """

    table: Table
    row: str
    metric: str
    point: Point
    runs: int


Task = tuple[str, Scale]
"""A data set by its name, and a scale."""


def tasks(held: Iterable[tuple[Table, Scale, Kept]]) -> Mapping[Task, list[Network]]:
    """The networks of each task, those of one table together; tasks that have but one are left out.

    Args:
        held: Tables that hold cells of their own, at scales that are meant to show something.
    """
    found: dict[Task, list[Network]] = {}
    for table, scale, kept in held:
        for (row, column), outcomes in kept.found.items():
            named, data = _accuracy(table.columns[column]), table.job(row, column, scale).config.get("data")
            one = _network(table, row, named, outcomes) if named and data else None
            if one is not None:
                found.setdefault((str(data), scale), []).append(one)
    return {task: networks for task, networks in found.items() if len(networks) > 1}


def _accuracy(metrics: Mapping[str, Metric]) -> tuple[str, Metric] | None:
    """The first metric in percent that is an accuracy or an error."""
    percent = {name: one for name, one in metrics.items() if one.unit == "%" and not name.endswith(LESS)}
    usable = [(name, one) for name, one in percent.items() if one.better == "high" or "error" in f"{name} {one.title}"]
    return usable[0] if usable else None


def _network(table: Table, row: str, named: tuple[str, Metric], outcomes: Mapping[int, Outcome]) -> Network | None:
    name, kind = named
    stored = [one.metrics.get(STORED, one.numbers.get(STORED)) for one in outcomes.values()]
    counted, value = [one for one in stored if one], mean(outcomes, name)
    if not counted or value is None or math.isnan(value):
        return None
    is_error = kind.better == "low"
    metric = f"100 less {kind.title}" if is_error else kind.title
    point = Point(statistics.fmean(counted), 100 - value if is_error else value, spread(outcomes, name))
    return Network(table, row, metric, point, len(outcomes))
