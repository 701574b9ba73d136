"""What came out of CIFAR-10 with a ConvMixer: a result for each row, how rows differ, and label noise drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightshare._table import render
from weightshare.analysis.pictures import COLOURS, INK, draw_curves, quiet
from weightshare.experiments.studies.lin2022_cifar import (
    ARMS,
    NOISES,
    NOISY,
    ORDERS,
    PAPER,
    PUBLISHED,
    ROWS,
    TABLE,
    config,
    name_of,
    row_of,
)
from weightshare.experiments.studies.results import Result, compared, save_png
from weightshare.experiments.studies.tested import config_of, tested
from weightshare.files.atomic import read_json, write_json
from weightshare.training.data import load_data
from weightshare.training.run import ENVIRONMENT, read_history, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTES = (
    "See studies.lin2022_cifar for what is reduced. Accuracy on all test images, once, after training; stored "
    "numbers are of the whole network. Seconds are of one core that did other things too, those of the row that this "
    "one starts from included. The configuration is that of the first seed: each run has its own in prepare.seed and "
    "order_seed. Trained from a copy of the tree, so the commit is not recorded."
)
COLUMNS = ("row", "noise", "test (%)", "seeds", "training (%)", "epochs", "stored", "paper (%)", "minutes")
PAIRS = (
    ("tied-2", "unshared"),
    ("random-mean-2", "tied-2"),
    ("first-2", "tied-2"),
    ("fused-2", "tied-2"),
    ("fused-2", "first-2"),
    ("tied-2-again", "tied-2"),
    ("fused-2", "tied-2-again"),
    ("unshared-again", "unshared"),
    ("fused-2", "unshared"),
    ("fused-2", "unshared-again"),
    *((name_of(kind, 2, order), f"{kind}-2") for kind in ("tied", "fused") for order in ORDERS[1:]),
    ("fused-4", "tied-4"),
    *((name_of(kind, 4, order), f"{kind}-4") for kind in ("tied", "fused") for order in ORDERS[1:]),
)
"""Which rows are compared: the first less the second."""
NOISY_PAIRS = (("fused-2", "unshared"), ("fused-2", "unshared-again"), ("fused-2", "tied-2-again"))
History = list[dict[str, float]]


def cifar(
    out: str | Path,
    rows: Mapping[str, Sequence[int]],
    results: str | Path,
    data: str = "cifar10",
    data_dir: str | None = None,
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Train what is missing of the table, test it, and write results, curves and pictures.

    Args:
        out: Where the run directories are; what is finished there is not repeated.
        rows: For each row of the table its seeds; each row after the one that it starts from.
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
    for row, seeds in rows.items():
        configs = [config(row, seed, out, data, data_dir) for seed in seeds]
        summaries = [run(settings, label=Path(settings.out).name) for settings in configs]
        curves[row] = [read_history(settings.out) for settings in configs]
        value, source = PUBLISHED.get(row, (None, ""))
        last = [history[-1] for history in curves[row]]
        before = [_before(row, seed, out) for seed in seeds]
        result = Result(
            paper=PAPER,
            table=TABLE,
            run=row,
            metric="test_accuracy",
            values=[tested(settings, whole) for settings in configs],
            seeds=list(seeds),
            config=config_of(summaries[0], data, "init") | {"start": ARMS[ROWS[row][0]].start},
            environment=read_json(Path(configs[0].out) / ENVIRONMENT),
            seconds=[
                sum(row["seconds"] for row in [*history, *earlier])
                for history, earlier in zip(curves[row], before, strict=True)
            ],
            numbers={
                "stored": summaries[0]["stored"],
                "macs": summaries[0]["macs"],
                "folded_file_bytes": summaries[0]["folded_file_bytes"],
                "epochs": len(curves[row][0]) + len(before[0]),
                "train_accuracy": sum(one["train_accuracy"] for one in last) / len(last),
                "validation_accuracy": sum(one["test_accuracy"] for one in last) / len(last),
            },
            paper_value=None if value is None else value / 100,
            source=source and f"Lin 2022, {source}",
            notes=NOTES,
        )
        result.write(results)
        written.append(result)
    folder = Path(results) / PAPER / TABLE
    write_json(folder / "curves.json", {row: [_short(history) for history in runs] for row, runs in curves.items()})
    clean = {row: runs for row, runs in curves.items() if row in (*NOISY, "tied-4", "fused-4")}
    if clean:
        save_png(draw_curves(clean, "test_accuracy", "validation accuracy"), folder / "accuracy.png")
    if noisy := noise_curves(written):
        save_png(draw_noise(noisy), folder / "noise.png")
    echo(f"{table(written)}\n\n{differences(written)}")
    return written


def table(results: Sequence[Result]) -> str:
    """The results as a text table; epochs are those of the row that it starts from, too."""
    return render(COLUMNS, [_row(result) for result in results], numbers=COLUMNS[1:])


def differences(results: Sequence[Result]) -> str:
    """Rows less other rows in points, with a standard error, as a text table; see `compared`."""
    pairs = [*PAIRS, *((row_of(a, noise), row_of(b, noise)) for noise in NOISES[1:] for a, b in NOISY_PAIRS)]
    return compared(results, pairs, {row: accuracy for row, (accuracy, _) in PUBLISHED.items()})


def noise_curves(results: Sequence[Result]) -> dict[str, dict[float, Sequence[float]]]:
    """For each arm of figure 2 its accuracies at each label noise, where there is more than one."""
    held = {result.run: result.values for result in results}
    found = {arm: {noise: held[row_of(arm, noise)] for noise in NOISES if row_of(arm, noise) in held} for arm in NOISY}
    return {arm: values for arm, values in found.items() if len(values) > 1}


def draw_noise(curves: Mapping[str, Mapping[float, Sequence[float]]]) -> "Figure":
    """Figure 2: accuracy over label noise, a line for each network and a band from the least to the greatest seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
        at = list(values)
        axes.plot(at, [sum(one) / len(one) for one in values.values()], color=colour, label=name, marker=".")
        least, greatest = ([pick(one) for one in values.values()] for pick in (min, max))
        axes.fill_between(at, least, greatest, color=colour, alpha=0.18, lw=0)
    axes.set(xlabel="label noise", ylabel="test accuracy", xticks=[*NOISES])
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    quiet(axes)
    return figure


def _before(row: str, seed: int, out: str | Path) -> History:
    """The epochs of what a row starts from."""
    arm, noise = ROWS[row]
    start = ARMS[arm].start
    if start is None:
        return []
    earlier = row_of(start, noise)
    return [*_before(earlier, seed, out), *read_history(config(earlier, seed, out).out)]


def _row(result: Result) -> tuple[Any, ...]:
    arm, noise = ROWS[result.run]
    return (
        arm,
        f"{noise:g}",
        f"{100 * result.mean:.2f}",
        " ".join(f"{100 * value:.2f}" for value in result.values),
        f"{100 * result.numbers['train_accuracy']:.1f}",
        int(result.numbers["epochs"]),
        int(result.numbers["stored"]),
        "" if result.paper_value is None else f"{100 * result.paper_value:.2f}",
        f"{sum(result.seconds) / len(result.seconds) / 60:.1f}",
    )


def _short(history: History) -> dict[str, list[float]]:
    keys = ("train_loss", "train_accuracy", "test_accuracy")
    return {key: [round(row[key], 6) for row in history] for key in keys}
