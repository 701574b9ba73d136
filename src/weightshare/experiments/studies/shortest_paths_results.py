"""What came out of the shortest paths: a table, curves, and what networks mark; and the figure of the command line."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
import math
from pathlib import Path
import statistics
from typing import Any

import torch

from weightshare._table import render
from weightshare.analysis.heat import draw_similarity
from weightshare.depth.measure import Similarity
from weightshare.errors import ConfigError
from weightshare.experiments.studies.results import Result, save_png
from weightshare.experiments.studies.shortest_paths import (
    FEW,
    PAPER,
    ROWS,
    TABLE,
    WHERE,
    Row,
    Schedule,
    Task,
    marks,
    train,
    trained_model,
)
from weightshare.experiments.studies.shortest_paths_picture import Runs, draw_distances, draw_marks, draw_phases
from weightshare.files.atomic import read_json, write_json, write_text
from weightshare.training.data.shortest_paths import Grids

SEEDS = (0, 1, 2)
SIZES = ("distances", "larger")  # where a run has scores for each distance
NOTES = (
    "IoU: pixels both marked and on some shortest path over pixels that are either, mean over 256 held-out grids of a "
    "distance. 'never trained' is the mean over distances that no phase had. Our sizes and budget; the poster has no "
    "numbers for this experiment, only curves. Trained from a copy of the tree, so the commit is not recorded."
)


def collected(
    out: str | Path,
    results: str | Path,
    seeds: Sequence[int] = SEEDS,
    task: Task | None = None,
    schedule: Schedule | None = None,
    rows: Mapping[str, Row] = ROWS,
    echo: Callable[[str], None] = print,
    table: str = TABLE,
) -> list[Result]:
    """Train what is missing, and write results, the table as text, and pictures.

    Args:
        out: Where single runs are kept; one that was stopped goes on.
        results: Folder that gets `savarese2019/shortest-paths/`: a file for each row, `examples.json`, `table.txt`,
            `phases.png`, `distances.png`, `marks.png` and, with templates, `likeness.png`.
        seeds: Of every row.
        task: The grids.
        schedule: The steps.
        rows: The networks.
        echo: Gets the table.
        table: Name of the folder.

    Returns:
        One result for each row: the IoU on distances never trained on, for each seed.

    Raises:
        ConfigError: If there is no seed, or every distance is trained on.
    """
    task, schedule = task or Task(), schedule or Schedule()
    last = max(high for _, high in task.phases)
    if not seeds or last >= task.longest:
        raise ConfigError(
            f"seeds={list(seeds)}, trained up to {last} of {task.longest} steps: need a seed, and distances that are "
            "never trained on. Set a longer Task.longest."
        )
    # By seeds first: what is there when time runs out is whole.
    order = [(name, seed) for seed in seeds for name in rows]
    found = {(name, seed): train(name, seed, out, task, schedule, rows) for name, seed in order}
    runs = {name: [found[name, seed] for seed in seeds] for name in rows}
    written = [_result(table, name, of_seeds, seeds, task) for name, of_seeds in runs.items()]
    for result in written:
        result.write(results)
    folder = Path(results) / PAPER / table
    curves = {name: [_kept(run) for run in of_seeds] for name, of_seeds in runs.items()}
    write_json(folder / "curves.json", curves)
    write_json(folder / "examples.json", examples(seeds[0], out, task, schedule, rows))
    text = tables(runs, task)
    write_text(folder / "table.txt", f"{text}\n")
    draw(folder, task)
    echo(text)
    return written


def draw(folder: str | Path, task: Task) -> None:
    """Draw the pictures of a folder of results from its files."""
    folder = Path(folder)
    curves = read_json(folder / "curves.json")
    trained = task.phases[0][0], max(high for _, high in task.phases)
    save_png(draw_phases(curves, task.phases), folder / "phases.png")
    save_png(draw_distances(curves, trained, {"distances": task.size, "larger": task.larger}), folder / "distances.png")
    save_png(draw_marks(read_json(folder / "examples.json")), folder / "marks.png")
    alike = {name: of_seeds[0]["likeness"] for name, of_seeds in curves.items() if of_seeds[0]["likeness"]}
    if alike:
        matrices = {
            name: Similarity("|cos| of coefficients", names, names, torch.tensor(matrix))
            for name, matrix in alike.items()
            for names in [tuple(WHERE.replace("*", str(layer)) for layer in range(len(matrix)))]
        }
        save_png(draw_similarity(matrices), folder / "likeness.png")


def draw_shortest_paths(
    out: str | Path,
    seeds: Sequence[int] = SEEDS,
    input_mean: float = 0.0,
    runs: str | Path = "runs",
    task: Task | None = None,
    schedule: Schedule | None = None,
    rows: Mapping[str, Row] = ROWS,
    table: str = TABLE,
) -> tuple[str, Path]:
    """Train what is missing, and make table and pictures: see `collected`.

    Args:
        out: Folder of results.
        seeds: At most the first three are trained.
        input_mean: Of the simulated figures; 0 here.
        runs: Single runs are kept in a folder below it.
        task: The grids.
        schedule: The steps.
        rows: The networks.
        table: Name of the folders.

    Returns:
        The table, and the path of the first picture.

    Raises:
        ConfigError: If `input_mean` is given, which grids do not have.
    """
    if input_mean:
        raise ConfigError(f"Grids have no input_mean={input_mean}: it is for the simulated figures.")
    said: list[str] = []
    collected(Path(runs) / table, out, list(seeds)[: len(SEEDS)], task, schedule, rows, said.append, table)
    return said[0], Path(out) / PAPER / table / "phases.png"


FIGURES = {
    TABLE: draw_shortest_paths,
    f"{TABLE}-few": partial(draw_shortest_paths, rows=FEW, table=f"{TABLE}-few"),
}
"""By name."""


def examples(
    seed: int, out: str | Path, task: Task, schedule: Schedule, rows: Mapping[str, Row] = ROWS
) -> dict[str, Any]:
    """Held-out grids, and what the networks of a seed mark: half as far apart as the last that was trained, as far, a
    little farther, and half way from there to the longest. They are the first ones of each distance, not chosen."""
    last = max(high for _, high in task.phases)
    models = {name: trained_model(name, seed, out, rows) for name in rows}
    shown = []
    for distance in (max(1, last // 2), last, min(last + 2, task.longest), (last + task.longest + 1) // 2):
        grids = task.measured_on((distance, distance))
        one = Grids(*(part[:1] for part in grids))
        marked = {name: _text((marks(model, one.inputs, schedule.precision) > 0)[0]) for name, model in models.items()}
        shown.append({"distance": distance, "trained": _trained(distance, task), "truth": _truth(one), "marks": marked})
    return {"seed": seed, "grids": shown}


def tables(runs: Runs, task: Task) -> str:
    """Through the phases, by distance, over all distances, and differences to the first row, seed by seed."""
    columns = ("network", "stored", *(f"{low}–{high}" for low, high in task.phases), "minutes")
    rows = []
    for title, score in (("at the start", _at_start), ("mean", _through), ("at the end", _at_end)):
        for name, of_seeds in runs.items():
            values = [_text_of([score(run, phase) for run in of_seeds]) for phase in range(len(task.phases))]
            minutes = statistics.fmean(run["seconds"] for run in of_seeds) / 60
            rows.append((f"{name}, {title}", of_seeds[0]["stored"], *values, f"{minutes:.1f}"))
    parts = [
        "IoU on held-out grids of each phase: right after the change to it, mean over its measurements, at its end\n\n"
        + render(columns, rows, numbers=columns[1:])
    ]
    groups = ranges(task)
    columns = ("network", *(f"{low}–{high}" for low, high in groups))
    rows = [
        (name, *(_text_of([mean_over(run, "distances", *group) for run in of_seeds]) for group in groups))
        for name, of_seeds in runs.items()
    ]
    last = max(high for _, high in task.phases)
    parts.append(
        f"IoU at the end of training, by distance; none above {last} was trained on\n\n"
        + render(columns, rows, numbers=columns[1:])
    )
    columns = ("network", "trained", "never trained", "trained, larger", "never trained, larger", "LSM")
    rows = []
    for name, of_seeds in runs.items():
        values = [[mean(run, key, task) for run in of_seeds] for key in SIZES for mean in (_within, beyond)]
        rows.append((name, *map(_text_of, values), _text_of(_likeness(of_seeds))))
    parts.append(
        f"The same over all distances; larger: on {task.larger}×{task.larger} pixels; LSM: mean of the layer "
        "similarity matrix\n\n" + render(columns, rows, numbers=columns[1:])
    )
    first, *others = runs
    columns = (f"less {first}, seed by seed", "phases, mean", "trained", "never trained", "larger, never trained")
    rows = []
    for name in others:
        apart = []
        for measure in (
            lambda run: statistics.fmean(_through(run, phase) for phase in range(1, len(task.phases))),
            partial(_within, key="distances", task=task),
            partial(beyond, key="distances", task=task),
            partial(beyond, key="larger", task=task),
        ):
            pairs = zip(runs[name], runs[first], strict=True)
            apart.append(_text_of([measure(one) - measure(other) for one, other in pairs], "+"))
        rows.append((name, *apart))
    if others:
        parts.append(
            "Differences of IoU; phases after the first one, mean over all measurements in them\n\n"
            + render(columns, rows, numbers=columns[1:])
        )
    return "\n\n".join([*parts, "± is the standard error over seeds."])


def ranges(task: Task) -> list[tuple[int, int]]:
    """The distances of the phases, then those never trained on, by fours."""
    last = max(high for _, high in task.phases)
    return [*task.phases, *((low, min(low + 3, task.longest)) for low in range(last + 1, task.longest + 1, 4))]


def mean_over(run: Mapping[str, Any], key: str, low: int, high: int) -> float:
    """The IoU over distances of a range."""
    return statistics.fmean(one["iou"] for one in run[key] if low <= one["distance"] <= high)


def beyond(run: Mapping[str, Any], key: str, task: Task) -> float:
    """The IoU over distances that no phase had."""
    return statistics.fmean(one["iou"] for one in run[key] if not _trained(one["distance"], task))


def _within(run: Mapping[str, Any], key: str, task: Task) -> float:
    return statistics.fmean(one["iou"] for one in run[key] if _trained(one["distance"], task))


def _likeness(of_seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    """The mean of the layer similarity matrix at the end, for each seed; nothing without templates."""
    return [run["curve"][-1]["likeness"] for run in of_seeds if "likeness" in run["curve"][-1]]


def _trained(distance: int, task: Task) -> bool:
    return any(low <= distance <= high for low, high in task.phases)


def _of_phase(run: Mapping[str, Any], phase: int) -> list[float]:
    return [one["iou"] for one in run["curve"] if one["phase"] == phase]


def _at_start(run: Mapping[str, Any], phase: int) -> float:
    return _of_phase(run, phase)[0]


def _through(run: Mapping[str, Any], phase: int) -> float:
    return statistics.fmean(_of_phase(run, phase)[1:])


def _at_end(run: Mapping[str, Any], phase: int) -> float:
    return _of_phase(run, phase)[-1]


def _result(table: str, name: str, of_seeds: Sequence[Mapping[str, Any]], seeds: Sequence[int], task: Task) -> Result:
    first = of_seeds[0]
    numbers: dict[str, float] = {"stored": first["stored"]}
    for phase, (low, high) in enumerate(task.phases):
        for key, measure in (("start", _at_start), ("mean", _through), ("end", _at_end)):
            numbers[f"iou_{key}_of_{low}_to_{high}"] = statistics.fmean(measure(run, phase) for run in of_seeds)
    for key in SIZES:
        numbers[f"iou_trained_{key}"] = statistics.fmean(_within(run, key, task) for run in of_seeds)
        numbers[f"iou_never_trained_{key}"] = statistics.fmean(beyond(run, key, task) for run in of_seeds)
    if _likeness(of_seeds):
        numbers["likeness"] = statistics.fmean(_likeness(of_seeds))
    return Result(
        paper=PAPER,
        table=table,
        run=name,
        metric="iou_never_trained",
        values=[beyond(run, "distances", task) for run in of_seeds],
        seeds=list(seeds),
        config={key: value for key, value in first["config"].items() if key != "seed"},
        environment=first["environment"],
        seconds=[run["seconds"] for run in of_seeds],
        numbers=numbers,
        source="poster, 'Extrapolation bias'",
        notes=NOTES,
    )


def _kept(run: Mapping[str, Any]) -> dict[str, Any]:
    """What pictures need of a run, to four digits."""

    def rounded(one: Mapping[str, float]) -> dict[str, float]:
        return {key: value if isinstance(value, int) else round(value, 4) for key, value in one.items()}

    lists = {key: [rounded(one) for one in run[key]] for key in ("curve", *SIZES)}
    return {"seed": run["config"]["seed"], **lists, "likeness": run["likeness"]}


def _truth(grids: Grids) -> list[str]:
    points, closed = grids.inputs[0].bool()
    text = [list(line) for line in _text(grids.on_path[0])]
    for row, column in points.nonzero().tolist():
        text[row][column] = "Q"
    for row, column in closed.nonzero().tolist():
        text[row][column] = "#"
    return ["".join(line) for line in text]


def _text(marked: Any) -> list[str]:
    return ["".join("*" if mark else "." for mark in line) for line in marked.tolist()]


def _text_of(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):{sign}.3f}±{error:.3f}"
