"""What came out of a sweep, as results to be committed: one for each configuration, a picture and a table.

weightshare sweep examples/torus_sweep.yaml --out OUT
python -m weightshare.experiments.studies.sweep_results OUT torus
"""

from pathlib import Path
import sys
from typing import Any

from weightshare._table import render
from weightshare.analysis.comparison import SHARED, Configuration, answer, comparison_picture
from weightshare.errors import TrainingError
from weightshare.experiments.studies.results import Result, save_png
from weightshare.files.atomic import read_json, write_text
from weightshare.training.run import ENVIRONMENT
from weightshare.training.sweep import compared, read_folder

PAPER = "sweep"
HIDDEN = ("seed", "out", "data_dir", "init")
COLUMNS = ("accuracy (%)", "distinct (%)", "stored", "seconds", "starts")


def collect(folder: str | Path, table: str, results: str | Path) -> list[Result]:
    """Write the results of a sweep that is done.

    Args:
        folder: Of the sweep.
        table: Name of the folder below `results/sweep`.
        results: Folder of results.

    Returns:
        One result for each configuration, in the order of the sweep.

    Raises:
        TrainingError: If a run is missing, or failed.
    """
    held = compared(*read_folder(folder))
    left = [run.name for run in held.runs if not run.ended]
    if left:
        raise TrainingError(f"The sweep '{folder}' is not done: {', '.join(left)}. Start it again.")
    written = [_result(Path(folder), table, one, held.metric) for one in held.configurations]
    for result in written:
        result.write(results)
    out = Path(results) / PAPER / table
    picture = comparison_picture(held)
    if picture is not None:
        save_png(picture, out / "picture.png")
    rows = [_row(result) for result in written]
    text = render(("configuration", *COLUMNS), rows, numbers=COLUMNS)
    write_text(out / "table.txt", f"{text}\n\n{chr(10).join(answer(held))}\n")
    return written


def _result(folder: Path, table: str, one: Configuration, metric: str) -> Result:
    first = one.runs[0]
    numbers = {key: one.mean(key) for key in ("stored", "distinct", SHARED, "zero_share", "penalty", "epochs")}
    numbers |= {"starts": sum(run.attempts for run in one.runs)}
    return Result(
        paper=PAPER,
        table=table,
        run=one.name.replace(", ", "-").replace("=", "-"),
        metric=metric,
        values=one.numbers(metric),
        seeds=[run.summary["config"]["seed"] for run in one.runs],
        config={key: value for key, value in first.summary["config"].items() if key not in HIDDEN},
        environment=read_json(folder / first.name / ENVIRONMENT),
        seconds=[run.summary["training_seconds"] for run in one.runs],
        numbers={key: value for key, value in numbers.items() if value is not None},
    )


def _row(result: Result) -> tuple[Any, ...]:
    numbers = result.numbers
    return (
        result.run,
        f"{100 * result.mean:.2f}",
        f"{100 * numbers[SHARED]:.2f}" if SHARED in numbers else "",
        f"{numbers['stored']:,.0f}",
        f"{sum(result.seconds):.0f}",
        f"{numbers['starts']:.0f}",
    )


if __name__ == "__main__":
    collect(sys.argv[1], sys.argv[2], "results")
