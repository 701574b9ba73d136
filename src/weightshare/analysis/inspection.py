"""A first look at a model: what repeats in it, what could be shared and what that would store, before anything is done.

Every number is that of a real plan, so what is printed here is what `plan` prints and `apply_` does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
import json
import math
import re
from textwrap import fill
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weightshare._table import WIDTH, render, run_text, shape_text
from weightshare.analysis.alike import Alike, alike
from weightshare.analysis.example import example_for, untouched
from weightshare.analysis.outlook import Choice, choices, equal_layers
from weightshare.analysis.present import Already, already, calls_of
from weightshare.analysis.steps import Step, cautions, steps
from weightshare.depth.cka import FEWEST, cka
from weightshare.depth.measure import Similarity
from weightshare.errors import SharingError, SpecError
from weightshare.generating import refuse_foreign
from weightshare.surgery.blocks import Place, join, places
from weightshare.surgery.copies import copied
from weightshare.surgery.count import count
from weightshare.surgery.quantised import packed_layers
from weightshare.surgery.sites import Site, sites, unwrapped
from weightshare.surgery.watch import run

SMALL = 30_000_000
"""Models up to this many stored numbers are run on random inputs for `cka`; larger ones on given batches alone."""
EXAMPLES = 16
"""Random inputs that such a model is run on."""


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
        blocks: Lists of equal blocks.
        roles: Layers of equal blocks by role, the largest first.
        already: What is shared already, or unusual.
        choices: What could be done, with the numbers of its plan.
        alike: How alike the blocks of each list are, by their weights.
        activations: Linear CKA of what the blocks give, if they were run.
        inputs: What the model was run on, in words; empty if it was not.
        cautions: What would break, and what to mind.
        steps: What to do next.
    """

    model: str
    name: str
    stored: int
    logical: int
    bytes: int
    buffer_bytes: int
    blocks: tuple[Blocks, ...] = ()
    roles: tuple[Role, ...] = ()
    already: tuple[Already, ...] = ()
    choices: tuple[Choice, ...] = ()
    alike: tuple[Alike, ...] = ()
    activations: Similarity | None = None
    inputs: str = ""
    cautions: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def equal(self) -> int:
        """Numbers that lie in equal layers."""
        return sum(role.numbers for role in self.roles)

    @property
    def lead(self) -> str:
        """The model in one sentence."""
        if not self.stored:
            return f"{self.model} has no parameters: there is nothing to share."
        where = f"{self.equal / self.stored:.1%} of them in layers that are equal" if self.equal else "no layer repeats"
        return f"{self.model} stores {self.stored:,} numbers, {where}."

    def left_out(self, axis: str | None = None) -> dict[str, list[str]]:
        """What plans leave as it is, by reason, and what is refused as a whole.

        Args:
            axis: Of one axis alone.

        Returns:
            For each reason the parameters, or the call that is refused. Reasons that differ in numbers of names alone
            are one, with `*` for the numbers.
        """
        reasons: dict[str, dict[str, None]] = {}
        for choice in (one for one in self.choices if axis in (None, one.axis)):
            refused = ((choice.code, choice.refused),) if choice.refused else ()
            for path, reason in (*refused, *choice.left_out):
                said = re.sub(r"'[^']*'", lambda name: re.sub(r"\d+", "*", name[0]), reason.rstrip("."))
                reasons.setdefault(said, {})[path] = None
        return {reason: list(paths) for reason, paths in reasons.items()}

    def to_json(self) -> str:
        """The fields as JSON text; a similarity that does not exist is null."""
        return json.dumps(asdict(self), indent=1, default=_rows)

    def page(self) -> str:
        """One self-contained HTML page: tables, heat maps, lines to copy. Needs the extra `train`."""
        from weightshare.analysis.inspection_page import inspection_page  # draws, so it loads matplotlib

        return inspection_page(self)

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.lead}" if self.name else self.lead]
        of = max(1, self.stored)
        if self.blocks:
            rows = [
                (b.path or "the model", f"{b.blocks} × {b.block}", b.numbers, f"{b.numbers / of:.1%}")
                for b in self.blocks
            ]
            parts.append(render(("equal blocks in", "blocks", "numbers", "of model"), rows, ("numbers", "of model")))
        if self.roles:
            shown = self.roles[:MOST_ROLES]
            listed = [(r.name, shape_text(r.shape), r.layers, r.numbers, f"{r.numbers / of:.1%}") for r in shown]
            if len(self.roles) > len(shown):
                rest = sum(role.numbers for role in self.roles[MOST_ROLES:])
                more = len(self.roles) - len(shown)
                listed.append((f"{more} smaller roles", "", "", rest, f"{rest / of:.1%}"))
            titles = ("equal layers", "weight", "layers", "numbers", "of model")
            parts.append(render(titles, listed, titles[2:]))
        if self.choices:
            titles = ("axis", "what could be done", "numbers", "of model", "bytes", "bytes on file")
            parts.append(render(titles, [_choice_row(c, of) for c in self.choices], titles[2:]))
        if self.alike:
            titles = ("blocks in", "mean cosine", "of neighbours", "most alike", "cosine")
            parts.append(
                render(titles, [_alike_row(one) for one in self.alike], ("mean cosine", "of neighbours", "cosine"))
            )
            if note := chance_note(self.alike):
                parts.append(fill(note, WIDTH))
        if self.activations is not None:
            parts.append(f"What blocks give on {self.inputs}: {self.activations}")
        if self.already:
            titles = ("already", "where", "meaning")
            parts.append(render(titles, [(a.kind, run_text(a.names, 4), a.meaning) for a in self.already]))
        reasons = [
            f"Left out of {axis}, {len(at)}: {run_text(at, 6)}: {reason}."
            for axis in ("depth", "space", "values")
            for reason, at in self.left_out(axis).items()
        ]
        for texts in ([f"Mind: {text}" for text in self.cautions], reasons):
            parts += ["\n".join(fill(text, WIDTH, subsequent_indent="  ") for text in texts)] if texts else []
        for step in self.steps:
            lines = step.lines.splitlines() + ([f"$ {step.command}"] if step.command else [])
            parts.append("\n".join([f"{step.title}:", "", *(f"    {line}" for line in lines)]))
        return "\n\n".join(parts)


MOST_ROLES = 12
"""Roles that are printed one by one."""


def inspect(
    model: nn.Module,
    example_input: Any = None,
    batches: Iterable[Any] | None = None,
    name: str = "",
) -> Inspection:
    """Say what repeats in a model, what could be shared along each axis, and what that would store.

    Numbers are those of real plans at several rates, none of which is applied. Weights of equal blocks are compared; so
    is what blocks compute, if batches are given, or the model is small and an input for it is known.

    Args:
        model: Any module. It is left as it was: its numbers, its modes, its hooks and the random generators.
        example_input: What the model runs on, a tensor, a sequence of positional arguments or a mapping of keyword
            arguments; by default one is guessed. It tells how often layers run, and the sizes of convolutions.
        batches: Inputs, of 4 examples or more each, on which the outputs of blocks are compared.
        name: What the model is called on the command line, such as `timm:vit_tiny_patch16_224`, for the commands.

    Returns:
        An `Inspection`: print it, or take its fields, `to_json()` or `page()`.

    Raises:
        SpecError: If the model cannot run on the example input or on the batches that are given, or has layers without
            shapes (lazy ones) and no example input.
        ModelChanged: If layers read a bank that is not theirs.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> found = inspect(net)
        >>> found.equal, [choice.stored for choice in found.choices if choice.code.startswith("ws.Tie")]
        (48, [24, 24, 12])
    """
    model = unwrapped(model)
    with untouched(model):
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            model = _built(model, example_input)
        if not any(True for _ in model.parameters()):
            return _empty(model, name)
        return _inspected(model, example_input, batches, name)


def chance_note(found: Sequence[Alike]) -> str:
    """What to say of blocks that are no more alike than random numbers, or nothing."""
    lists = [one.blocks or "the model" for one in found if one.by_chance]
    if not lists:
        return ""
    where = "No two blocks" if len(lists) == len(found) else f"In {run_text(lists, 4)} no two blocks"
    return (
        f"{where} are more alike than independent random numbers. If these are the random weights that a network is "
        "built with, their similarities mean nothing: load trained weights to see more."
    )


def _inspected(model: nn.Module, example_input: Any, batches: Iterable[Any] | None, name: str) -> Inspection:
    refuse_foreign(model)
    found = sites(model)
    make, inputs, calls = None, "", None
    if example_input is not None:
        calls, inputs = calls_of(model, example_input), "the example input"
    elif not any(site.tensor.is_meta for site in found) and (guess := example_for(model)) is not None:
        make, inputs = guess
        example_input = make(1)
        calls = calls_of(model, example_input)
    counts, unshared = count(model), equal_layers(model)
    groups = () if isinstance(unshared, SharingError) else unshared.groups
    held = tuple(already(model, found, calls))
    possible = tuple(choices(model, found, example_input))
    activations = None
    if batches is not None:
        activations, inputs = cka(model, model, _counted(batches)), "the batches that were given"
    elif make is not None and groups and counts.stored <= SMALL:
        activations, inputs = _of_random(model, make), f"{inputs}, {EXAMPLES} examples"
    similar = tuple(alike(model, groups, found))
    return Inspection(
        *(type(model).__name__, name, counts.stored, counts.logical, counts.bytes, counts.buffer_bytes),
        blocks=tuple(_blocks(model, groups, found)),
        roles=tuple(
            sorted(
                (Role(g.name, g.shape, g.dtype, len(g.items), g.stored_before) for g in groups),
                key=lambda role: -role.numbers,
            )
        ),
        already=held,
        choices=possible,
        alike=similar,
        activations=activations,
        inputs=inputs,
        cautions=tuple(cautions(model, found, possible, held)),
        steps=tuple(steps(name, possible)),
    )


def _built(model: nn.Module, example_input: Any) -> nn.Module:
    """A copy whose lazy layers have shapes."""
    lazy = next(path for path, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor))
    if example_input is None:
        raise SpecError(
            f"'{lazy}' has no shape yet: its lazy module is not built. Give example_input, on which a copy of the "
            "model is run once, or run the model yourself."
        )
    model = copied(model)
    run(model, example_input)
    return model


def _empty(model: nn.Module, name: str) -> Inspection:
    bytes_of_buffers = sum(buffer.nbytes for buffer in model.buffers())
    packed = tuple(Already("quantised", (path,), reason) for path, reason in packed_layers(model).items())
    return Inspection(type(model).__name__, name, 0, 0, 0, bytes_of_buffers, already=packed)


def _blocks(model: nn.Module, groups: Sequence[Any], model_sites: Sequence[Site]) -> list[Blocks]:
    found = places(model_sites)
    lists: dict[tuple[str, Any], tuple[set[int], int]] = {}
    for group in groups:
        at = [place for path in group.items if isinstance(place := found[path], Place)]
        indices, numbers = lists.get((at[0].before, at[0].kind), (set(), 0))
        lists[at[0].before, at[0].kind] = indices | {place.index for place in at}, numbers + group.stored_before
    kinds = {path: type(module).__name__ for path, module in model.named_modules(remove_duplicate=False)}
    return [
        Blocks(before, kinds.get(join(before, str(min(indices))), "Parameter"), len(indices), numbers)
        for (before, _), (indices, numbers) in lists.items()
    ]


def _of_random(model: nn.Module, make: Any) -> Similarity | None:
    try:
        return cka(model, model, [make(EXAMPLES)])
    except SharingError:  # blocks that give no numbers for each example; nobody asked for it
        return None


def _counted(batches: Iterable[Any]) -> Iterable[Any]:
    if isinstance(batches, Tensor):
        raise SpecError(f"batches: got one tensor, need a list of batches of {FEWEST} examples or more, such as [x].")
    return batches


def _choice_row(choice: Choice, stored: int) -> tuple[object, ...]:
    what = choice.code if choice.axis == "depth" else f"{choice.code}: {choice.what}"
    if choice.refused:
        return choice.axis, choice.code, "refused", "", "", ""
    if choice.stored is None:
        return choice.axis, what, f"of {choice.reads:,}", "", "", ""
    return choice.axis, what, choice.stored, f"{choice.stored / stored:.1%}", choice.memory, choice.file


def _alike_row(one: Alike) -> tuple[object, ...]:
    first, second, cosine = one.closest
    mean = one.pairs.nanmean().item()
    return one.blocks or "the model", f"{mean:.3f}", f"{one.neighbours:.3f}", f"{first} and {second}", f"{cosine:.3f}"


def _rows(value: Any) -> Any:
    """A tensor as rows of numbers for JSON."""
    return [[None if math.isnan(x) else round(x, 6) for x in row] for row in value.tolist()]
