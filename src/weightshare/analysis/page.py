"""Pages: one self-contained HTML file for a run, or for several that are compared. No scripts, nothing fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
import math
from pathlib import Path
import re
from typing import Any

from weightshare._table import shape_text
from weightshare.analysis.lsm import draw_evolution
from weightshare.analysis.pictures import draw_assignment, draw_curves, svg
from weightshare.depth.record import Evolution
from weightshare.planning import Plan

NUMBER = re.compile(r"[±+\-\d][\d.,e+\- ]*%?( ●)?|\d[\d.]*\xa0[kMG]?B|–")


@dataclass(frozen=True)
class Tile:
    """One number at the head of a page: what it is, its value, and a word on it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to another page, by its relative address."""

    text: str
    href: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Bar:
    """A cell of a table with a bar behind its number: `share` of the cell's width, from 0 to 1."""

    text: str
    share: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Code:
    """A cell of a table with code, which is not broken into lines."""

    code: str

    def __str__(self) -> str:
        return self.code


@dataclass(frozen=True)
class Piece:
    """One piece of a strip: a part of the whole, `share` of its width; pieces of one kind have one colour."""

    name: str
    share: float
    kind: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One part of a page; whatever is empty is left out.

    Args:
        title: Heading.
        text: A paragraph.
        columns: Titles of a table.
        rows: Its rows; columns of numbers are aligned to the right.
        picture: An `<svg>` element, from `pictures.svg`, or several, which stand side by side where there is room.
        listing: Preformatted text.
        points: Paragraphs of a list.
        strip: Parts of a whole side by side, in order.
        folded: Whether the reader has to open it.
    """

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    picture: str = ""
    listing: str = ""
    points: Sequence[str] = ()
    strip: Sequence[Piece] = ()
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """For each column whether all of it are numbers, to be aligned to the right."""
        return [all(NUMBER.fullmatch(str(row[at])) for row in self.rows) for at in range(len(self.columns))]


def render_page(title: str, lead: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> str:
    """A page as HTML text; every value is escaped but the pictures, which this library drew."""
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(source).render(title=title, lead=lead, tiles=tiles, sections=sections)


def run_page(
    name: str,
    plans: Sequence[Plan],
    history: Sequence[Mapping[str, float]],
    summary: Mapping[str, Any],
    environment: Mapping[str, Any],
    config_text: str,
    evolution: Evolution | None = None,
) -> str:
    """The page of one run.

    Args:
        name: Of the run.
        plans: What was shared, in order.
        history: From `fit`.
        summary: What `summary.json` holds.
        environment: Seed, versions, machine, commit.
        config_text: The configuration as YAML.
        evolution: How layers that mix templates became alike, if there are any.

    Returns:
        HTML text.
    """
    before, after = summary["stored_before"], summary["stored"]
    early = f" of {summary['config']['train']['epochs']}: stopped early" if summary.get("stopped_early") else ""
    tiles = [
        Tile("test accuracy", f"{summary['accuracy']:.2%}", f"after {len(history)} epochs{early}"),
        Tile("stored numbers", f"{after:,}", f"{after / before:.1%} of {before:,} before sharing"),
        Tile("file, folded", f"{summary['folded_file_bytes']:,} B", "a plain safetensors file"),
        Tile("MACs", f"{summary['macs']:,}", "one image; sharing does not lower them"),
        Tile("training", f"{summary['training_seconds']:.1f} s", environment["gpu"] or f"{environment['cores']} cores"),
    ]
    return render_page(
        name,
        f"{summary['model']} on {summary['config']['data']}: {summary['config']['model']}.",
        tiles,
        [
            *plan_sections(plans),
            Section(
                "Accuracy", picture=svg(draw_curves({"test": [history]}, "test_accuracy", "test accuracy"), "Accuracy")
            ),
            Section("Loss", picture=svg(draw_curves({"training": [history]}, "train_loss", "training loss"), "Loss")),
            *_values_section(history),
            *_space_section(history),
            *_similarity_section(history, evolution),
            Section(
                "Numbers",
                columns=("number", "value", "meaning"),
                rows=[
                    ("stored before sharing", before, "parameters, each tensor once"),
                    ("stored", after, "parameters, each tensor once"),
                    ("logical", summary["logical"], "parameters as read"),
                    ("distinct", summary["distinct"], "different values in the stored tensors"),
                    ("parameter bytes", summary["parameter_bytes"], "in memory, each tensor once"),
                    ("buffer bytes", summary["buffer_bytes"], "in memory"),
                    ("model file", summary["model_file_bytes"], "bytes on disk, with the plans"),
                    ("folded file", summary["folded_file_bytes"], "bytes on disk, plain"),
                    ("accuracy, folded", f"{summary['folded_accuracy']:.4f}", "of the folded model on the test images"),
                    (
                        "fold error",
                        f"{summary['folded_output_difference']:.1e}",
                        "largest change of an output by folding",
                    ),
                ],
            ),
            Section(
                "Epochs",
                columns=list(history[0]),
                rows=[[_short(v) for v in row.values()] for row in history],
                folded=True,
            ),
            Section("Configuration", listing=config_text, folded=True),
            Section("Environment", listing=json.dumps(environment, indent=1), folded=True),
        ],
    )


def _values_section(history: Sequence[Mapping[str, float]]) -> list[Section]:
    """How many values the regularised weights had, where there were any."""
    last = history[-1]
    if "distinct_share" not in last:
        return []
    picture = svg(
        draw_curves({"distinct": [history]}, "distinct_share", "distinct values / weights"), "Distinct values"
    )
    text = (
        f"Of the regularised weights {last['distinct_share']:.2%} are distinct values in the end, and "
        f"{last['zero_share']:.2%} are 0. Their penalty R is {last['penalty']:.4g}."
    )
    return [Section("Values that are shared", text=text, picture=picture)]


def _space_section(history: Sequence[Mapping[str, float]]) -> list[Section]:
    """How far positions of local layers were from sharing, where there were any."""
    if "noise_over_positions" not in history[-1]:
        return []
    shown = {
        name: [[{"epoch": row["epoch"], "log": math.log(row[key])} for row in history if row[key] > 0]]
        for name, key in (("over positions", "noise_over_positions"), ("within modules", "noise_within_modules"))
    }
    shown = {name: runs for name, runs in shown.items() if runs[0]}
    last = history[-1]
    text = (
        f"Noise over signal of the kernels, averaged over layers, is {last['noise_over_positions']:.3g} over all "
        f"positions and {last['noise_within_modules']:.3g} within modules in the end; 0 is equal kernels."
    )
    picture = svg(draw_curves(shown, "log", "−log SNR of kernels"), "Kernels over positions") if shown else ""
    return [Section("Positions that share", text=text, picture=picture)]


def _similarity_section(history: Sequence[Mapping[str, float]], evolution: Evolution | None) -> list[Section]:
    """How layers that mix templates became alike, where there are any."""
    if evolution is None:
        return []
    text = (
        f"Layers that mix templates: |cos| of their coefficients, {history[-1]['layer_similarity']:.3f} in the end as "
        "a mean over pairs. Where it is 1, two layers are one up to a factor, and one of them can be folded away."
    )
    return [Section("Layers that became alike", text=text, picture=svg(draw_evolution(evolution), "Layer similarity"))]


def plan_sections(plans: Sequence[Plan]) -> list[Section]:
    """For each plan its picture and its table; one line where nothing is shared."""
    if not plans:
        return [Section("What is shared", text="Nothing: every layer stores its own weights.")]
    sections = []
    for plan in plans:
        left_out = f" Left out: {len(plan.left_out)} parameters." if plan.left_out else ""
        layers = plan.spec.kind.listed
        sections.append(
            Section(
                "What is shared",
                text=f"{plan.heading}: {plan.stored_before:,} stored numbers become {plan.stored_after:,}.{left_out}",
                picture=svg(draw_assignment(plan), "Which layer reads which slot, for each group of parameters")
                if layers
                else "",
                columns=("group", "weight", "layers", "slots", "stored before", "after")
                if layers
                else plan.spec.kind.columns,
                rows=[
                    (g.name, shape_text(g.shape), len(g.items), g.stored_slots, g.stored_before, g.stored_after)
                    if layers
                    else g.row
                    for g in plan.groups
                ],
            )
        )
        if plan.left_out:
            rows = [(left.path, left.reason) for left in plan.left_out]
            sections.append(Section("Left out, and why", columns=("parameter", "reason"), rows=rows, folded=True))
    return sections


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
