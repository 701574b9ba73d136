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
import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from weightshare.errors import FileError, SpecError
from weightshare.surgery import sites


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
