"""The main job in small: SPIN's story on 1,797 real handwritten digits.

A ConvMixer; the same with its pointwise convolutions tied at rate 2, trained from scratch; and tied at rate 2 after
training, each slot starting from the mean of the two layers that read it. Lin 2022 asks whether the pretrained start
makes up for what tying costs (its table 3); here the question is put to a network and a data set that two cores train
in seconds. The fused network has been trained twice as long in all, as in the paper; its seconds say so.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightshare._table import render
from weightshare.analysis.page import Section, Tile, plan_sections, render_page
from weightshare.analysis.pictures import draw_curves, svg
from weightshare.experiments.studies.results import Result
from weightshare.files.atomic import read_json, write_text
from weightshare.planning import Plan
from weightshare.training.data import load_data
from weightshare.training.recipe import Recipe, RunConfig, Share
from weightshare.training.run import ENVIRONMENT, MODEL, prepared, read_history, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER, TABLE = "lin2022", "digits"
NETWORK = "convmixer:32/8/2/3"
WHERE = "blocks.*.pointwise"
RECIPE = Recipe(epochs=15, lr=0.01)
ROWS = {
    "unshared": "every layer its own",
    "tied": "tied at rate 2, from scratch",
    "fused": "tied at rate 2, mean of the trained one",
}
Histories = dict[str, list[list[dict[str, float]]]]
COLUMNS = ("network", "accuracy (%)", "spread", "stored numbers", "bytes on disk", "seconds")


def demo(
    out: str | Path, seeds: Sequence[int] = (0, 1, 2), recipe: Recipe = RECIPE, echo: Callable[[str], None] = print
) -> list[Result]:
    """Train the three networks with every seed, print the table, write the results and the page.

    Args:
        out: Folder for the run directories, `results/` and `report.html`. What is finished in it is not repeated.
        seeds: One training of each network for each.
        recipe: The schedule of every training.
        echo: Gets the table as text.

    Returns:
        One result for each network, in the order of the table.
    """
    out = Path(out)
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in ROWS}
    for seed in seeds:
        for name in ROWS:
            summaries[name].append(run(config(out, name, seed, recipe), label=f"{name}, seed {seed}"))
    machine = read_json(
        folder_of(out, "unshared", seeds[0]) / ENVIRONMENT
    )  # of the run, which may be older than this call
    results = [_result(name, seeds, summaries[name], summaries["unshared"], machine) for name in ROWS]
    for result in results:
        result.write(out / "results")
    echo(f"\n{table(results)}\n")
    _, plans = prepared(config(out, "tied", seeds[0], recipe), load_data("digits"))
    write_text(out / "report.html", page(results, plans, histories(out, seeds)))
    echo(f"Page: {out / 'report.html'}\nRuns: {out}/<network>-seed<n>/report.html")
    return results


def table(results: Sequence[Result]) -> str:
    """The results as a text table: accuracy in percent, mean and standard deviation over seeds."""
    return render(COLUMNS, [_row(result) for result in results], numbers=COLUMNS[1:])


def page(results: Sequence[Result], plans: Sequence[Plan], runs: Histories) -> str:
    """The page that compares the three networks."""
    unshared, tied, fused = results
    machine = results[0].environment
    return render_page(
        "Halve a ConvMixer's pointwise layers",
        f"{NETWORK} on scikit-learn's 1,797 handwritten digits, {len(unshared.seeds)} seeds: 1,437 images to "
        "learn from, 360 to be measured on.",
        [
            *(
                Tile(ROWS[result.run], f"{result.mean:.2%}", f"± {result.spread:.2%} over seeds")
                for result in (unshared, tied, fused)
            ),
            Tile(
                "stored numbers",
                f"{tied.numbers['stored']:,}",
                f"{tied.numbers['stored'] / unshared.numbers['stored']:.1%} of {unshared.numbers['stored']:,}",
            ),
        ],
        [
            Section(
                "Three networks",
                text="Mean over seeds; spread is the standard deviation. The fused network starts from the unshared "
                "one of its seed, so its seconds include that training. On disk: the folded, plain safetensors file.",
                columns=COLUMNS,
                rows=[_row(result) for result in results],
            ),
            Section(
                "Accuracy while training",
                text="Bands reach from the least to the greatest seed; the axis starts at 0.8.",
                picture=svg(accuracy_curves(runs), "Test accuracy over epochs"),
            ),
            *plan_sections(plans),
            Section("Machine", listing="\n".join(f"{key}: {value}" for key, value in machine.items()), folded=True),
        ],
    )


def histories(out: Path, seeds: Sequence[int]) -> Histories:
    """For each network's title the rows of `metrics.jsonl` of every seed."""
    return {title: [read_history(folder_of(out, name, seed)) for seed in seeds] for name, title in ROWS.items()}


def accuracy_curves(runs: Histories) -> "Figure":
    """Test accuracy over epochs, a line and a band for each network."""
    figure = draw_curves(runs, "test_accuracy", "test accuracy")
    figure.axes[0].set_ylim(0.8, 1.0)
    return figure


def folder_of(out: Path, name: str, seed: int) -> Path:
    """The run directory of one training."""
    return out / f"{name}-seed{seed}"


def config(out: Path, name: str, seed: int, recipe: Recipe) -> RunConfig:
    """The configuration of one training: `name` is a key of `ROWS`."""
    share = {
        "unshared": [],
        "tied": [Share(rate=2, where=WHERE)],
        "fused": [Share(rate=2, fuse="mean", where=WHERE)],
    }[name]
    init = str(folder_of(out, "unshared", seed) / MODEL) if name == "fused" else None
    folder = str(folder_of(out, name, seed))
    return RunConfig(NETWORK, init=init, share=share, train=recipe, seed=seed, device="cpu", out=folder)


def _result(
    name: str,
    seeds: Sequence[int],
    summaries: Sequence[dict[str, Any]],
    started_from: Sequence[dict[str, Any]],
    machine: dict[str, Any],
) -> Result:
    first = summaries[0]
    own = [summary["training_seconds"] for summary in summaries]
    earlier = [start["training_seconds"] if name == "fused" else 0.0 for start in started_from]
    return Result(
        paper=PAPER,
        table=TABLE,
        run=name,
        metric="test_accuracy",
        values=[summary["accuracy"] for summary in summaries],
        seeds=list(seeds),
        config={key: value for key, value in first["config"].items() if key not in ("seed", "out", "init")},
        environment=machine,
        seconds=[here + there for here, there in zip(own, earlier, strict=True)],
        numbers={
            "stored": first["stored"],
            "macs": first["macs"],
            "folded_file_bytes": first["folded_file_bytes"],
            "peak_memory_bytes": max(summary["peak_memory_bytes"] for summary in summaries),
            "folded_output_difference": max(summary["folded_output_difference"] for summary in summaries),
        },
        notes="Not a table of the paper: its question (table 3) on digits, at a size that two cores train in seconds.",
    )


def _row(result: Result) -> tuple[Any, ...]:
    return (
        ROWS[result.run],
        f"{100 * result.mean:.2f}",
        f"± {100 * result.spread:.2f}",
        int(result.numbers["stored"]),
        int(result.numbers["folded_file_bytes"]),
        f"{sum(result.seconds) / len(result.seconds):.1f}",
    )
