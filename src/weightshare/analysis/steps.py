"""What to mind with a model, and what to do next: lines that run as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from weightshare.analysis.outlook import Choice
from weightshare.analysis.present import Already
from weightshare.surgery.sites import Site

TRAIN = "optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=1e-2))  # then train as ever"
SAVE = 'ws.save(ws.fold(model), "small.safetensors")'
SAVE_AS_MIXED = 'ws.save(model, "small.safetensors")  # templates once; ws.fold(model) writes every layer out'


@dataclass(frozen=True)
class Step:
    """One thing to do next.

    Args:
        title: What it does.
        lines: Python that does it to a `model`.
        command: The same for a shell, where the model has a name and there is a command.
    """

    title: str
    lines: str
    command: str = ""


def steps(name: str, possible: Sequence[Choice], stored: int, file: int) -> list[Step]:
    """The most useful things to do with a model, three at most.

    Args:
        name: Of the model on the command line, or nothing.
        possible: From `choices`.
        stored: Numbers that the model stores as it is.
        file: Bytes of a file of the model as it is; what takes more is not proposed.

    Returns:
        What fits, of: ties at the least rate, or else templates; a codebook of 256 values; folding of local layers, or
        else the proximal step.
    """
    fits = [choice for choice in possible if not choice.refused]
    found = []
    depth = next((choice for choice in fits if choice.axis == "depth"), None)
    if depth is not None:
        globs = list(depth.where or ())
        named = _where(globs)
        planned = f"plan = ws.plan(model, {depth.code}{', where' if globs else ''})"
        tie = depth.code.startswith("ws.Tie")
        lines = [*named, planned, "print(plan)", "plan.apply_(model)", TRAIN, SAVE if tie else SAVE_AS_MIXED]
        options = "".join(f" --where '{glob}'" for glob in globs)
        command = f"weightshare plan {name} --rate 2 --fuse mean{options}" if name and tie else ""
        title = f"{'Tie' if tie else 'Mix'} layers, and store {depth.stored:,} numbers of {stored:,}"
        found.append(Step(title, "\n".join(lines), command))
    book = next((choice for choice in reversed(fits) if "Codebook" in choice.code and (choice.file or 0) < file), None)
    if book is not None:
        title = f"Give each weight few values, and take about {book.file:,} bytes on file of {file:,}"
        share = f"ws.share_(model, {book.code}{', where' if book.where else ''})"
        found.append(Step(title, "\n".join([*_where(book.where or ()), share, TRAIN, SAVE])))
    fold = next((choice for choice in fits if choice.code.startswith("ws.fold")), None)
    pull = next((choice for choice in fits if "Proximal" in choice.code), None)
    if fold is not None:
        found.append(Step(f"Fold local layers, and store {fold.stored:,} numbers", f"small = {fold.code}"))
    elif pull is not None:
        lines = ["optimizer = torch.optim.SGD(model.parameters(), lr=0.1)", f"{pull.code}.attach_(optimizer, model)"]
        found.append(Step("Pull weights together while training", "\n".join(lines)))
    return found


def _where(globs: Sequence[str]) -> list[str]:
    """The line that names a pattern, if there is one."""
    if not globs:
        return []
    return [f"where = {globs[0]!r}" if len(globs) == 1 else f"where = {list(globs)!r}"]


def cautions(
    model: nn.Module, model_sites: Sequence[Site], possible: Sequence[Choice], held: Sequence[Already]
) -> list[str]:
    """What would break, and what to mind: what plans warn of, and what holds for this model.

    Args:
        model: Any module.
        model_sites: Every site of it.
        possible: From `choices`.
        held: From `already`.
    """
    found = list(dict.fromkeys(note for choice in possible for note in choice.notes if "budget" not in choice.code))
    norms = {type(site.holder).__name__ for site in model_sites if isinstance(site.holder, _BatchNorm)}
    depth = any(choice.axis == "depth" and not choice.refused for choice in possible)
    if norms and depth:
        found.append(
            f"{' and '.join(sorted(norms))}: the plans above leave every layer its own. One scale and shift for layers "
            "of different statistics let SPIN's network diverge (Lin 2022, supplement, table 2)."
        )
    kinds = {one.kind for one in held}
    if kinds & {"runs several times", "one module"}:
        found.append(
            "Some modules run several times in a pass: under DDP with activation checkpointing that needs "
            "static_graph=True."
        )
    if depth:
        found.append(
            "Share before what holds on to parameters: an optimizer (ws.check names what it misses), DDP, fully_shard, "
            "torch.compile, quantisation. What each method survives is tested: docs/surviving.md."
        )
        found.append(
            "torch.compile has had wrong gradients where one parameter is an input twice: the tests compare compiled "
            "and eager gradients of every method; do so once with a torch that they do not run on."
        )
    if any(site.tensor.is_meta for site in model_sites):
        found.append("The model is on the meta device: plans are exact, and what needs numbers is left out.")
    return found
