"""The concept that every method of this library is an instance of.

**One equation.** A network reads weights `W_i`; it stores slots `S_j`. Sharing says how the first come from the second:

    W_i = Σ_j A_ij S_j

The *items* `i` are layers, positions or scalars; the *slots* `j` are what is stored; the **assignment** `A` says which
item reads which slot. Hard sharing has one 1 in each row of `A`. The assignment is one explicit value: tying, fusing,
measuring and folding all read the same one, and none of them recomputes it, so they cannot disagree.

**One pipeline.** A *spec* says how to share (`Tie(rate=2)`), a pattern says where. `plan(model, spec, where)` puts both
together with a model and yields a **plan**: the groups of sites, the assignment of each, the numbers before and after,
and what was left out with the reason. A plan is pure: it holds names and numbers, never tensors, so it can be printed,
compared, written as JSON, and read back in another process. Only `Plan.apply_` touches a model, and it changes all or
nothing.

**What remains on the model** is the sharing itself (parameters that several paths hold) and the list of applied plans
as one attribute of the root module, by which a report, a file or `retie_` knows what ought to be shared. The attribute
holds names, so it survives copies and moves.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
import hashlib
import json
import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from weightshare._table import render, run_text, shape_text
from weightshare._typing import Where
from weightshare.errors import AlreadyShared, FileError, ModelChanged, NoMatch, SpecError
from weightshare.surgery import count as counting
from weightshare.surgery import edit, sites

FORMAT = "weightshare.plan/1"
APPLIED = "_weightshare_plans"


@dataclass(frozen=True, eq=False)
class Assignment:
    """A hard assignment of items to slots: `A_ij = 1` exactly where `labels[i] == j`.

    Args:
        labels: `(items,)` int64; the slot of each item. Every slot from 0 to the largest has a reader.

    Raises:
        SpecError: If a label is negative or a slot below the largest has no reader.

    Example:
        >>> Assignment.of([0, 0, 1, 1]).readers
        ((0, 1), (2, 3))
    """

    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1 or not len(self.labels):
            raise SpecError(f"An assignment needs a non-empty row of int64 labels, got {self.labels!r}.")
        _refuse_idle(self.labels.unique().tolist(), self.labels.tolist())

    @classmethod
    def of(cls, labels: Sequence[int]) -> Self:
        """Make an assignment from a list of slots, one for each item."""
        labels = list(labels)
        if not all(isinstance(label, int) and not isinstance(label, bool) for label in labels):
            raise SpecError(f"The slots are whole numbers from 0, got {labels}.")
        _refuse_idle(sorted(set(labels)), labels)
        return cls(torch.tensor(labels, dtype=torch.int64))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Assignment) and torch.equal(self.labels, other.labels)

    def __hash__(self) -> int:
        return hash(tuple(self.labels.tolist()))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def slots(self) -> int:
        """How many slots are stored."""
        return int(self.labels.max()) + 1

    @property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each slot the items that read it, in order."""
        readers = defaultdict[int, list[int]](list)
        for item, slot in enumerate(self.labels.tolist()):
            readers[slot].append(item)
        return tuple(tuple(readers[slot]) for slot in range(self.slots))

    @property
    def matrix(self) -> Tensor:
        """`A` itself, `(items, slots)` float32: the slow twin that tests multiply by."""
        return nn.functional.one_hot(self.labels, self.slots).float()


@dataclass(frozen=True)
class Group:
    """Sites of one role, and how they read their slots.

    Args:
        name: The role, such as `blocks.*.mlp.fc1.weight`.
        items: Path of each site, in the order of the layers.
        shape: Shape of every item, and of every slot.
        dtype: Such as `float32`.
        assignment: Which item reads which slot.
    """

    name: str
    items: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    assignment: Assignment

    @property
    def numel(self) -> int:
        """Numbers in one slot."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of one slot."""
        return self.numel * getattr(torch, self.dtype).itemsize

    @property
    def stored_before(self) -> int:
        return len(self.items) * self.numel

    @property
    def stored_after(self) -> int:
        return self.assignment.slots * self.numel

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """For each slot the paths that read it; the first of them owns the slot's parameter."""
        return tuple(tuple(self.items[item] for item in readers) for readers in self.assignment.readers)


@dataclass(frozen=True)
class LeftOut:
    """A site that the pattern matches and the plan leaves as it is, with the reason."""

    path: str
    reason: str


class Part(ABC):  # noqa: B024 - its children are abstract
    """A frozen dataclass that a plan can write as JSON: `{"ClassName": {field: value}}`.

    Reading looks the name up among the classes that are imported, so a file can never make Python import or run
    anything, and a class of your own is readable once its module is imported.
    """

    def __repr__(self) -> str:
        """The call that makes it, without the fields that have their default."""
        assert is_dataclass(self)
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self._name()}({', '.join(f'{name}={value!r}' for name, value in given)})"

    def _name(self) -> str:
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        assert is_dataclass(self)
        return {type(self).__name__: {field.name: _plain(getattr(self, field.name)) for field in fields(self)}}

    @staticmethod
    def from_dict(data: object) -> "Part":
        if not isinstance(data, Mapping) or len(data) != 1:
            raise FileError(f"A spec in a plan needs the form {{name: fields}}, got {data!r}.")
        ((name, values),) = data.items()
        known: dict[str, Any] = {}
        for cls in _subclasses(Part):
            if is_dataclass(cls):
                known.setdefault(cls.__name__, cls)  # the first one, so that a later namesake does not take its place
        if name not in known or not isinstance(values, Mapping):
            raise FileError(
                f"The plan needs {name!r}, which is not among {sorted(known)}. Import the module that has it."
            )
        allowed = {field.name for field in fields(known[name])}
        if not set(values) <= allowed:
            raise FileError(f"{name} in the plan has fields {sorted(values)}, this version knows {sorted(allowed)}.")
        return known[name](**{key: _unplain(value) for key, value in values.items()})


class Spec(Part):
    """How to share: the abstract base of `Tie` and all that follow. A spec is a frozen dataclass, valid once built."""

    @abstractmethod
    def group(
        self, model_sites: Sequence[sites.Site], chosen: Sequence[sites.Site], explicit: bool
    ) -> tuple[list[Group], list[LeftOut]]:
        """Sort the chosen sites into groups with their assignments.

        Args:
            model_sites: Every site of the model.
            chosen: Those that the pattern matches.
            explicit: Whether the user gave a pattern. A site that cannot be shared is an error if named, and is left
                out with its reason if nobody asked for it.

        Returns:
            The groups, and every chosen site that is in none of them.
        """

    @abstractmethod
    def slot_values(self, group: Group, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The value of each slot, from the value of each item, both in order. Changes nothing that it is given."""


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
    """

    spec: Spec
    where: str
    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...]
    stored_before: int
    bytes_before: int
    signature: str

    @property
    def stored_after(self) -> int:
        """Parameters of the whole model once the plan is applied, each tensor once."""
        return self.stored_before - sum(group.stored_before - group.stored_after for group in self.groups)

    @property
    def bytes_after(self) -> int:
        return self.bytes_before - sum((len(g.items) - g.assignment.slots) * g.nbytes for g in self.groups)

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Every list of paths that are to be one parameter."""
        return tuple(tie for group in self.groups for tie in group.ties)

    def apply_(self, model: nn.Module) -> None:
        """Share the model's weights as planned, all or nothing.

        The parameter of a slot is the object that its first reader had, so an optimizer that held it keeps its state;
        call `weightshare.check` on an optimizer that was made before.

        Args:
            model: The model that the plan was made for, or one of equal structure. Its numbers may differ.

        Raises:
            ModelChanged: If names, shapes, dtypes or ties are not those that were planned for.
            ShapeMismatch: If weights of one slot lie on different devices, or some of them are frozen.
            SpecError: If a weight is on the meta device. In every case the model is bit for bit as it was.
        """
        self._expect(model)
        with edit.transaction(model) as edits:
            for group in self.groups:
                tensors = [edit.parameter_at(model, path) for path in group.items]
                for tie, readers in zip(group.ties, group.assignment.readers, strict=True):
                    edit.common_slot(tie, [tensors[item] for item in readers])
                with torch.no_grad():
                    values = self.spec.slot_values(group, tensors)
                for tie, readers, value in zip(group.ties, group.assignment.readers, values, strict=True):
                    owner = tensors[readers[0]]
                    if value.shape != owner.shape or value.dtype != owner.dtype:
                        raise SpecError(
                            f"The fusion of '{group.name}' gives {tuple(value.shape)} {value.dtype}, the slot needs "
                            f"{tuple(owner.shape)} {owner.dtype}: {self.spec!r}."
                        )
                    if len(tie) > 1:
                        edits.write(owner, value)
                        edits.forget_gradient(owner)
                    for path in tie[1:]:
                        edits.put(path, owner)
            edits.annotate(APPLIED, (*model.__dict__.get(APPLIED, ()), self))

    def _expect(self, model: nn.Module) -> None:
        found = {site.path: site for site in sites.sites(model)}
        aliases = {alias: path for path, site in found.items() for alias in site.aliases}
        for group in self.groups:
            for path in group.items:
                if path in aliases or (path in found and found[path].aliases):
                    other = aliases.get(path) or found[path].aliases[0]
                    raise AlreadyShared(
                        f"'{path}' is already one parameter with '{other}': unshare_ it before this plan."
                    )
                if path not in found:
                    raise ModelChanged(
                        f"The model has no parameter '{path}', which the plan shares. Plan for this model."
                    )
                site = found[path]
                if (site.shape, site.dtype) != (group.shape, group.dtype):
                    raise ModelChanged(
                        f"'{path}' has changed since the plan: got {site.shape} {site.dtype}, "
                        f"planned for {group.shape} {group.dtype}. Plan again."
                    )
                if site.tensor.is_meta:
                    raise SpecError(
                        f"'{path}' is on the meta device and has no numbers: load the model first, then apply."
                    )
        if signature(tuple(found.values())) != self.signature:
            raise ModelChanged(
                f"The model is not the one that was planned for: it stores {counting.count(model).stored:,} numbers, "
                f"the plan was made at {self.stored_before:,}, or names differ outside the groups. Plan again."
            )

    def to_json(self) -> str:
        """The plan as JSON text; `Plan.from_json` reads it back as an equal plan."""
        groups = [
            {
                "name": group.name,
                "items": group.items,
                "shape": group.shape,
                "dtype": group.dtype,
                "slots": group.assignment.labels.tolist(),
            }
            for group in self.groups
        ]
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
            groups = tuple(_group_from(entry) for entry in data["groups"])
            left_out = tuple(LeftOut(str(path), str(reason)) for path, reason in data["left_out"])
            spec = Part.from_dict(data["spec"])
            if not isinstance(spec, Spec):
                raise FileError(f"{type(spec).__name__} in the plan is no spec.")
            numbers = (int(data["stored_before"]), int(data["bytes_before"]))
            return cls(spec, str(data["where"]), groups, left_out, *numbers, str(data["signature"]))
        except FileError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise FileError(f"This is no plan: {type(error).__name__}: {error}.") from error

    def __str__(self) -> str:
        columns = ("group", "weight", "layers", "slots", "layer reads slot", "stored before", "after")
        rows: list[tuple[object, ...]] = [
            (
                group.name,
                shape_text(group.shape),
                len(group.items),
                group.assignment.slots,
                run_text(group.assignment.labels.tolist()),
                group.stored_before,
                group.stored_after,
            )
            for group in self.groups
        ]
        rows.append(("whole model", "", "", "", "", self.stored_before, self.stored_after))
        reasons = defaultdict[str, list[str]](list)
        for left in self.left_out:
            reasons[left.reason].append(left.path)
        return "\n".join(
            [
                f"{self.spec!r} where {self.where}",
                "",
                render(columns, rows, numbers=("layers", "slots", "stored before", "after")),
                "",
                f"{self.bytes_before:,} bytes in memory before, {self.bytes_after:,} after "
                f"({self.bytes_after / max(1, self.bytes_before):.1%}), buffers not counted.",
                *(f"Left out, {len(paths)}: {run_text(paths, 8)}: {reason}." for reason, paths in reasons.items()),
            ]
        )


def make_plan(model: nn.Module, spec: Spec, where: Where) -> Plan:
    """See `weightshare.plan`."""
    if not isinstance(spec, Spec):
        raise SpecError(f"spec={spec!r} is no spec: give one such as Tie(rate=2).")
    found = sites.sites(model)
    chosen = sites.select(found, where)
    groups, left_out = spec.group(found, chosen, explicit=where is not None)
    if not groups:
        reasons = "; ".join(f"'{left.path}': {left.reason}" for left in left_out[:4])
        more = f"; and {len(left_out) - 4} more" if len(left_out) > 4 else ""
        raise NoMatch(f"Nothing that where={sites.describe(where)} matches can be shared. {reasons}{more}.")
    counts = counting.count(model)
    return Plan(
        spec, sites.describe(where), tuple(groups), tuple(left_out), counts.stored, counts.bytes, signature(found)
    )


def applied_plans(model: nn.Module) -> Iterator[tuple[str, Plan]]:
    """The plans that were applied to a model or to a part of it, each with the path of that part."""
    for path, module in model.named_modules():
        for plan in module.__dict__.get(APPLIED, ()):
            yield path, plan


def applied_ties(model: nn.Module) -> list[tuple[str, ...]]:
    """Every list of paths that applied plans made one parameter, from the root of `model`, a slot's owner first."""
    return [
        tuple(f"{at}.{path}" if at else path for path in tie) for at, plan in applied_plans(model) for tie in plan.ties
    ]


def signature(found: Sequence[sites.Site]) -> str:
    """Hash of a model's structure: the names, shape and dtype of every parameter, in no order."""
    rows = sorted((*site.names, str(site.shape), site.dtype) for site in found)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def _group_from(entry: Mapping[str, Any]) -> Group:
    items, labels = tuple(str(item) for item in entry["items"]), [int(label) for label in entry["slots"]]
    if len(items) != len(labels) or len(set(items)) != len(items):
        raise FileError(f"Group {entry['name']!r} of the plan has {len(items)} items and {len(labels)} slots.")
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    if not isinstance(vars(torch).get(dtype), torch.dtype):  # vars, since getattr would import what a file names
        raise FileError(f"Group {entry['name']!r} of the plan has dtype {dtype!r}, which torch does not know.")
    if any(length < 0 for length in shape) or math.prod(shape) >= 2**62:
        raise FileError(f"Group {entry['name']!r} of the plan has shape {shape}, which no tensor has.")
    return Group(str(entry["name"]), items, shape, dtype, Assignment.of(labels))


def _refuse_idle(used: Sequence[int], labels: Sequence[int]) -> None:
    """Refuse labels whose slots, given sorted and each once, do not count up from 0 without a hole."""
    if used and used[0] < 0:
        raise SpecError(f"Slots count from 0, got {list(labels)}.")
    for expected, slot in enumerate(used):
        if slot != expected:
            raise SpecError(
                f"Slot {expected} has no reader in {list(labels)}: every slot from 0 to the largest needs one."
            )


def _subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Part) else list(value) if isinstance(value, tuple) else value


def _unplain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Part.from_dict(value)
    return tuple(value) if isinstance(value, list) else value
