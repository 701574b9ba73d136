"""Folding: layers whose mixtures are parallel become one layer, and equal blocks that follow each other a loop.

`|cos(α_i, α_j)| = 1` means `W_j = c·W_i`. Each kind of parallel layers is stored once; a layer keeps its factor `c`,
and whatever else is its own. A group whose layers then store no more numbers than its templates goes back to plain
weights: of one shape, a group with at most as many layers as templates. Blocks all of whose weights are then those of a
block before run as further passes of it.

The way is a plan first: it prints the loops, and the change of outputs on given inputs.

In the grid: across depth, from soft sharing to hard sharing to fewer layers.
Source: Savarese 2019, "Folding learned networks into explicitly recurrent forms".
Differs: the poster sets `α_i = ±α_j`; here the factor is kept, or its sign alone (`scale="sign"`). Trained norms are
never equal, so each pass keeps its own. Which of several parallel layers are one kind is not said there.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from weightshare import planning
from weightshare._table import render, run_text
from weightshare.depth.chain import Chain, chains, close_, within_blocks
from weightshare.depth.kinds import NEAR, Kind, Scale, apart_by_shape, joined, of_one_shape, parallel
from weightshare.depth.loops import Scaled
from weightshare.depth.lsm import Mixture, mixtures, similarity_matrix
from weightshare.depth.templates import TemplateBank, TemplateGroup, release_
from weightshare.errors import ModelChanged, NoMatch, SpecError
from weightshare.surgery import edit
from weightshare.surgery.compare import error_text, output_error
from weightshare.surgery.copies import copied
from weightshare.surgery.count import count
from weightshare.surgery.sites import unwrapped
from weightshare.surgery.watch import run

Found = tuple[tuple[str, ...], tuple[float, ...] | None]
"""Paths of parallel layers, and their factors where a plan has them."""


@dataclass(frozen=True)
class FoldedGroup:
    """What becomes of the layers of one bank.

    Args:
        name: As in the plan of the templates.
        layers: How many there are.
        templates: Of the bank.
        kinds: Those of several layers.
        distinct: How many layers are left.
        plain: Whether these have weights of their own; else they go on reading the bank.
        why_apart: Layers that are parallel to others and stay apart, each with the reason.
    """

    name: str
    layers: int
    templates: int
    kinds: tuple[Kind, ...]
    distinct: int
    plain: bool
    why_apart: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LoopPlan:
    """What folding templates will do, before it is done: made by `plan_loops`, printed, then `fold`ed.

    Args:
        threshold: Least `|cos|` of layers that become one.
        scale: Whether factors are kept, or their signs.
        keep_templates: Whether groups that are left with more layers than templates go on reading these.
        groups: One for each bank.
        chains: Chains of blocks in which layers were found equal, with their loops.
        stored_before: Parameters of the whole model now.
        stored_after: Parameters once it is folded.
        output_error: Change of outputs on the inputs, relative, over all of them; `None` without inputs.
    """

    threshold: float
    scale: Scale
    keep_templates: bool
    groups: tuple[FoldedGroup, ...]
    chains: tuple[Chain, ...]
    stored_before: int
    stored_after: int
    output_error: float | None = None

    @property
    def removed(self) -> int:
        """How many layers are further passes of others."""
        return sum(group.layers - group.distinct for group in self.groups)

    def fold(self, model: nn.Module) -> nn.Module:
        """A new module as planned, with fewer layers; the model stays as it is.

        Args:
            model: The one that was planned for, or one of equal structure that reads templates too, as to load a file
                of the folded network into. Its numbers may differ; what is one, and by which factors, is the plan's.

        Raises:
            ModelChanged: If it has not the groups of the plan.
        """
        names = {group.name: group.layers for group in self.groups}
        there = {name: len(mixture.layers) for name, mixture in _groups(unwrapped(model)).items()}
        if names != there:
            raise ModelChanged(f"The plan is for templates of {names}, the model has {there}. Plan again.")
        kinds = {group.name: [(kind.items, kind.factors) for kind in group.kinds] for group in self.groups}
        return _folded(unwrapped(model), kinds, self.scale, self.keep_templates)[0]

    def __str__(self) -> str:
        columns = ("group", "layers", "templates", "layers left", "stored as", "largest error of a weight")
        rows = [
            (
                *(group.name, group.layers, group.templates, group.distinct),
                "weights" if group.plain else "mixtures",
                error_text(max((kind.error for kind in group.kinds), default=0.0)),
            )
            for group in self.groups
        ]
        changed = f" Outputs change by {error_text(self.output_error)}, relative."
        change = " Outputs stay equal to the bit." if self.output_error == 0 else changed
        change = "" if self.output_error is None else change
        text = [
            f"Layers with |cos| ≥ {self.threshold:g} become one, {_said(self.scale)}.",
            "",
            render(columns, rows, numbers=("layers", "templates", "layers left", columns[-1])),
            "",
            f"{self.removed} of {sum(group.layers for group in self.groups)} layers go; {self.stored_before:,} stored "
            f"numbers become {self.stored_after:,}.{change}",
        ]
        for group in self.groups:
            for kind in group.kinds:
                factors = (
                    "" if set(kind.factors) == {1.0} else ", times " + run_text([f"{f:.3g}" for f in kind.factors])
                )
                text.append(f"One layer: {run_text(kind.items, 8)}{factors}.")
            text += [f"Apart: '{path}' {reason}." for path, reason in group.why_apart]
            if not group.plain and group.kinds:
                text.append(
                    f"'{group.name}' keeps its {group.templates} templates: {group.distinct} layers of their own would "
                    "store more. Its coefficients become parallel."
                )
        for chain in self.chains:
            text.append(f"Chain '{chain.path}': {chain}" if chain.path else f"Chain: {chain}")
            text += [f"  No loop here: {reason}." for reason in chain.open]
        tied = [kind.items for group in self.groups if group.plain for kind in group.kinds]
        text += [f"No loop: {reason}." for reason in within_blocks(self.chains, tied)]
        return "\n".join(text)


def plan_loops(
    model: nn.Module,
    threshold: float = 0.99,
    scale: Scale = "keep",
    keep_templates: bool = True,
    batches: Iterable[Any] | None = None,
) -> LoopPlan:
    """Say what folding a network of templates would do: which layers become one, which loops there are, what changes.

    Args:
        model: A network whose layers read templates (`Templates`). It is not changed.
        threshold: Layers whose coefficients have `|cos|` of at least this become one, 0 to 1: each with each of a kind.
            1 is 1 but for rounding.
        scale: What a layer keeps: `keep` is the factor that makes it closest to what it was, trained from then on;
            `sign` is 1 or -1, as on the poster.
        keep_templates: A group that is left with more layers than templates goes on reading these, since it would store
            more without: its coefficients become parallel, and no loop is closed. `False` gives it weights anyway.
        batches: Inputs on which the change of outputs is measured, in evaluation mode, each a tensor, a sequence of
            positional arguments or a mapping of keywords.

    Returns:
        The plan: print it, then `plan.fold(model)`.

    Raises:
        SpecError: If the threshold is no number from 0 to 1, the scale neither of both, or the model cannot run on a
            batch.
        NoMatch: If no layer of the model reads templates.
        ModelChanged: If layers do not read their bank any more, or a later plan shares what a bank stores.

    Source: Savarese 2019, folding. Differs: see the module.

    Example:
        >>> from weightshare.verbs import share_
        >>> from weightshare.depth.templates import Templates
        >>> net = nn.Sequential(*(nn.Linear(5, 5, bias=False) for _ in range(4)))
        >>> _ = share_(net, Templates(2, init="sparse"))
        >>> plan = plan_loops(net, batches=[torch.randn(3, 5)])
        >>> plan.stored_before, plan.stored_after, plan.removed, plan.output_error
        (58, 50, 2, 0.0)
        >>> plan.fold(net)  # doctest: +ELLIPSIS
        Looped(
          2 × (0 → 1)
          ...
        )
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise SpecError(
            f"threshold={threshold!r}: need a number from 0 to 1, the least |cos| of layers that become one."
        )
    if scale not in get_args(Scale):
        raise SpecError(f"scale={scale!r}: need 'keep' or 'sign'.")
    if isinstance(batches, Tensor | Mapping | str) or not (batches is None or isinstance(batches, Iterable)):
        raise SpecError(f"batches={type(batches).__name__}: need a list of batches; batches=[x] for one.")
    model = unwrapped(model)
    groups = _groups(model)
    if not groups:
        raise NoMatch(f"{type(model).__name__} has no layer that reads templates: share_(model, Templates(...)) first.")
    kinds: dict[str, list[Found]] = {}
    others: dict[str, tuple[tuple[str, str], ...]] = {}
    for name, mixture in groups.items():
        items, bank = mixture.layers, mixture.bank
        if bank.coefficients.is_meta:
            raise SpecError(f"'{name}' is on the meta device and has no numbers: load the model first.")
        if not bool(bank.coefficients.isfinite().all()):
            raise SpecError(
                f"The coefficients of '{name}' hold NaN or infinity: find out why before layers are folded."
            )
        if bank.coefficients.is_complex():
            raise SpecError(f"'{name}' is complex: layers that differ by a phase have no sign to fold by.")
        alike = similarity_matrix(bank.coefficients)
        labels = parallel(of_one_shape(alike, bank.shapes), min(threshold, 1 - NEAR))
        others[name] = apart_by_shape(items, alike, bank.shapes, labels, threshold)
        kinds[name] = [
            (tuple(path for path, label in zip(items, labels, strict=True) if label == kind), None)
            for kind in dict.fromkeys(labels)
        ]
    folded, found, chained = _folded(model, kinds, scale, keep_templates)
    found = tuple(replace(group, why_apart=(*group.why_apart, *others[group.name])) for group in found)
    error = None
    if batches is not None:
        pairs = [(run(model, batch, f"batch {n}"), run(folded, batch, f"batch {n}")) for n, batch in enumerate(batches)]
        error = output_error([one for one, _ in pairs], [other for _, other in pairs])
        if error is None:
            what = "gives no floating-point tensors on them" if pairs else "was given none of them"
            raise SpecError(f"batches: {type(model).__name__} {what}, so no change of outputs can be measured.")
    stored = count(model).stored, count(folded).stored
    return LoopPlan(threshold, scale, keep_templates, found, chained, *stored, error)


def _groups(model: nn.Module) -> dict[str, Mixture]:
    """The groups of layers that read templates, by name; a later plan must not share what their banks store."""
    found = mixtures(model)
    names = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    for name, mixture in found.items():
        own = {"templates", "coefficients"} == mixture.bank._parameters.keys()
        if not own or any(names[id(tensor)] > 1 for tensor in mixture.bank.parameters()):
            raise ModelChanged(
                f"What the bank of '{name}' stores is shared itself by a later plan: unshare_ that before layers are "
                "folded."
            )
    return found


def _folded(
    model: nn.Module, kinds: Mapping[str, Sequence[Found]], scale: Scale, keep_templates: bool
) -> tuple[nn.Module, tuple[FoldedGroup, ...], tuple[Chain, ...]]:
    """A copy in which every kind is one layer, what became of the groups, and the chains that they lie in."""
    folded = copied(model)
    found = []
    gone: set[str] = set()
    wraps: dict[str, float | nn.Parameter] = {}
    with edit.transaction(folded) as edits, torch.no_grad():
        for name, mixture in _groups(folded).items():
            group, bank = mixture.group, mixture.bank
            made, values = _planned(folded, name, group, bank, kinds[name], scale)
            made = replace(made, plain=made.plain or not keep_templates)
            found.append(made)
            if made.plain:
                gone.update(group.items)
                wraps |= _write_out(edits, group, made.kinds, values)
            else:
                _make_parallel(group, bank, made.kinds)
        _keep_plans(edits, gone)
        tied = [kind.items for group in found if group.plain for kind in group.kinds]
        chained = chains(folded, tied)  # before layers are wrapped: a factor makes no block another one
        for path, factor in wraps.items():
            edits.replace(path, Scaled(folded.get_submodule(path), factor))
        return close_(edits, chained), tuple(found), tuple(chained)


def _planned(
    model: nn.Module,
    name: str,
    group: TemplateGroup,
    bank: TemplateBank,
    kinds: Sequence[Found],
    scale: Scale,
) -> tuple[FoldedGroup, list[Tensor]]:
    """What becomes of a group, and the weight of each of its kinds."""
    weights = dict(zip(group.items, (weight.detach() for weight in bank()), strict=True))
    found, apart = [], []
    for items, factors in (kind for kind in kinds if len(kind[0]) > 1):
        kind, value = joined(items, weights, scale, factors)
        reasons = {
            path: _no_factor(model, path) for path, factor in zip(items, kind.factors, strict=True) if factor != 1
        }
        kept = [path for path in items if not reasons.get(path)]
        apart += [(path, f"is parallel to '{items[0]}', and {reason}") for path, reason in reasons.items() if reason]
        if len(kept) > 1:
            found.append((kind, value) if len(kept) == len(items) else joined(kept, weights, scale))
    distinct = len(group.items) - sum(len(kind.items) - 1 for kind, _ in found)
    some = tuple(kind for kind, _ in found)
    gone = {path for kind in some for path in kind.items[1:]}
    numbers = sum(weight.numel() for path, weight in weights.items() if path not in gone)
    counts = (len(group.items), group.templates, some, distinct, numbers <= group.templates * group.numel)
    return FoldedGroup(name, *counts, tuple(apart)), [value for _, value in found]


def _no_factor(model: nn.Module, path: str) -> str:
    """Why a weight cannot be read times a factor, or nothing."""
    parent, _, name = path.rpartition(".")
    layer = model.get_submodule(parent)
    if name != "weight" or not Scaled.fits(layer):
        return f"its layer, a {type(layer).__name__}, has no place for a factor"
    return "" if parent else "its layer is the model itself"


def _write_out(
    edits: edit.Transaction, group: TemplateGroup, kinds: Sequence[Kind], values: Sequence[Tensor]
) -> dict[str, float | nn.Parameter]:
    """Give a group's layers plain weights, one to each kind; returns the factors of layers that need one."""
    weights = dict(zip(group.items, release_(edits, group), strict=True))
    factors: dict[str, float | nn.Parameter] = {}
    for kind, value in zip(kinds, values, strict=True):
        owner = weights[kind.items[0]]
        edits.write(owner, value)
        for path, factor in zip(kind.items[1:], kind.factors[1:], strict=True):
            edits.put(path, owner)
            if factor != 1:
                trained = nn.Parameter(owner.new_tensor(factor), owner.requires_grad)
                factors[path.rpartition(".")[0]] = factor if factor == -1 else trained
    return factors


def _make_parallel(group: TemplateGroup, bank: TemplateBank, kinds: Sequence[Kind]) -> None:
    """Give layers of one kind coefficients that are exactly parallel."""
    row = {path: at for at, path in enumerate(group.items)}
    for kind in kinds:
        rows = [row[path] for path in kind.items]
        factors = torch.tensor(kind.factors, dtype=torch.float64)
        old = bank.coefficients[rows].double()
        common = (factors @ old) / factors.square().sum()
        bank.coefficients[rows] = (factors[:, None] * common).to(bank.coefficients.dtype)


def _keep_plans(edits: edit.Transaction, gone: set[str]) -> None:
    """Leave of the applied plans those groups whose layers are still shared as they say."""
    kept: dict[str, list[planning.Plan]] = {}
    for at, plan in planning.applied_plans(edits.model):
        groups = tuple(group for group in plan.groups if planning.from_root(at, group.items[0]) not in gone)
        kept.setdefault(at, []).extend([replace(plan, groups=groups)] if groups else [])
    planning.forget(edits, edits.model)
    for at, plans in kept.items():
        for plan in plans:
            planning.record(edits, at, plan)


def _said(scale: Scale) -> str:
    return "each times a factor of its own" if scale == "keep" else "each times 1 or -1"
