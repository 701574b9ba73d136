"""How the learning rates and weight decays of Pogodin 2021 are found: every point of a grid, on held-out images.

Each point is a training of its own in a run directory of its own, so that a search that was stopped goes on with the
point that it was at. The best point is the one with the highest accuracy on the held-out images; a training that
diverges loses.

Source: Pogodin 2021, sections 5, B.1 and B.2; see `pogodin2021_protocol.tuned`. Differs: one run of each point, the
text does not say how many; of equally good points the first one, which is the one with the higher learning rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from weightshare.experiments.jobs import Job, Outcome, Place, Scale, Training, measured, plain
from weightshare.experiments.printed.pogodin2021 import GRIDS
from weightshare.experiments.studies import pogodin2021_protocol as paper
from weightshare.experiments.studies.pogodin2021_scales import training
from weightshare.training.recipe import RunConfig

HELD_OUT, SHORTER = 0.5, 2
"""Of `small`: the share of its trainings' images that is measured on instead, and by what their passes are divided."""
Point = tuple[float, float]


@dataclass(frozen=True)
class GridSearch(Job):
    """The best learning rate and weight decay of a cell.

    Args:
        training: The training of the cell, of its scale.
        dataset: One of `pogodin2021_protocol.TASKS`.
        points: Learning rates and weight decays that are tried, in order.
        printed: Those that the paper tried.
    """

    training: Training
    dataset: str
    points: Sequence[Point]
    printed: Sequence[Point]

    @property
    def config(self) -> dict[str, Any]:
        return {"search": [self._at(point).config for point in self.points]}

    def agrees(self, held: Mapping[str, Any]) -> bool:
        points = held.get("search", [])
        own = [self._at(point) for point in self.points]
        return len(points) == len(own) and all(one.agrees(point) for one, point in zip(own, points, strict=True))

    @property
    def changed(self) -> dict[str, Any]:
        fewer = {} if self.points == self.printed else {"points": plain(self.points)}
        return self._at(self.points[0]).changed | fewer

    def work(self, seeds: Sequence[int], place: Place) -> dict[int, Outcome]:
        return {seed: self._best(seed, place) for seed in seeds}

    def _best(self, seed: int, place: Place) -> Outcome:
        with measured() as cost:
            found = {point: self._at(point).work([seed], place)[seed] for point in self.points}
        reached = {point: one.metrics.get("accuracy", float("-inf")) for point, one in found.items()}
        lr, decay = max(reached, key=lambda point: reached[point])
        numbers = {f"lr{rate:g}-wd{of:g}": value for (rate, of), value in reached.items() if value >= 0}
        metrics = {f"{self.dataset}/lr": lr, f"{self.dataset}/weight_decay": decay}
        first, seconds = found[self.points[0]], sum(one.seconds for one in found.values())
        return Outcome(metrics, numbers, {}, seconds, first.data, cost["machine"])

    def _at(self, point: Point) -> Training:
        """The training at a point, which measures accuracy on what is held out."""

        def settings(seed: int, runs: Path) -> RunConfig:
            return paper.tuned(self.training.settings(seed, runs), self.dataset, *point)

        row = f"{self.training.row}-lr{point[0]:g}-wd{point[1]:g}"
        deltas = {key: value for key, value in self.training.deltas.items() if key != "train.lr"}
        return Training(settings, row, self.training.column, deltas)


def search(row: str, dataset: str, padding: int, scale: Scale) -> GridSearch:
    """The search for a cell of tables 9 to 11.

    Args:
        row: One of `pogodin2021_protocol.ROWS`.
        dataset: One of `pogodin2021_protocol.TASKS`.
        padding: 0, 4 or 8 pixels.
        scale: How much of it; `smoke` tries the first and the last point.
    """
    printed = list(product(*GRIDS[dataset, "conv" if row == "conv" else "lc"]))
    made = training(row, dataset, padding, scale)
    if scale == "small":
        epochs = made.deltas["train.epochs"] // SHORTER
        made = replace(made, deltas={**made.deltas, "prepare.validation": HELD_OUT, "train.epochs": epochs})
    points = [printed[0], printed[-1]] if scale == "smoke" else printed
    return GridSearch(made, dataset, points, printed)
