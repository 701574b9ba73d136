"""Make docs/benchmarks.md's tables and its picture of what benchmarks wrote to `results/benchmarks`.

python docs/refresh_benchmarks.py
"""

import json
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.contest import CLOSE, CONTESTS, Contest, contest  # noqa: E402
from weightshare._table import render  # noqa: E402
from weightshare.analysis.pictures import COLOURS, INK  # noqa: E402
from weightshare.experiments.studies.results import filled as with_blocks  # noqa: E402
from weightshare.experiments.studies.results import save_png  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "results" / "benchmarks"
PICTURE = ROOT / "docs" / "images" / "benchmarks.png"
LEAST = 2**20
"""Peaks below this are pages that happened to be touched; ratios of them say nothing."""


def results(name: str = "rivals") -> dict[str, Any]:
    """What a file of results holds, empty if it is not there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"ratios": {}}


def found_of(name: str) -> dict[str, Any] | None:
    """What a contest found, if it was measured."""
    return results()["ratios"].get(f"test_contest[{name}]")


def verdict(ratio: float) -> str:
    """Of the time of ours over a rival's."""
    return "ahead" if ratio < 1 - CLOSE else "behind" if ratio > 1 + CLOSE else "level"


def seconds(value: float) -> str:
    """In the unit that suits it."""
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def megabytes(value: int | None) -> str:
    """Beyond what was held before."""
    return "" if value is None else f"{value / 2**20:.3g}" if value >= LEAST else "< 1"


def memory_ratio(ours: int | None, other: int | None) -> str:
    """Of peaks; nothing where both are small."""
    if ours is None or other is None or max(ours, other) < LEAST:
        return ""
    return f"{max(ours, 1) / max(other, LEAST):.2g}" if ours >= LEAST else f"< {LEAST / other:.2g}"


def rows(held: Contest, found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of the table of one contest."""
    first, *_ = held.ways
    listed = []
    for size in map(str, held.shown):
        ours = found["ways"][first][size]
        for name, way in held.ways.items():
            at = found["ways"].get(name, {}).get(size)
            if at is None:
                continue
            slope = found["exponents"][name]
            judged = "" if way.ours or "no rival" in way.why else verdict(at["ratio"])
            goal = "" if way.goal is None or int(size) != held.shown[-1] else f"{way.goal:g}"
            cells = [f"{int(size):,}", name, seconds(at["seconds"])]
            cells += ["" if name == first else f"{at['ratio']:.3g}", goal, megabytes(at["memory"])]
            cells += ["" if name == first else memory_ratio(ours["memory"], at["memory"])]
            cells += [
                _error(at.get("error", found["ways"][name][str(min(map(int, found["ways"][name])))].get("error")))
            ]
            cells += [f"{at['stored']:,}"] if held.stored else []
            listed.append((*cells, "" if slope is None else f"{slope:.2f}", judged))
    return listed


def _error(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}" if abs(value) < 0.01 else f"{value:.4g}"


def table(name: str) -> str:
    """One contest: its title, what is measured, the numbers, and what makes the difference."""
    held, found = contest(name), found_of(name)
    if found is None:
        return f"### {held.title}\n\n{held.text}\n\nNot measured yet: `make bench`."
    columns = [held.unit, "way", "time", "ours/it", "goal", "MB", "ours/it ", held.off]
    columns += [held.stored] if held.stored else []
    columns += ["grows", "ours is"]
    drawn = render(columns, rows(held, found), numbers=[one for one in columns if one not in ("way", "ours is")])
    whys = [f"- {key}: {way.why}." for key, way in held.ways.items() if way.why and key not in found["left_out"]]
    whys += [f"- {key}: not measured, {package} was not installed." for key, package in found["left_out"].items()]
    whys += [
        f"- {key}: up to {int(way.most):,} {held.unit}, past which it takes too long or too much memory."
        for key, way in held.ways.items()
        if way.most < max(held.sizes)
    ]
    return f"### {held.title}\n\n{held.text}\n\n```text\n{drawn}\n```\n\n" + "\n".join(whys)


def summary() -> str:
    """How many rivals are behind, level and ahead, at the last size of each table."""
    listed = []
    for name in CONTESTS:
        held, found = contest(name), found_of(name)
        if found is None:
            continue
        for size in map(str, held.shown):
            at = {
                key: found["ways"][key][size]["ratio"]
                for key, way in held.ways.items()
                if size in found["ways"].get(key, {}) and not way.ours and "no rival" not in way.why
            }
            if at:
                hardest = max(at, key=lambda key: at[key])
                listed.append(
                    (held.title, f"{int(size):,} {held.unit}", verdict(at[hardest]), f"{at[hardest]:.3g}", hardest)
                )
    columns = ("fast path", "size", "ours is", "ours/it", "its hardest rival")
    return f"```text\n{render(columns, listed, numbers=('ours/it',))}\n```"


STEPS = {
    "core": {
        "test_import": ("import weightshare", "import torch"),
        "test_step_of_a_tied_network": ("pass of a ConvMixer-256/8, tied", "untied"),
        "test_plan_of_a_vision_transformer": ("planning DeiT-S", "building it"),
    },
    "depth": {
        "test_tied_over_untied": ("pass of a ConvMixer-256/8, tied", "untied"),
        "test_through_over_tied[mean]": ("the same, trained through its mean", "tied"),
        "test_transforms_over_tied[lora16]": ("the same with LoRA of rank 16", "tied"),
        "test_serving_over_untied": ("its fold, evaluation", "untied"),
        "test_once_a_pass_over_once_a_reader": ("weights made once a pass", "by each reader"),
    },
    "space": {
        "test_a_training_step_over_unfolding": ("step of a local ResNet-20, 40.8 million weights", "unfold + einsum"),
    },
    "templates": {
        "test_generating_over_layer_by_layer[backward-6]": ("6 layers' weights of 6 templates, and back", "one by one"),
        "test_a_step_over_the_unshared_network": ("step of SWRN-28-10-2", "WRN-28-10"),
    },
    "values": {
        "test_over_the_plain_step[sort_free]": ("step of the torus MLP, sort-free map", "plain step"),
        "test_over_the_plain_step[exact]": ("the same, exact map", "plain step"),
        "test_over_the_plain_step[search]": ("the same, the paper's search collisions", "plain step"),
        "test_sort_free_for_a_hundred_million": ("sort-free map of 1e8 weights", "of 1e6"),
    },
}
"""By file of results and benchmark what was measured, over what: times."""
RATES = {
    "resnet20": {
        "test_convolutions": ("`train`, ResNet-20, row `conv`", "a bare script"),
        "test_convolutions_of_large_batches": ("the same, batch 512", "a bare script"),
        "test_local_layers": ("`train`, ResNet-20, row `lc`", "a script with unfold + einsum"),
    },
    "loading": {
        "test_over_one_by_one[memory]": ("images in memory", "DataLoader over Pillow images"),
        "test_over_one_by_one[folder]": ("files of a folder", "DataLoader over Pillow images"),
        "test_over_webdataset": ("shards", "webdataset"),
    },
    "training": {
        "test_images_per_second[64/4/2/3-plain]": ("`train`, ConvMixer-64/4", "a bare loop"),
        "test_images_per_second[128/8/2/5-plain]": ("`train`, ConvMixer-128/8", "a bare loop"),
    },
}
"""The same of images a second, where more is better."""


def whole() -> str:
    """Whole steps, loaders and trainings, from the other files of results."""
    tables = []
    for title, files in (("time, ours over", STEPS), ("images a second, ours over", RATES)):
        listed = [
            (what, over, f"{held[name]['ratio']:.3g}", f"{file}.json")
            for file, names in files.items()
            for held in [results(file)["ratios"]]
            for name, (what, over) in names.items()
            if name in held
        ]
        tables.append(render(("what", title, "ratio", "results/benchmarks/"), listed, numbers=("ratio",)))
    return "```text\n" + "\n\n".join(tables) + "\n```"


def machine() -> str:
    """What the contests were run on."""
    file = results()
    if "environment" not in file:
        return "Not measured yet."
    on = file["environment"]
    counts = sorted({found["threads"] for found in file["ratios"].values()})
    versions = ", ".join(f"{name} {version}" for name, version in on["packages"].items() if name != "weightshare")
    also = ", ".join(f"{name} {version}" for name, version in on.get("rivals", {}).items())
    dirty = ", with changes" if on["dirty"] else ""
    return (
        f"{on['processor']}, {on['cores']} cores, {' or '.join(map(str, counts))} threads for every way, "
        f"{on['system']}, Python {on['python']}; commit {on['commit']}{dirty}.\n\n{versions}.\n\nRivals: {also}."
    )


def draw() -> "Figure":
    """Time over size, both in logarithms: a panel for each contest, ours thick."""
    from matplotlib.figure import Figure

    names = [name for name in CONTESTS if found_of(name) is not None]
    high = -(-len(names) // 3) or 1
    figure = Figure(figsize=(13, 3.9 * high), layout="constrained")
    panels = figure.subplots(high, 3, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.remove()
    for axes, name in zip(panels, names, strict=False):
        held, found = contest(name), found_of(name)
        assert found is not None
        for index, (way, sizes) in enumerate(found["ways"].items()):
            line = {"lw": 2.6, "marker": "o"} if held.ways[way].ours else {"lw": 1.1, "marker": "."}
            slope = found["exponents"][way]
            label = way if slope is None else f"{way} ({slope:.2f})"
            style = "-" if index < len(COLOURS) else "--"
            colour = COLOURS[index % len(COLOURS)]
            at = [int(size) for size in sizes]
            axes.plot(at, [one["seconds"] for one in sizes.values()], style, color=colour, label=label, **line)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(held.sizes, [f"{size:,}" if size < 10_000 else f"{size:.0e}" for size in held.sizes])
        axes.minorticks_off()
        axes.set_title(held.title, color=INK, fontsize=10)
        axes.set_xlabel(held.unit, color=INK)
        axes.set_ylabel("seconds", color=INK)
        axes.tick_params(which="both", colors=INK, labelsize=8)
        for spine in axes.spines.values():
            spine.set_color(INK)
        least, most = axes.get_ylim()
        # Of the panel's height each line of the legend takes a twentieth: that much lies above the highest line.
        axes.set_ylim(least, most * (most / least) ** (0.05 * len(axes.lines) / (1 - 0.05 * len(axes.lines))))
        axes.legend(fontsize=6.5, labelcolor=INK, frameon=False, loc="upper left")
    return figure


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    tables = "\n\n".join(table(name) for name in CONTESTS)
    return {"summary": summary(), "contests": tables, "whole": whole(), "machine": machine()}


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks(), markdown=True)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    save_png(draw(), PICTURE)
