"""What came out of CIFAR-10 with a local ResNet: a result for each row, curves of accuracy and of `−log SNR`."""

from collections.abc import Callable, Mapping, Sequence
import math
from pathlib import Path
from typing import Any

from weightshare._table import render
from weightshare.analysis.pictures import draw_curves
from weightshare.experiments.studies.local_cifar import EARLY, PAPER, PUBLISHED, TABLE, WHOLE, config
from weightshare.experiments.studies.results import Result, save_png
from weightshare.experiments.studies.tested import config_of
from weightshare.files.atomic import read_json, write_json
from weightshare.training.run import ENVIRONMENT, read_history, run
from weightshare.training.snapshot import NOISE

SOURCE = "Pogodin 2021, table 1, CIFAR-10"
NOTES = (
    "See studies.local_cifar for what is reduced. JPEG copies of CIFAR-10. Trained from a copy of the tree, so the "
    "commit is not recorded; minutes are of cores that did other things too."
)
COLUMNS = ("row", "test (%)", "seeds", "training (%)", "noise within", "over positions", "paper (%)", "minutes")
KEYS = ("train_accuracy", "test_accuracy", *NOISE)
History = list[dict[str, float]]


def table1(
    out: str | Path,
    rows: Mapping[str, Sequence[int]],
    results: str | Path,
    data: str = "cifar10",
    data_dir: str | None = None,
    whole: bool = False,
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Train what is missing of the table, and write results, curves and pictures.

    Args:
        out: Where the run directories are; what is finished there is not repeated.
        rows: For each row of the table its seeds.
        results: Folder of results.
        data: CIFAR-10, or other images in colour.
        data_dir: Where it lies.
        whole: All training images for few epochs instead of a tenth for many.
        echo: Gets the table as text.

    Returns:
        One result for each row.
    """
    name = WHOLE if whole else TABLE
    written: list[Result] = []
    curves: dict[str, list[History]] = {}
    for row, seeds in rows.items():
        configs = [config(row, seed, out, data, data_dir, whole) for seed in seeds]
        summaries = [run(settings, label=Path(settings.out).name) for settings in configs]
        curves[row] = [read_history(settings.out) for settings in configs]
        last = [history[-1] for history in curves[row]]
        means = {key: sum(one[key] for one in last) / len(last) for key in KEYS if key in last[0]}
        result = Result(
            paper=PAPER,
            table=name,
            run=row,
            metric="test_accuracy",
            values=[summary["accuracy"] for summary in summaries],
            seeds=list(seeds),
            config=config_of(summaries[0], data),
            environment=read_json(Path(configs[0].out) / ENVIRONMENT),
            seconds=[summary["training_seconds"] for summary in summaries],
            numbers={**means, "stored": summaries[0]["stored"]},
            paper_value=PUBLISHED[row] / 100,
            source=SOURCE,
            notes=EARLY if whole else NOTES,
        )
        result.write(results)
        written.append(result)
    folder = Path(results) / PAPER / name
    write_json(folder / "curves.json", {row: [_short(history) for history in runs] for row, runs in curves.items()})
    save_png(draw_curves(curves, "test_accuracy", "test accuracy"), folder / "accuracy.png")
    save_png(draw_curves(curves, "train_accuracy", "training accuracy"), folder / "training.png")
    logs = {row: [_logs(history) for history in runs] for row, runs in curves.items() if NOISE[1] in runs[0][0]}
    if logs:
        save_png(draw_curves(logs, "log", "−log SNR over positions"), folder / "snr.png")
    echo(table(written))
    return written


def table(results: Sequence[Result]) -> str:
    """The results as a text table."""
    return render(COLUMNS, [_row(result) for result in results], numbers=COLUMNS[1:])


def _row(result: Result) -> tuple[Any, ...]:
    noise = [f"{result.numbers[key]:.3g}" if key in result.numbers else "" for key in NOISE]
    return (
        result.run,
        f"{100 * result.mean:.2f}",
        " ".join(f"{100 * value:.1f}" for value in result.values),
        f"{100 * result.numbers['train_accuracy']:.1f}",
        *noise,
        f"{100 * result.paper_value:.1f}" if result.paper_value is not None else "",
        f"{sum(result.seconds) / len(result.seconds) / 60:.0f}",
    )


def _logs(history: History) -> History:
    return [{"epoch": row["epoch"], "log": math.log(row[NOISE[1]])} for row in history]


def _short(history: History) -> dict[str, list[float]]:
    return {key: [round(row[key], 6) for row in history] for key in KEYS if key in history[0]}
