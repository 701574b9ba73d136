"""Put the committed results into docs/choose.md, and draw its pictures of accuracy against stored numbers.

python docs/refresh_choose.py
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import json
import math
from pathlib import Path

import weightshare
from weightshare.analysis.pictures import INK
from weightshare.experiments import markdown, papers
from weightshare.experiments.cells import mean, spread
from weightshare.experiments.jobs import Outcome
from weightshare.experiments.site.drawing import Point, trade_off
from weightshare.experiments.studies.results import Result, save_png
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE, IMAGES, RESULTS = ROOT / "docs" / "choose.md", ROOT / "docs" / "images", ROOT / "results"
FOUR, SCALE = "beyond/four-methods", "small"
WAYS = {
    "narrower": "nothing shared: narrower",
    "tied": "layers tied from scratch",
    "fused": "trained layers fused, both trained as long",
    "fused-longer": "trained layers fused, trained twice as long",
    "fused-little": "trained layers fused, little training after it",
    "templates": "layers mix templates",
    "positions": "positions share",
    "values": "few values, by labels",
}
"""Ways to store less, in the order of the picture's legend."""


@dataclass(frozen=True)
class Network:
    """A network that stores less, beside the one that shares nothing.

    Args:
        way: A key of `WAYS`.
        what: The network, what was done to it, and the data.
        share: Of the stored numbers, in percent.
        points: Of accuracy, more than the other network.
        spread: Of that difference over runs; 0 with one.
        runs: How many.
        training: How long it was trained, over the other network.
        source: Its folder of results.
    """

    way: str
    what: str
    share: float
    points: float
    spread: float
    runs: int
    training: str
    source: str


ROWS = {
    FOUR: (
        "plain",
        "local network, 8 blocks, CIFAR-10",
        {
            "narrower-4": ("narrower", "half the width", "1"),
            "tied-4": ("tied", "every 4 layers", "1"),
            "fused-4": ("fused-longer", "every 4 layers, mean", "2"),
            "templates-4": ("templates", "2 templates for 8 layers", "1"),
            "classes-4": ("positions", "4 classes of positions", "1"),
            "sleep-4": ("positions", "sleep, then 4 classes", "1"),
            "codebook-4": ("values", "256 values a layer", "1.2"),
        },
    ),
    "lin2022/table3": (
        "unshared",
        "ConvMixer-64/8, 5 epochs, CIFAR-10",
        {
            "tied-2": ("tied", "every 2 layers", "1"),
            "first-2": ("fused-longer", "every 2 layers, first", "2"),
            "fused-2": ("fused-longer", "every 2 layers, mean", "2"),
        },
    ),
    "savarese2019/cifar": (
        "wrn-28-10",
        "WRN-28, CIFAR-10 at 16×16",
        {
            "swrn-28-10-2": ("templates", "2 templates for 6 layers", "1"),
            "swrn-28-14-2": ("templates", "the same, half as wide again", "1"),
        },
    ),
}
"""Of each table the row that shares nothing, the network, and for each row the way, what was done, and how long it was
trained over the first."""
STUDIES = (
    ("tied", "lin2022/cifar10", "tied-2", "unshared", "ConvMixer-64/8, 16 epochs, CIFAR-10: every 2 layers", "1"),
    ("tied", "lin2022/cifar10", "tied-4", "unshared", "ConvMixer-64/8, 16 epochs, CIFAR-10: every 4 layers", "1"),
    (
        "fused",
        "lin2022/cifar10",
        "fused-2",
        "unshared-again",
        "ConvMixer-64/8, 32 epochs, CIFAR-10: every 2 layers, mean",
        "1",
    ),
    (
        "fused",
        "lin2022/cifar10",
        "fused-4",
        "unshared-again",
        "ConvMixer-64/8, 32 epochs, CIFAR-10: every 4 layers, mean",
        "1",
    ),
    ("templates", "savarese2019/cifar10", "swrn-2", "wrn", "WRN-28-1, CIFAR-10: 2 templates for 6 layers", "1"),
    (
        "templates",
        "savarese2019/cifar10",
        "swrn-2-wide",
        "wrn",
        "WRN-28-1, CIFAR-10: the same, half as wide again",
        "1",
    ),
)
"""Earlier studies: the way, the folder, a row and the one that shares nothing, what it is, how long it was trained."""


def networks() -> Iterator[Network]:
    """All networks, those of one comparison together."""
    for name, (base, network, rows) in ROWS.items():
        table = papers.table_named(name)
        found = papers.kept(RESULTS, table, SCALE, weightshare.__version__).found
        for row, (way, done, training) in rows.items():
            cell = next((at for at in found if at[0] == row and "stored" in _numbers(found[at])), None)
            if cell is None or (base, cell[1]) not in found:
                continue
            one, other = found[cell], found[base, cell[1]]
            metric = next(iter(table.columns[cell[1]]))
            gap = (mean(one, metric) or 0.0) - (mean(other, metric) or 0.0)
            sign = -1 if table.metrics[metric].better == "low" else 1
            share = 100 * _numbers(one)["stored"] / _numbers(other)["stored"]
            wide = math.hypot(spread(one, metric), spread(other, metric))
            yield Network(way, f"{network}: {done}", share, sign * gap, wide, len(one), training, f"{name}/{SCALE}")
    for way, folder, row, base, what, training in STUDIES:
        one, other = (Result.read(RESULTS / folder / f"{name}.json") for name in (row, base))
        share = one.numbers["stored"] / other.numbers["stored"]
        yield _beside(way, what, share, one, other, training)
    for row, what in (("some", "a little"), ("much", "much")):
        one, other = (
            Result.read(RESULTS / "savarese2019" / "folding" / f"swrn-{name}.json") for name in (row, "without")
        )
        share = one.numbers["stored_after"] / one.numbers["stored_before"]
        yield _beside("templates", f"SWRN-28-1-6, digits: made alike {what}, folded into loops", share, one, other, "1")
    for depth in (20, 32, 44, 56):
        one = Result.read(RESULTS / "lin2022" / "resnets" / f"resnet{depth}-fused.json")
        other = Result.read(RESULTS / "lin2022" / "resnets-fusions" / f"resnet{depth}-unshared.json")
        share = one.numbers["stored"] / other.numbers["stored"]
        what = f"trained ResNet-{depth}, CIFAR-10: every 2 layers, mean, 5 epochs on a tenth of the images"
        yield _beside("fused-little", what, share, one, other, "a little more")
    one, other = (Result.read(RESULTS / "shakerinava2023" / "torus" / f"regularised{end}.json") for end in ("-256", ""))
    share = one.numbers["folded_file_bytes"] / other.numbers["folded_file_bytes"]
    yield _beside("values", "MLP, MNIST on a torus: 256 values a layer, bytes of the file", share, one, other, "1.2")


def _numbers(outcomes: Mapping[int, Outcome]) -> dict[str, float]:
    """What the first run of a cell stores: as a metric where the table has it, or as what was counted."""
    first = next(iter(outcomes.values()))
    return {**first.numbers, **first.metrics}


def _beside(way: str, what: str, share: float, one: Result, other: Result, training: str) -> Network:
    wide = 100 * math.hypot(one.spread, other.spread)
    source = f"{one.paper}/{one.table}"
    return Network(way, what, 100 * share, 100 * (one.mean - other.mean), wide, len(one.values), training, source)


def table() -> str:
    """All networks with the numbers that the picture gives them."""
    columns = ("", "way", "network, data and what was done", "stored (%)", "points", "runs", "training", "results")
    rows = [
        (
            str(at),
            WAYS[one.way],
            one.what,
            f"{one.share:.0f}",
            f"{one.points:+.2f}{f' ± {one.spread:.2f}' if one.spread else ''}",
            str(one.runs),
            f"× {one.training}" if one.training[0].isdigit() else one.training,
            f"`{one.source}`",
        )
        for at, one in enumerate(networks(), 1)
    ]
    return markdown.grid(columns, rows, words=3)


def choices() -> str:
    """What one may want, what does it, what that cost where it was measured, and where that was."""
    every = list(networks())
    held = {(one.source, one.what.rpartition(": ")[2]): one for one in every}

    def at(source: str, what: str) -> str:
        one = held[source, what]
        wide = f" ± {one.spread:.2f}" if one.spread else ""
        return f"{one.points:+.2f}{wide} points with {one.share:.0f} % of the numbers"

    four, mixer, again = f"{FOUR}/{SCALE}", f"lin2022/table3/{SCALE}", "lin2022/cifar10"
    resnets = [one.points for one in every if one.way == "fused-little"]
    minilm = _result("beyond", "minilm", "rate2-first")
    kept = 100 * minilm.numbers["stored"] / minilm.numbers["stored_unshared"]
    wide = _result("savarese2019", "cifar10", "swrn-2-wide").numbers["macs"]
    wide /= _result("savarese2019", "cifar10", "wrn").numbers["macs"]
    torus = {row: 100 * _result("shakerinava2023", "torus", row).mean for row in ("plain", "regularised", "cnn")}
    local = {row: 100 * _result("pogodin2021", "table1-reduced", row).mean for row in ("conv", "lc", "lc-ws1")}
    convolution = sorted(ratio for name, ratio in _ratios("space").items() if "_over_the_convolution[" in name)
    rows = [
        (
            "a smaller network of equal blocks, trained from scratch",
            "`ws.Tie(rate=2)`",
            f"{at(mixer, 'every 2 layers')}; {at(four, 'every 4 layers')}, where half the width costs "
            f"{at(four, 'half the width')}; a step takes {_ratios('depth')['test_tied_over_untied']:.2f} of the time",
            (mixer, four, "benchmarks/depth.json"),
        ),
        (
            "to shrink a trained network, with data and time to train on",
            "`ws.Tie(rate=2, fuse=ws.mean)`",
            f"as long a training once more; {at(again, 'every 2 layers, mean')}, beside an unshared network trained as "
            f"long; at rate 4 {at(again, 'every 4 layers, mean')}",
            (again, mixer),
        ),
        (
            "to shrink a trained network, with little data",
            "`permuted_mean`, or `own=LoRA(rank)` over a mean; measure norms again",
            f"{max(resnets):.1f} to {min(resnets):.1f} points for the mean, after 5 epochs on a tenth of the images",
            ("lin2022/resnets", "lin2022/resnets-fusions"),
        ),
        (
            "to halve the layers of a trained transformer for text",
            "`ws.Tie(rate=2, fuse=ws.first)` and distillation",
            f"a cosine of {minilm.mean:.2f} to the original's embeddings, with {kept:.0f} % of the numbers and "
            f"{sum(minilm.seconds) / len(minilm.seconds) / 60:.1f} minutes of training",
            ("beyond/minilm",),
        ),
        (
            "layers to find out themselves which of them are one, and a network with loops",
            "`ws.Templates(k)`, `SimilarityPenalty`, `plan_loops`",
            f"{at('savarese2019/folding', 'made alike much, folded into loops')}, on digits; "
            f"a step takes {_ratios('templates')['test_a_step_over_the_unshared_network']:.2f} of the time",
            ("savarese2019/folding", "benchmarks/templates.json"),
        ),
        (
            "more accuracy from as many numbers",
            "`ws.Templates(k)` in a wider network",
            f"{at('savarese2019/cifar10', 'the same, half as wide again')}; {wide:.1f} times the arithmetic",
            ("savarese2019/cifar10", f"savarese2019/cifar/{SCALE}"),
        ),
        (
            "a small file, and nothing else changed",
            "`ws.Codebook(clusters=256)`, trained on a little",
            f"{at(four, '256 values a layer')}; "
            f"{at('shakerinava2023/torus', '256 values a layer, bytes of the file').replace('numbers', 'file')}; "
            "a fifth more training",
            (four, "shakerinava2023/torus"),
        ),
        (
            "a fully connected layer that finds local filters",
            "`ws.Proximal(strength)`",
            f"{torus['plain']:.1f} % becomes {torus['regularised']:.1f} %, a convolution has {torus['cnn']:.1f} %; no "
            f"number is saved; a step takes {_ratios('values')['test_over_the_plain_step[sort_free]']:.2f} of the time",
            ("shakerinava2023/torus", "benchmarks/values.json"),
        ),
        (
            "local connections, as in a brain",
            "`ws.localize_` and `ws.Sleep(every=1)`",
            f"convolutions {local['conv']:.1f} %, local {local['lc']:.1f} %, with sleep {local['lc-ws1']:.1f} %; a "
            f"layer takes {convolution[0]:.1f} to {convolution[-1]:.1f} times as long, and stores a kernel a position",
            ("pogodin2021/table1-reduced", "benchmarks/space.json"),
        ),
        (
            "local connections that store less",
            "`ws.Lattice(period)`",
            f"{at(four, '4 classes of positions')}",
            (four,),
        ),
    ]
    columns = ("I want", "use", "costs", "measured in `results/`")
    cells = [(want, use, costs, ", ".join(f"`{one}`" for one in where)) for want, use, costs, where in rows]
    return markdown.grid(columns, cells, words=4)


def _result(*path: str) -> Result:
    return Result.read(RESULTS.joinpath(*path).with_suffix(".json"))


def _ratios(name: str) -> dict[str, float]:
    held = json.loads((RESULTS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))["ratios"]
    return {test: one["ratio"] for test, one in held.items() if "ratio" in one}


def four() -> str:
    """The one comparison in which all else is equal."""
    held = papers.table_named(FOUR)
    return markdown.numbers(held, papers.kept(RESULTS, held, SCALE, weightshare.__version__).found)


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, {"choices": choices(), "four": four(), "networks": table()}, markdown=True)


def pictures() -> None:
    """Draw what the page shows."""
    held = papers.table_named(FOUR)
    found = papers.kept(RESULTS, held, SCALE, weightshare.__version__).found
    assert held.picture is not None
    save_png(held.picture(found), IMAGES / "four-methods.png")
    groups: dict[str, list[tuple[int, Point]]] = {title: [] for title in WAYS.values()}
    for at, one in enumerate(networks(), 1):
        groups[WAYS[one.way]].append((at, Point(one.share, one.points, one.spread)))
    drawn = {title: points for title, points in groups.items() if points}
    across = "stored numbers, % of the network that shares nothing"
    figure = trade_off(drawn, across, "points of accuracy more than that network, with spread")
    figure.axes[0].axhline(0, lw=1, color=INK, zorder=0)
    figure.axes[0].set_xticks([25, 35, 50, 75, 100])
    save_png(figure, IMAGES / "trade-offs.png")


if __name__ == "__main__":
    pictures()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
