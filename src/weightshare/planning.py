"""Plans: a spec, a pattern and a model put together, before anything is changed.

A plan is pure. It holds names and numbers, never tensors, so it can be printed, compared, written as JSON, and applied
in another process to a model of equal structure. Applied plans stay on the model as names, in one attribute of the root
module; by them a report, a file or `retie_` knows what ought to be shared. Two hooks on that module keep the ties over
`load_state_dict`, whose `assign=True` puts a new parameter at every name.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import hashlib
import json
from typing import Any, Self
import warnings

from torch import Tensor, nn

from weightshare._table import render, run_text
from weightshare._typing import Where
from weightshare.errors import AlreadyShared, FileError, ModelChanged, NoMatch, SharingError, SpecError
from weightshare.parts import Part
from weightshare.sharing import Group, LeftOut, Spec
from weightshare.surgery import compare, edit, shards, sites
from weightshare.surgery import count as counting
from weightshare.surgery.quantised import ADVICE, packed_layers

FORMAT = "weightshare.plan/1"
APPLIED = "_weightshare_plans"
WATCH = "_weightshare_hooks"


@dataclass(frozen=True)
class Plan:
    """What will be shared, before anything is: made by `weightshare.plan`, printed, then applied.

    Args:
        spec: How the groups share.
        where: The pattern, as printed.
        groups: Sites that share, by role.
        left_out: Sites that the pattern matches and that stay as they are.
        stored_before: Parameters of the whole model now, each tensor once, buffers not counted.
        bytes_before: Their memory, in bytes.
        signature: Hash of the model's names, shapes, dtypes and ties, by which a changed model is refused.
        notes: What the spec warns of, such as a shared batch norm, or what `suggest` compared.
    """

    spec: Spec
    where: str
    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...]
    stored_before: int
    bytes_before: int
    signature: str
    notes: tuple[str, ...] = ()

    @property
    def stored_after(self) -> int:
        """Parameters of the whole model once the plan is applied, each tensor once."""
        return self.stored_before - sum(group.stored_before - group.stored_after for group in self.groups)

    @property
    def bytes_after(self) -> int:
        """Memory of the parameters once the plan is applied, in bytes."""
        return self.bytes_before - sum((g.stored_before - g.stored_after) * g.itemsize for g in self.groups)

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Every list of paths that are to be one parameter."""
        return tuple(tie for group in self.groups for tie in group.ties)

    def apply_(self, model: nn.Module, batches: Iterable[Any] | None = None) -> None:
        """Share the model's weights as planned, all or nothing.

        The parameter of a slot is the object that its first reader had, so an optimizer that held it keeps its state;
        call `weightshare.check` on an optimizer that was made before.

        Args:
            model: The model that the plan was made for, or one of equal structure. Its numbers may differ.
            batches: For a fusion that reads activations, and for no other: what the model can run on, each a tensor, a
                sequence of positional arguments or a mapping of keyword arguments.

        Raises:
            ModelChanged: If names, shapes, dtypes or ties are not those that were planned for.
            AlreadyShared: If a weight is one parameter with another one already, or lies in the same memory.
            ShapeMismatch: If weights of one slot lie on different devices, or some of them are frozen.
            SpecError: If a weight is on the meta device or cannot be written, a fusion gives what no slot can hold, or
                batches are missing, not wanted, or nothing that the model can run on.
                In every case the model is bit for bit as it was.
        """
        model = sites.plain(model)
        shards.refuse_spread(model, "A plan is applied", "Share first, then shard.")
        self._expect(model)
        if self.spec.reads_batches != (batches is not None):
            needs = "reads activations: give apply_ batches=..." if batches is None else "reads no batches: give none"
            raise SpecError(f"{self.spec!r} {needs}.")
        if isinstance(batches, Tensor | Mapping | str) or not (batches is None or isinstance(batches, Iterable)):
            raise SpecError(
                f"batches={type(batches).__name__}: need a list of batches, or anything else that gives one after the "
                "other, such as a data loader; batches=[x] for one."
            )
        with edit.transaction(model) as edits:
            self.spec.share_groups_(edits, self.groups, batches)
            record(edits, "", self)

    def _expect(self, model: nn.Module) -> None:
        found = {site.path: site for site in sites.sites(model)}
        aliases = {alias: path for path, site in found.items() for alias in site.aliases}
        for group in self.groups:
            for number, path in enumerate(group.items):
                if path in aliases or (path in found and found[path].aliases):
                    other = aliases.get(path) or found[path].aliases[0]
                    raise AlreadyShared(
                        f"'{path}' is already one parameter with '{other}': give it one of its own before this plan."
                    )
                if path not in found:
                    raise ModelChanged(
                        f"The model has no parameter '{path}', which the plan shares. Plan for this model."
                    )
                site = found[path]
                if (site.shape, site.dtype) != (group.shape_of(number), group.dtype):
                    raise ModelChanged(
                        f"'{path}' has changed since the plan: got {site.shape} {site.dtype}, "
                        f"planned for {group.shape_of(number)} {group.dtype}. Plan again."
                    )
                if site.tensor.is_meta:
                    raise SpecError(
                        f"'{path}' is on the meta device and has no numbers: load the model first, then apply."
                    )
        shared_memory = compare.overlap({path: found[path].tensor for group in self.groups for path in group.items})
        if shared_memory:
            raise AlreadyShared(
                "'{}' and '{}' are different parameters in the same memory: writing one would change the other. Give "
                "each memory of its own, such as tensor.clone(), or make them one parameter.".format(*shared_memory)
            )
        stored = counting.count(model).stored
        if signature(tuple(found.values())) != self.signature or stored != self.stored_before:
            raise ModelChanged(
                f"The model is not the one that was planned for: it stores {stored:,} numbers, "
                f"the plan was made at {self.stored_before:,}, or names differ outside the groups. Plan again."
            )

    def to_json(self) -> str:
        """The plan as JSON text; `Plan.from_json` reads it back as an equal plan."""
        groups = [group.entry() for group in self.groups]
        data = {
            "format": FORMAT,
            "spec": self.spec.to_dict(),
            "where": self.where,
            "groups": groups,
            "left_out": [[left.path, left.reason] for left in self.left_out],
            "stored_before": self.stored_before,
            "bytes_before": self.bytes_before,
            "signature": self.signature,
        }
        if self.notes:
            data["notes"] = self.notes
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a plan that `to_json` wrote.

        Raises:
            FileError: If the text is no plan of a format that this version reads.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise FileError(f"The plan has format {data['format']!r}, this version reads {FORMAT!r}.")
            left_out = tuple(LeftOut(str(path), str(reason)) for path, reason in data["left_out"])
            spec = Part.from_dict(data["spec"])
            if not isinstance(spec, Spec):
                raise FileError(f"{type(spec).__name__} in the plan is no spec.")
            groups = tuple(spec.kind.from_entry(entry) for entry in data["groups"])
            numbers = (int(data["stored_before"]), int(data["bytes_before"]))
            notes = data.get("notes", [])
            if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
                raise FileError(f"The plan has {notes!r} as notes, which are no list of texts.")
            items = [item for group in groups for item in group.items]
            if not items or len(set(items)) != len(items) or min(numbers) < 0:
                raise FileError("The plan has no group, or a parameter in two groups, or a negative count.")
            return cls(spec, str(data["where"]), groups, left_out, *numbers, str(data["signature"]), tuple(notes))
        except FileError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise FileError(f"This is no plan: {type(error).__name__}: {error}.") from error

    @property
    def heading(self) -> str:
        """How and where, as the first line of a printed plan says it."""
        return f"{self.spec!r} {sites.where_text(self.where)}"

    def __str__(self) -> str:
        kind = self.spec.kind
        whole = {"group": "whole model", "stored before": self.stored_before, "after": self.stored_after}
        rows = [group.row for group in self.groups]
        shown = [at for at in range(len(kind.columns)) if any(row[at] != "" for row in rows)]  # none that is empty
        columns = [kind.columns[at] for at in shown]
        cells = [[row[at] for at in shown] for row in rows] + [[whole.get(title, "") for title in columns]]
        reasons = defaultdict[str, list[str]](list)
        for left in self.left_out:
            reasons[left.reason].append(left.path)
        return "\n".join(
            [
                self.heading,
                "",
                render(columns, cells, numbers=kind.numbers),
                "",
                f"{self.bytes_before:,} bytes in memory before, {self.bytes_after:,} after "
                f"({self.bytes_after / max(1, self.bytes_before):.1%}), buffers not counted.",
                *filter(None, [kind.note(self.groups)]),
                *(f"Note: {note}" for note in self.notes),
                *(f"Left out, {len(paths)}: {_listed(paths)}: {reason}." for reason, paths in reasons.items()),
            ]
        )


def make_plan(model: nn.Module, spec: Spec, where: Where) -> Plan:
    """See `weightshare.plan`."""
    if not isinstance(spec, Spec):
        raise SpecError(f"spec={spec!r} is no spec: give one such as Tie(rate=2).")
    try:
        json.dumps(spec.to_dict())
    except (TypeError, ValueError) as error:
        raise SpecError(f"{spec!r} cannot be written as JSON, so no plan could hold it: {error}") from error
    try:
        found = sites.sites(model)
        chosen = sites.select(found, where)
    except SharingError as error:
        hidden = packed_layers(model, where)
        if hidden:
            path, reason = next(iter(hidden.items()))
            more = f", as {len(hidden) - 1} more" if len(hidden) > 1 else ""
            raise type(error)(f"{error} '{path}' is quantised{more}: {reason}. {ADVICE}.") from error
        raise
    groups, left_out = spec.group(found, chosen, explicit=where is not None)
    left_out += [LeftOut(path, reason) for path, reason in packed_layers(model, where).items()]
    if not groups:
        reasons = "; ".join(f"'{left.path}': {left.reason}" for left in left_out[:4])
        more = f"; and {len(left_out) - 4} more" if len(left_out) > 4 else ""
        raise NoMatch(f"Nothing that where={sites.describe(where)} matches can be shared. {reasons}{more}.")
    counts = counting.count(model)
    return Plan(
        *(spec, sites.describe(where), tuple(groups), tuple(left_out), counts.stored, counts.bytes, signature(found)),
        notes=tuple(spec.notes(groups, found)),
    )


def applied_plans(model: nn.Module) -> Iterator[tuple[str, Plan]]:
    """The plans that were applied to a model or to a part of it, each with the path of that part."""
    for path, module in sites.plain(model).named_modules():
        for plan in module.__dict__.get(APPLIED, ()):
            yield path, plan


def applied_ties(model: nn.Module) -> list[tuple[str, ...]]:
    """Every list of paths that applied plans made one parameter, from the root of `model`, a slot's owner first."""
    return [tuple(from_root(at, path) for path in tie) for at, plan in applied_plans(model) for tie in plan.ties]


def refuse_undone(model: nn.Module) -> None:
    """Raise `ModelChanged` if ties that plans made have come undone, naming the first of them.

    It says nothing of weights that are made in each pass: those read a bank, and are tied to nothing.
    """
    undone = [
        (other, owner)
        for owner, *others in applied_ties(model)
        for other in others
        if edit.parameter_at(model, other) is not edit.parameter_at(model, owner)
    ]
    if undone:
        listed = "; ".join(f"'{other}' and '{owner}'" for other, owner in undone[:4])
        more = f"; and {len(undone) - 4} more pairs" if len(undone) > 4 else ""
        raise ModelChanged(
            f"{listed}{more} were one parameter and no longer are: to_empty(), or setting one of them, unties without "
            "a word. Call retie_(model) to tie them again (compare=False where their numbers differ now, which keeps "
            "those of the second name), or unshare_(model) to leave them apart."
        )


def record(edits: edit.Transaction, at: str, plan: Plan) -> None:
    """Keep an applied plan on the part at a path, and watch what is loaded into that part from now on."""
    part = edits.model.get_submodule(at)
    if not part.__dict__.get(APPLIED):
        edits.watch_loading(WATCH, at, _before_loading, _after_loading)
    edits.annotate(APPLIED, (*part.__dict__.get(APPLIED, ()), plan), at)


def forget(edits: edit.Transaction, model: nn.Module) -> None:
    """Remove every trace of applied plans from a model; its ties stay as they are."""
    for at in {at for at, _ in applied_plans(model)}:
        edits.annotate(APPLIED, None, at)
        edits.unwatch(WATCH, at)


def _before_loading(part: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Before a state dict is loaded: complete what names a slot only once, refuse what gives one slot two values."""
    applied: Sequence[Plan] = part.__dict__.get(APPLIED, ())
    for plan in applied:
        for group in plan.groups:
            plan.spec.check_loading(group, state, prefix)
    for tie in (tie for plan in applied for tie in plan.ties):
        present = [prefix + name for name in tie if prefix + name in state]
        for name in present[1:]:
            if not compare.same_numbers(state[present[0]], state[name]):
                raise ModelChanged(
                    f"The state dict holds different numbers for '{present[0]}' and '{name}', which the model ties: "
                    "one of them would be lost without a word. Load it into a model that is not shared, then share it."
                )
        for name in tie:
            if present:
                state.setdefault(prefix + name, state[present[0]])


def _after_loading(part: nn.Module, _: object) -> None:
    """After a state dict was loaded: `assign=True` has put a parameter of its own at every name, so tie again."""
    with edit.transaction(part) as edits:
        for tie in (tie for plan in part.__dict__.get(APPLIED, ()) for tie in plan.ties):
            try:
                edit.tie(edits, [tie])
            except ModelChanged as error:
                warnings.warn(f"A tie is still undone after loading: {error}", stacklevel=2)


def from_root(at: str, path: str) -> str:
    """A path inside the part that a plan was applied to, from the root of the model."""
    return f"{at}.{path}" if at else path


def signature(found: Sequence[sites.Site]) -> str:
    """Hash of a model's structure: the names, shape and dtype of every parameter, in no order."""
    rows = sorted((*site.names, str(site.shape), site.dtype) for site in found)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def _listed(paths: Sequence[str]) -> str:
    return run_text(paths, 8) + (" (all are in plan.left_out)" if len(paths) > 8 else "")
