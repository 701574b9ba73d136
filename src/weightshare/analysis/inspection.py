"""A first look at a model: what repeats in it, what could be shared and what that would store, before anything is done.

Every number is that of a real plan, so what is printed here is what `plan` prints and `apply_` does.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
import json
import math
import re
from textwrap import fill, shorten
from typing import Any

import torch

from weightshare._table import WIDTH, render, run_text, shape_text
from weightshare.analysis.alike import Alike
from weightshare.analysis.outlook import Choice
from weightshare.analysis.present import SHARED, Already, told
from weightshare.analysis.steps import Step
from weightshare.depth.measure import Similarity

AXES = ("depth", "space", "values")
SAME = 0.99
"""Linear CKA from which on two blocks are said to give the same."""
MOST_ROLES = 12
"""Roles that are printed one by one."""


@dataclass(frozen=True)
class Blocks:
    """A list of equal blocks.

    Args:
        path: Of the list; empty where the model itself is the list.
        block: Class of a block.
        blocks: How many are equal.
        numbers: That all of them store.
    """

    path: str
    block: str
    blocks: int
    numbers: int


@dataclass(frozen=True)
class Part:
    """A block, or what stands outside of blocks, in the order of the model.

    Args:
        path: Of the block, or of the child of the model.
        numbers: That it stores.
        blocks: Which of the lists of equal blocks it is one of, by its number; `None` for what is alone.
    """

    path: str
    numbers: int
    blocks: int | None


@dataclass(frozen=True)
class Role:
    """Layers of one role in equal blocks: what a plan of `Tie` makes a group of.

    Args:
        name: The path, with `*` for the number of the block.
        shape: Of each weight.
        dtype: Of each weight.
        layers: How many there are.
        numbers: That all of them store.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layers: int
    numbers: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; print it, write it as JSON, or write its page.

    Args:
        model: Class of the model.
        name: What it was called, for commands that build it again; may be empty.
        stored: Numbers that it stores, each tensor once.
        logical: Numbers, once for every path that reads them.
        bytes: Memory of the stored numbers.
        buffer_bytes: Memory of the buffers.
        label_bytes: Memory of those buffers that are labels of codebooks.
        file: Bytes of a file of `ws.save`: parameters, buffers and its header.
        blocks: Lists of equal blocks.
        parts: The whole model, block by block.
        roles: Layers of equal blocks by role, the largest first.
        already: What is shared already, or unusual.
        choices: What could be done, with the numbers of its plan.
        alike: How alike the blocks of each list are, by their weights.
        activations: Linear CKA of what the blocks give, if they were run.
        inputs: What the model was run on, in words; empty if it was not.
        unrun: What it did not run on, with its own error and what to give instead; empty if it ran.
        uncompared: Why there is no `activations` of blocks that are equal, although the model ran.
        cautions: What would break, and what to mind.
        steps: What to do next.
    """

    model: str
    name: str
    stored: int
    logical: int
    bytes: int
    buffer_bytes: int
    label_bytes: int = 0
    file: int = 0
    blocks: tuple[Blocks, ...] = ()
    parts: tuple[Part, ...] = ()
    roles: tuple[Role, ...] = ()
    already: tuple[Already, ...] = ()
    choices: tuple[Choice, ...] = ()
    alike: tuple[Alike, ...] = ()
    activations: Similarity | None = None
    inputs: str = ""
    unrun: str = ""
    uncompared: str = ""
    cautions: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def equal(self) -> int:
        """Numbers that lie in equal layers."""
        return sum(role.numbers for role in self.roles)

    @property
    def shares(self) -> bool:
        """Whether layers share already: by a plan, or since they run several times."""
        return bool({one.kind for one in self.already} & {*SHARED[:2], "runs several times"})

    @property
    def lead(self) -> str:
        """The model in one sentence."""
        if not self.stored:
            return f"{self.model} has no parameters: there is nothing to share."
        where = "what repeats is shared already" if self.shares else "no block is equal to another"
        if self.equal:
            yet = " and not shared yet" if self.shares else ""
            where = f"{self.equal / self.stored:.1%} of them in layers that are equal{yet}"
        read = f" and reads {self.logical:,}" if self.logical > self.stored else ""
        looped = next((one for one in self.already if one.kind == "runs several times"), None)
        again = f" '{looped.names[0]}' {looped.meaning}." if looped is not None else ""
        return f"{self.model} stores {self.stored:,} numbers{read}, {where}.{again}"

    def left_out(self, axis: str | None = None) -> dict[str, list[str]]:
        """What plans leave as it is, by reason, and what is refused as a whole.

        Args:
            axis: Of one axis alone.

        Returns:
            For each reason the parameters, or the call that is refused. Reasons that differ in numbers of names alone
            are one, with `*` for the numbers.
        """
        reasons: dict[str, dict[str, str]] = {}
        for choice in (one for one in self.choices if axis in (None, one.axis)):
            refused = ((choice.code, choice.refused),) if choice.refused else ()
            for path, reason in (*refused, *choice.left_out):
                said = re.sub(r"'[^']*'", lambda name: re.sub(r"\d+", "*", name[0]), reason.rstrip("."))
                reasons.setdefault(said, {})[path] = reason.rstrip(".")
        return {
            next(iter(own)) if len(own := {*paths.values()}) == 1 else said: list(paths)
            for said, paths in reasons.items()
        }

    def _first_left_out(self) -> dict[str, list[str]]:
        """What is left out of the first plan of depth and of space, and what is refused, in short."""
        first = {axis: next((c for c in self.choices if c.axis == axis and not c.refused), None) for axis in AXES[:2]}
        kept = [replace(c, refused=shorten(c.refused, 200)) for c in self.choices if c.refused or c in first.values()]
        return replace(self, choices=tuple(kept)).left_out()

    def to_json(self) -> str:
        """The fields as JSON text; a similarity that does not exist is null."""
        return json.dumps(asdict(self), indent=1, default=_rows)

    def page(self) -> str:
        """One self-contained HTML page: tables, heat maps, lines to copy. Needs the extra `train`."""
        from weightshare.analysis.inspection_page import inspection_page  # draws, so it loads matplotlib

        return inspection_page(self)

    def __str__(self) -> str:
        parts = [(f"{self.name}: " if self.name else "") + fill(self.lead, WIDTH)]
        of = max(1, self.stored)
        if self.unrun:
            parts.append(fill(f"Not run: {self.unrun}", WIDTH, subsequent_indent="  "))
        if self.blocks:
            rows = [
                (b.path or "the model", f"{b.blocks} × {b.block}", b.numbers, f"{b.numbers / of:.1%}")
                for b in self.blocks
            ]
            parts.append(render(("equal blocks in", "blocks", "numbers", "of model"), rows, ("numbers", "of model")))
        if self.roles:
            shown = self.roles[:MOST_ROLES]
            listed: list[tuple[object, ...]] = [
                (r.name, shape_text(r.shape), r.layers, r.numbers, f"{r.numbers / of:.1%}") for r in shown
            ]
            if len(self.roles) > len(shown):
                rest = sum(role.numbers for role in self.roles[MOST_ROLES:])
                more = len(self.roles) - len(shown)
                listed.append((f"{more} smaller roles", "", "", rest, f"{rest / of:.1%}"))
            titles = ("equal layers", "weight", "layers", "numbers", "of model")
            parts.append(render(titles, listed, titles[2:]))
        if self.choices:
            titles = ("axis", "what could be done", "numbers", "of model", "bytes", "bytes on file")
            now = ("", "as it is", self.stored, "100.0%", self.bytes + self.label_bytes, self.file)
            parts.append(render(titles, [now, *(_choice_row(c, of) for c in self.choices)], titles[2:]))
        if self.alike:
            titles = ("blocks in", "mean cosine", "of neighbours", "most alike", "cosine")
            parts.append(
                render(titles, [_alike_row(one) for one in self.alike], ("mean cosine", "of neighbours", "cosine"))
            )
            if note := chance_note(self.alike):
                parts.append(fill(note, WIDTH))
        if self.activations is not None:
            text = str(self.activations)
            apart = "\n\n" if "\n" in text else " "
            parts.append(f"What blocks give on {self.inputs}:{apart}{text}")
            parts += [fill(note, WIDTH) for note in (activations_note(self.activations, self.inputs),) if note]
        elif self.uncompared:
            parts.append(fill(f"What blocks give was not compared: {self.uncompared}.", WIDTH, subsequent_indent="  "))
        if self.already:
            titles = ("already", "where", "meaning")
            parts.append(render(titles, told(self.already)))
        reasons = [
            f"Left out, {len(at)}: {run_text(at, 6)}: {reason}." for reason, at in self._first_left_out().items()
        ]
        reasons += ["More, and for every plan: left_out(), or the page."] if reasons else []
        for texts in ([f"Mind: {text}" for text in self.cautions], reasons):
            parts += ["\n".join(fill(text, WIDTH, subsequent_indent="  ") for text in texts)] if texts else []
        for step in self.steps:
            lines = step.lines.splitlines() + ([f"$ {step.command}"] if step.command else [])
            parts.append("\n".join([f"{step.title}:", "", *(f"    {line}" for line in lines)]))
        return "\n\n".join(parts)


def activations_note(found: Similarity, inputs: str) -> str:
    """What to say of the similarity of what blocks give, or nothing.

    Args:
        found: Of blocks.
        inputs: What they ran on, in words.
    """
    apart = found.values[~torch.eye(len(found.values), dtype=torch.bool)]
    notes = []
    if len(apart) and bool((apart >= SAME).all()):
        notes.append(
            f"All are {SAME} or more: what tells the examples apart is the same behind every block, up to a rotation "
            "and a scale, as where blocks add little to what passes through them, before training above all. It does "
            "not say that their weights are alike, nor that they could share them."
        )
    if bool(apart.isnan().any()):
        notes.append("nan: a block gives the same for all examples, or the examples are too few.")
    if "random" in inputs:
        notes.append("The inputs are random and few, so this says little: give real ones by batches or --data.")
    return " ".join(notes)


def chance_note(found: Sequence[Alike]) -> str:
    """What to say of blocks that are no more alike than random numbers, or nothing."""
    lists = [one.blocks or "the model" for one in found if one.by_chance]
    if not lists:
        return ""
    where = "No two blocks" if len(lists) == len(found) else f"In {run_text(lists, 4)} no two blocks"
    return (
        f"{where} are more alike than independent random numbers. Before training that is always so, and means "
        "nothing: load trained weights. After training it means that layers have to learn to share."
    )


def _choice_row(choice: Choice, stored: int) -> tuple[object, ...]:
    # Of depth the code says it all, but which lists of blocks are deep enough for a rate.
    said = choice.what.partition(", in ")[2] if choice.axis == "depth" else choice.what
    what = f"{choice.code}: {'in ' if choice.axis == 'depth' else ''}{said}" if said else choice.code
    if choice.refused:
        return choice.axis, choice.code, "refused", "", "", ""
    if choice.stored is None:
        return choice.axis, what, f"of {choice.reads:,}", "", "", ""
    return choice.axis, what, choice.stored, f"{choice.stored / stored:,.1%}", choice.memory, choice.file


def _alike_row(one: Alike) -> tuple[object, ...]:
    first, second, cosine = one.closest
    means = thousandths(one.pairs.nanmean().item()), thousandths(one.neighbours)
    return one.blocks or "the model", *means, f"{first} and {second}", thousandths(cosine)


def thousandths(number: float) -> str:
    """A number to three digits, zero without a sign."""
    return f"{round(number, 3) + 0.0:.3f}"


def _rows(value: Any) -> Any:
    """A tensor as rows of numbers for JSON."""
    return [[None if math.isnan(x) else round(x, 6) for x in row] for row in value.tolist()]
