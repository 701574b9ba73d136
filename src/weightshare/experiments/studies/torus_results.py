"""What came out of MNIST on a torus: one result for each row, curves, and the filters of the first layer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from weightshare._table import render
from weightshare.analysis.filters import aligned, draw_filters, translated_similarity, window_energy
from weightshare.analysis.pictures import draw_curves
from weightshare.experiments.printed.shakerinava2023 import TABLES
from weightshare.experiments.studies.results import Result, save_png
from weightshare.experiments.studies.torus import (
    LAYERS,
    PAPER,
    RETRAINED,
    SWEEP,
    SWEEP_TABLE,
    TABLE,
    config,
    sweep_config,
)
from weightshare.files.atomic import read_json, write_json
from weightshare.files.checkpoint import tensors
from weightshare.surgery.count import distinct
from weightshare.training.recipe import RunConfig
from weightshare.training.run import ENVIRONMENT, MODEL, read_history, run
from weightshare.training.snapshot import SHARED
from weightshare.values.pairwise import pairwise_penalty

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPERS = {row: cells["accuracy"].number / 100 for row, cells in TABLES["torus"].items()}
SOURCE = "Shakerinava 2023, key results: MNIST on a torus"
NOTES = (
    "4 and 8 channels instead of 32 and 64; layers computed in bfloat16; one data set, drawn from seed 0. Trained from "
    "a copy of the tree, so the commit is not recorded; distinct and zero shares are those of the first seed."
)
COLUMNS = ("row", "accuracy (%)", "spread", "distinct (%)", "zero (%)", "3×3 energy", "seconds")
FILTERS = 256  # of the first layer, the strongest ones, that are compared with each other
History = list[dict[str, float]]


def torus(
    out: str | Path,
    rows: Mapping[str, Sequence[int]],
    results: str | Path,
    data_dir: str | None = None,
    data: str = "mnist",
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Train what is missing of the table, and write results, curves and pictures.

    Args:
        out: Where the run directories are; what is finished there is not repeated.
        rows: For each row of the table its seeds.
        results: Folder of results.
        data_dir: Where MNIST lies.
        data: Another set of square grey images.
        echo: Gets the table as text.

    Returns:
        One result for each row.
    """
    written, curves, filters = [], {}, {}
    for row, seeds in rows.items():
        configs = [config(row, seed, out, data, data_dir) for seed in seeds]
        result, histories = _trained(TABLE, row, configs, data_dir)
        curves[row] = histories
        if (kernel := first_layer(configs[0])) is not None:
            filters[row] = kernel
        result.write(results)
        written.append(result)
    folder = Path(results) / PAPER / TABLE
    write_json(folder / "curves.json", {row: [_short(history) for history in runs] for row, runs in curves.items()})
    trained = {row: runs for row, runs in curves.items() if row not in RETRAINED}
    save_png(draw_curves(trained, "test_accuracy", "test accuracy"), folder / "accuracy.png")
    shared = {row: runs for row, runs in trained.items() if "distinct_share" in runs[0][0]}
    if shared:
        save_png(draw_curves(shared, "distinct_share", "distinct values / weights"), folder / "distinct.png")
        save_png(draw_curves(shared, "zero_share", "zeros / weights"), folder / "zero.png")
    if filters:
        save_png(filter_picture(filters), folder / "filters.png")
    echo(table(written))
    return written


def sweep(
    out: str | Path,
    results: str | Path,
    rows: Sequence[str] = tuple(SWEEP),
    data_dir: str | None = None,
    data: str = "mnist",
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Train what is missing of the sweep, and write its results; arguments as for `torus`."""
    written = []
    for row in rows:
        result, _ = _trained(SWEEP_TABLE, row, [sweep_config(row, out, data, data_dir)], data_dir)
        result.write(results)
        written.append(result)
    echo(table(written))
    return written


def table(results: Sequence[Result]) -> str:
    """The results as a text table; shares in percent, of the regularised weights."""
    return render(COLUMNS, [_row(result) for result in results], numbers=COLUMNS[1:])


def first_layer(settings: RunConfig) -> Tensor | None:
    """The first layer's rows as images `(units, side, side)`; `None` for a convolution.

    With pixels shuffled they are put back in their places.
    """
    weight = tensors(Path(settings.out) / MODEL).get("fc1.weight")
    if weight is None:
        return None
    side = int(weight.shape[1] ** 0.5)
    if settings.prepare.shuffle:
        weight = weight[:, settings.prepare.pixel_order(side, side).argsort()]
    return weight.view(-1, side, side)


def filter_picture(filters: Mapping[str, Tensor], shown: int = 32) -> "Figure":
    """The strongest filters of each row as they are; and those of the regularised one shifted to fit each other."""
    bands = {row: strongest(kernel, shown) for row, kernel in filters.items()}
    if "regularised" in filters:
        likest = _likest(strongest(filters["regularised"], FILTERS), shown)
        bands["regularised: one and those most like it"] = likest
        bands["the same, shifted to fit the first"] = aligned(likest)
    return draw_filters(bands)


def strongest(filters: Tensor, count: int) -> Tensor:
    """The filters of the greatest norm."""
    return filters[filters.flatten(1).norm(dim=1).argsort(descending=True)[:count]]


def _likest(filters: Tensor, count: int) -> Tensor:
    """The filter that has the most in common with others, up to translation, and these."""
    similar = translated_similarity(filters)
    ranked = similar.sort(dim=1, descending=True)
    first = int(ranked.values[:, :count].mean(1).argmax())
    return filters[ranked.indices[first, :count]]


def _trained(
    table_name: str, row: str, configs: Sequence[RunConfig], data_dir: str | None
) -> tuple[Result, list[History]]:
    summaries = [run(settings, label=Path(settings.out).name) for settings in configs]
    histories = [read_history(settings.out) for settings in configs]
    numbers: dict[str, float] = _shared(configs[0])
    numbers |= {"stored": summaries[0]["stored"], "folded_file_bytes": summaries[0]["folded_file_bytes"]}
    kernel = first_layer(configs[0])
    if kernel is not None:
        top = strongest(kernel, FILTERS)
        similar = translated_similarity(top).fill_diagonal_(-1).amax(1)
        numbers["window_energy"] = float(window_energy(top, 3).median())
        numbers["nearest_translation"] = float(similar.median())
    hidden = ("seed", "out", "data_dir", "init")
    result = Result(
        paper=PAPER,
        table=table_name,
        run=row,
        metric="test_accuracy" if table_name == TABLE else "validation_accuracy",
        values=[summary["accuracy"] for summary in summaries],
        seeds=[settings.seed for settings in configs],
        config={key: value for key, value in summaries[0]["config"].items() if key not in hidden},
        environment=read_json(Path(configs[0].out) / ENVIRONMENT),
        seconds=[summary["training_seconds"] for summary in summaries],
        numbers=numbers,
        paper_value=PAPERS.get(row) if table_name == TABLE else None,
        source=SOURCE if table_name == TABLE and row in PAPERS else "",
        notes=NOTES,
    )
    return result, histories


def _shared(settings: RunConfig) -> dict[str, float]:
    """How far the two layers' weights are shared, in the file of a run; nothing for convolutions."""
    held = tensors(Path(settings.out) / MODEL)
    weights = [held[name] for name in LAYERS if name in held]
    if not weights:
        return {}
    count = sum(weight.numel() for weight in weights)
    return {
        "distinct_share": sum(distinct(weight) for weight in weights) / count,
        "zero_share": sum(int((weight == 0).sum()) for weight in weights) / count,
        "penalty": sum(float(pairwise_penalty(weight)) for weight in weights),
    }


def _row(result: Result) -> tuple[Any, ...]:
    def percent(key: str) -> str:
        return f"{100 * result.numbers[key]:.1f}" if key in result.numbers else ""

    return (
        result.run,
        f"{100 * result.mean:.2f}",
        f"± {100 * result.spread:.2f}" if len(result.values) > 1 else "",
        percent("distinct_share"),
        percent("zero_share"),
        f"{result.numbers['window_energy']:.2f}" if "window_energy" in result.numbers else "",
        f"{sum(result.seconds) / len(result.seconds):.0f}",
    )


def _short(history: History) -> dict[str, list[float]]:
    keys = ("train_loss", "train_accuracy", "test_accuracy", *SHARED)
    return {key: [round(row[key], 6) for row in history] for key in keys if key in history[0]}
