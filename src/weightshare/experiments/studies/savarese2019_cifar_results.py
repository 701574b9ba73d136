"""What came out of wide ResNets on CIFAR-10: a result for each row, how rows differ, how layers became alike."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import correlation
from typing import Any

from weightshare._table import render
from weightshare.analysis.lsm import draw_evolution
from weightshare.analysis.pictures import draw_curves
from weightshare.depth.fold import plan_loops
from weightshare.depth.lsm import mean_similarity
from weightshare.depth.measure import Similarity
from weightshare.depth.record import Evolution
from weightshare.experiments.studies.results import Result, compared, save_png
from weightshare.experiments.studies.savarese2019_cifar import PAPER, ROWS, TABLE, config
from weightshare.experiments.studies.tested import all_test_images, config_of, tested
from weightshare.files.atomic import read_json, write_json
from weightshare.files.evolution import load_evolution
from weightshare.training.data import Data, load_data
from weightshare.training.keeper import EVOLUTION
from weightshare.training.loop import evaluate
from weightshare.training.recipe import RunConfig
from weightshare.training.run import ENVIRONMENT, read_history, run, trained

NOTES = (
    "See studies.savarese2019_cifar for what is reduced. Accuracy on all test images, once, after training; stored "
    "numbers are of the whole network. Seconds are of one core that did other things too. Trained from a copy of the "
    "tree, so the commit is not recorded."
)
FOLDED, THRESHOLD = "folded.json", 0.99
MOMENTS = (0.0, 0.02, 0.1, 1.0)
"""Fractions of the training at which the poster shows similarities."""
COLUMNS = ("row", "width", "templates", "error (%)", "seeds", "training (%)", "stored", "poster (%)", "minutes")
PAIRS = (
    ("swrn-6", "wrn"),
    ("swrn-2", "wrn"),
    ("swrn-2", "swrn-6"),
    ("swrn-2-wide", "wrn"),
    ("swrn-2-similar", "swrn-2"),
    ("swrn-2-similar-weak", "swrn-2"),
)
"""Which rows are compared: the first less the second."""
KEYS = ("train_loss", "train_accuracy", "test_accuracy", "layer_similarity")
History = list[dict[str, float]]


def cifar(
    out: str | Path,
    rows: Mapping[str, Sequence[int]],
    results: str | Path,
    data: str = "cifar10",
    data_dir: str | None = None,
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Train what is missing of the table, test it, and write results, curves, similarities and pictures.

    Args:
        out: Where the run directories are; what is finished there is not repeated.
        rows: For each row of the table its seeds.
        results: Folder of results.
        data: CIFAR-10, or other images in memory.
        data_dir: Where it lies.
        echo: Gets the tables as text.

    Returns:
        One result for each row.
    """
    whole = load_data(data, data_dir)
    written: list[Result] = []
    curves: dict[str, list[History]] = {}
    evolutions: dict[str, dict[int, Evolution]] = {}
    for row, seeds in rows.items():
        configs = [config(row, seed, out, data, data_dir) for seed in seeds]
        summaries = [run(settings, label=Path(settings.out).name) for settings in configs]
        curves[row] = [read_history(settings.out) for settings in configs]
        if ROWS[row].templates is not None:
            folders = {seed: Path(settings.out) for seed, settings in zip(seeds, configs, strict=True)}
            evolutions[row] = {seed: load_evolution(folder / EVOLUTION) for seed, folder in folders.items()}
        last = [history[-1] for history in curves[row]]
        like = ROWS[row].like
        result = Result(
            paper=PAPER,
            table=TABLE,
            run=row,
            metric="test_accuracy",
            values=[tested(settings, whole) for settings in configs],
            seeds=list(seeds),
            config=config_of(summaries[0], data),
            environment=read_json(Path(configs[0].out) / ENVIRONMENT),
            seconds=[sum(epoch["seconds"] for epoch in history) for history in curves[row]],
            numbers={
                "stored": summaries[0]["stored"],
                "macs": summaries[0]["macs"],
                "train_accuracy": _mean([one["train_accuracy"] for one in last]),
                "validation_accuracy": _mean([one["test_accuracy"] for one in last]),
                **_similarity(list(evolutions.get(row, {}).values())),
                **_means([folded(settings, whole) for settings in configs if row in evolutions]),
            },
            paper_value=None if like is None else 1 - like[1] / 100,
            source="" if like is None else f"Savarese 2019, the poster's table of CIFAR: {like[0]}, 200 epochs",
            notes=NOTES,
        )
        result.write(results)
        written.append(result)
    folder = Path(results) / PAPER / TABLE
    write_json(folder / "curves.json", {row: [_short(history) for history in runs] for row, runs in curves.items()})
    save_png(draw_curves(curves, "test_accuracy", "validation accuracy"), folder / "accuracy.png")
    if evolutions:
        write_json(folder / "similarity.json", {row: _matrices(runs) for row, runs in evolutions.items()})
        alike = {row: curves[row] for row in evolutions}
        save_png(draw_curves(alike, "layer_similarity", "mean |cos| of layers"), folder / "similarity.png")
        for row, runs in evolutions.items():
            save_png(draw_evolution(next(iter(runs.values())), MOMENTS), folder / f"lsm-{row}.png")
    echo(f"{table(written)}\n\n{differences(written)}\n\n{moments(written)}\n\n{folds(written)}")
    return written


def folded(settings: RunConfig, whole: Data) -> dict[str, float]:
    """What folding a finished run of a shared network leaves and costs; measured once, and kept beside the run.

    Args:
        settings: Of the run.
        whole: The data set before it was prepared; images are normalised as those that the run learnt from.

    Returns:
        `layers` that mix templates, `layers_left` of them, `folded_stored` numbers and `folded_accuracy` on all test
        images.
    """
    kept = Path(settings.out) / FOLDED
    if not kept.is_file():
        model, data = trained(settings.out)
        split = all_test_images(whole, data)
        planned = plan_loops(model, THRESHOLD)
        layers = sum(group.layers for group in planned.groups)
        found = {"layers": layers, "layers_left": layers - planned.removed, "folded_stored": planned.stored_after}
        write_json(kept, found | {"folded_accuracy": evaluate(planned.fold(model), split)[1]})
    return read_json(kept)


def table(results: Sequence[Result]) -> str:
    """The results as a text table."""
    return render(COLUMNS, [_row(result) for result in results], numbers=COLUMNS[1:])


def differences(results: Sequence[Result]) -> str:
    """Rows less other rows in points of accuracy, with a standard error, as a text table; see `compared`."""
    return compared(results, PAIRS, {row: 100 - made.like[1] for row, made in ROWS.items() if made.like})


def moments(results: Sequence[Result]) -> str:
    """How alike layers are through the training, as a text table: `|cos|` over pairs of layers, and what it follows.

    A moment's likeness to the end is the correlation over pairs of `|cos|` then and at the end: 1 where the pattern is
    there already. Above 0 at the start it is the pattern that was drawn.
    """
    times = [f"{100 * fraction:g} %" for fraction in MOMENTS]
    columns = ("row", *(f"|cos|, {time}" for time in times), *(f"as end, {time}" for time in times[:-1]))
    rows = []
    for result in results:
        if _key("similarity", 0.0) in result.numbers:
            keys = [_key("similarity", fraction) for fraction in MOMENTS]
            keys += [_key("like_end", fraction) for fraction in MOMENTS[:-1]]
            rows.append((result.run, *(f"{result.numbers[key]:.2f}" for key in keys)))
    return render(columns, rows, numbers=columns[1:])


def folds(results: Sequence[Result]) -> str:
    """What is left of each shared network once layers that are parallel are one, as a text table; means over seeds."""
    columns = ("row", "layers", f"left at {THRESHOLD}", "stored", "stored then", "error (%)", "error then (%)")
    rows = []
    for result in results:
        if "layers" in result.numbers:
            found = result.numbers
            counts = (f"{found[key]:g}" for key in ("layers", "layers_left"))
            stored = (f"{found[key]:,.0f}" for key in ("stored", "folded_stored"))
            errors = (f"{100 * (1 - value):.2f}" for value in (result.mean, found["folded_accuracy"]))
            rows.append((result.run, *counts, *stored, *errors))
    return render(columns, rows, numbers=columns[1:])


def _row(result: Result) -> tuple[Any, ...]:
    made = ROWS[result.run]
    return (
        result.run,
        f"{made.width:g}",
        "" if made.templates is None else made.templates,
        f"{100 * (1 - result.mean):.2f}",
        " ".join(f"{100 * (1 - value):.2f}" for value in result.values),
        f"{100 * result.numbers['train_accuracy']:.1f}",
        int(result.numbers["stored"]),
        "" if result.paper_value is None else f"{100 * (1 - result.paper_value):.2f}",
        f"{_mean(result.seconds) / 60:.1f}",
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: _mean([one[key] for one in found]) for key in (found[0] if found else ())}


def _key(name: str, fraction: float) -> str:
    return f"{name}_at_{fraction:g}"


def _similarity(runs: Sequence[Evolution]) -> dict[str, float]:
    """How alike layers are at each moment, and how like the end that is: means over pairs, groups and seeds."""
    found = {}
    for fraction in MOMENTS if runs else ():
        each = [one.similarity(one.nearest(fraction)) for one in runs]
        found[_key("similarity", fraction)] = _mean([mean_similarity(one) for one in each])
        pairs = [_pairs(one) for one in each]
        ends = [_pairs(one.similarity(-1)) for one in runs]
        found[_key("like_end", fraction)] = _mean([_like(*both) for both in zip(pairs, ends, strict=True)])
    return found


def _like(one: list[float], other: list[float]) -> float:
    """The correlation; 0 where one of both is the same for all pairs up to rounding: as many templates as layers."""
    flat = any(max(values) - min(values) < 1e-6 for values in (one, other))
    return 0.0 if flat else correlation(one, other)


def _pairs(found: Mapping[str, Similarity]) -> list[float]:
    """The similarity of each pair of layers, of all groups."""
    matrices = [one.values.tolist() for one in found.values()]
    return [matrix[j][i] for matrix in matrices for j in range(len(matrix)) for i in range(j)]


def _matrices(runs: Mapping[int, Evolution]) -> dict[str, Any]:
    """For each seed and each moment that is shown, by its step, the matrices of all groups."""
    return {
        str(seed): {
            str(one.steps[moment]): {
                name: [[round(value, 4) for value in line] for line in found.values.tolist()]
                for name, found in one.similarity(moment).items()
            }
            for moment in sorted({one.nearest(fraction) for fraction in MOMENTS})
        }
        for seed, one in runs.items()
    }


def _short(history: History) -> dict[str, list[float]]:
    return {key: [round(row[key], 6) for row in history] for key in KEYS if key in history[0]}
