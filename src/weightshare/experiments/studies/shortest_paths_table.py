"""The figure of the shortest paths as a table: what a row trains at each scale, and what is read off it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
import statistics
from typing import Any

import torch

from weightshare.experiments.jobs import Calculation, Outcome, Scale
from weightshare.experiments.studies.savarese2019_pictures import GRID
from weightshare.experiments.studies.shortest_paths import Row, Schedule, Task, marks, train, trained_model
from weightshare.experiments.studies.shortest_paths_picture import FRESH, PIXELS
from weightshare.experiments.table import Metric
from weightshare.training.data.shortest_paths import Grids

TITLES: Mapping[str, str] = {
    "plain": "a kernel for each layer",
    "templates-4": "4 templates",
    "templates-4-lsm0.01": "4 templates, layers driven to be alike",
    "plain-fresh": "a kernel for each layer, new grids in each step",
    "templates-4-fresh": "4 templates, new grids in each step",
    "templates-4-lsm0.01-fresh": "4 templates, layers driven to be alike, new grids in each step",
}
ROWS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "templates-4": {"templates": 4, "lr": 8e-3},
    "templates-4-lsm0.01": {"templates": 4, "lr": 8e-3, "similarity": 0.01},
}
SIZES: Mapping[Scale, tuple[Mapping[str, Any], Task, Schedule]] = {
    "smoke": (
        {"width": 5, "depth": 5, "grids": 12},
        Task(((1, 1), (2, 2), (3, 3), (4, 4)), size=7, longest=6, larger=9, held_out=5),
        Schedule(steps=4, batch=3, warmup=2, every=3, precision="float32"),
    ),
    "small": ({"width": 16, "depth": 32, "grids": 192}, Task(), Schedule(precision="float32")),
    "paper": (
        {"width": 32, "depth": 100, "grids": 5120},
        Task(((1, 6), (7, 12), (13, 18), (19, 24)), size=32, longest=40, larger=64),
        Schedule(steps=50 * 160, warmup=160, every=160),
    ),
}
"""The network and how many grids a phase has, the grids, the steps. 50 epochs a phase, as the poster has, in all."""

METRICS = {
    "params": Metric("parameters", "thousand", "low", 1),
    "adaptation": Metric("IoU right after a change of phase"),
    "phases": Metric("IoU through phases 2 to 4"),
    **{f"phase{number}": Metric(f"IoU at the end of phase {number}") for number in (1, 2, 3, 4)},
    "trained": Metric("IoU in the end, trained distances"),
    "beyond": Metric("IoU in the end, longer distances"),
    "larger": Metric("IoU in the end, longer, larger grids"),
    "similarity": Metric("mean of the layer similarity matrix", "", "", 3),
}


def paths(row: str, column: str, scale: Scale) -> Calculation:
    """The training of a row."""
    return Calculation(walked, _arguments(row, scale), _arguments(row, "paper"), folder=True)


def walked(seed: int, folder: Path, row: str, **sizes: Any) -> Outcome:
    """Train a network through all phases and measure it; what is done already in the folder is not repeated.

    Args:
        seed: Of the start and of the grids.
        folder: Of runs.
        row: Its name, for the run's folder.
        sizes: Of `Row`, `Task` and `Schedule`, by name.
    """
    phases = tuple((low, high) for low, high in sizes.pop("phases"))
    made = {kind: {field.name: sizes[field.name] for field in fields(kind) if field.name in sizes} for kind in KINDS}
    task = Task(phases, **made[Task])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = {row: Row(**made[Row])}
    run = train(row, seed, folder, task, Schedule(**made[Schedule]), rows, device)
    seen = curves(run, task) | (marked(row, folder, rows, task) if seed == 0 else {})
    return Outcome(measures(run, task), {"stored": run["stored"]}, seen, run["seconds"])


def measures(run: Mapping[str, Any], task: Task) -> dict[str, float]:
    """The metrics of a run, as `train` returns it: IoU in percent."""
    of_phase = [[100 * one["iou"] for one in run["curve"] if one["phase"] == at] for at in range(len(task.phases))]
    last = _last(task)
    near = [one["iou"] for one in run["distances"] if one["distance"] <= last]
    far = {key: [one["iou"] for one in run[key] if one["distance"] > last] for key in ("distances", "larger")}
    found = {
        "params": run["stored"] / 1000,
        "adaptation": statistics.fmean(scores[0] for scores in of_phase[1:]),
        "phases": statistics.fmean(statistics.fmean(scores[1:]) for scores in of_phase[1:]),
        **{f"phase{number}": scores[-1] for number, scores in enumerate(of_phase, 1)},
        "trained": 100 * statistics.fmean(near),
        "beyond": 100 * statistics.fmean(far["distances"]),
        "larger": 100 * statistics.fmean(far["larger"]),
    }
    end = run["curve"][-1]
    return found | ({"similarity": end["likeness"]} if "likeness" in end else {})


def curves(run: Mapping[str, Any], task: Task) -> dict[str, Sequence[float | None]]:
    """What pictures need of a run: scores through the phases and over distances, matrices as pairs of layers."""
    found: dict[str, Sequence[float | None]] = {"trained": [task.phases[0][0], _last(task)]}
    for key in ("step", "phase", "iou", "whole", "likeness"):
        if key in run["curve"][0]:
            found[key] = [_short(one[key]) for one in run["curve"]]
    for key in ("distances", "larger"):
        found[key] = [one["distance"] for one in run[key]]
        found[f"{key}_iou"] = [_short(one["iou"]) for one in run[key]]
    for one in run["curve"]:
        if "matrix" in one:
            found[f"{GRID}@{one['step']}"] = [line[j] for i, line in enumerate(one["matrix"]) for j in range(i)]
    return found


def marked(row: str, folder: Path, rows: Mapping[str, Row], task: Task) -> dict[str, Sequence[float | None]]:
    """Held-out grids and what the network of the first seed marks, at four distances; each the first, not chosen."""
    model, last, found = trained_model(row, 0, folder, rows), _last(task), {}
    for distance in (max(1, last // 2), last, min(last + 2, task.longest), (last + task.longest + 1) // 2):
        grids = task.measured_on((distance, distance))
        one = Grids(*(part[:1] for part in grids))
        query, closed = one.inputs[0].bool()
        truth = torch.where(query, PIXELS.index("Q"), torch.where(closed, PIXELS.index("#"), 2 * one.on_path[0].long()))
        found[f"truth@{distance}"] = truth.flatten().tolist()
        found[f"marks@{distance}"] = (marks(model, one.inputs, "float32") > 0).flatten().long().tolist()
    return found


KINDS: tuple[type[Row] | type[Task] | type[Schedule], ...] = (Row, Task, Schedule)


def _arguments(row: str, scale: Scale) -> dict[str, Any]:
    network, task, schedule = SIZES[scale]
    made = Row(**{**network, **ROWS[row.removesuffix(FRESH)], **({"grids": 0} if row.endswith(FRESH) else {})})
    return {"row": row, **asdict(made), **asdict(task), **asdict(schedule)}


def _last(task: Task) -> int:
    """The longest distance that is trained on."""
    return max(high for _, high in task.phases)


def _short(value: float) -> float:
    return value if isinstance(value, int) else round(value, 4)
