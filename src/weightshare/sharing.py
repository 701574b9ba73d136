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

**Two kinds of items.** Where items are whole weights, an assignment has as many labels as the network has layers, and
a plan holds it: a `Group`. Where items are parts of one weight, its scalars or its kernels at positions, there are as
many labels as parts: they are a tensor, so they live in the model, and a plan holds their count alone: `Decoded`, a
`Group` of one weight, such as `Clusters`. How the slots of a group get into a model and out again is known to its spec
(`share_`, `unshare_`, `fold_`), and how it is written to its kind, so a plan need not know what kind its groups are of.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from weightshare._table import run_text, shape_text
from weightshare.errors import FileError, SpecError
from weightshare.parts import Part
from weightshare.surgery import edit, sites

MOST_RUNS = 4
"""Runs of layers that a plan lists one by one."""


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
        return cls(torch.tensor(labels, dtype=torch.int64, device="cpu"))  # whatever the default device is

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

    columns: ClassVar[tuple[str, ...]] = (
        *("group", "weight", "layers", "slots", "layer reads slot", "stored before", "after"),
    )
    numbers: ClassVar[tuple[str, ...]] = ("slots", "stored before", "after")
    listed: ClassVar[bool] = True
    """Whether `assignment` says which item reads which slot, so that it can be listed and drawn."""

    @property
    def numel(self) -> int:
        """Numbers in one item."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return getattr(torch, self.dtype).itemsize

    @property
    def stored_before(self) -> int:
        return len(self.items) * self.numel

    @property
    def stored_after(self) -> int:
        return self.assignment.slots * self.numel

    @property
    def stored_slots(self) -> int:
        """How many slots are stored."""
        return self.assignment.slots

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """For each slot the paths that read it; the first of them owns the slot's parameter."""
        return tuple(tuple(self.items[item] for item in readers) for readers in self.assignment.readers)

    @property
    def row(self) -> tuple[object, ...]:
        """What a printed plan says of it, under `columns`."""
        labels = self.assignment.labels.tolist()
        numbers = (self.stored_before, self.stored_after)
        return self.name, shape_text(self.shape), _span(self), self.assignment.slots, run_text(labels), *numbers

    def shape_of(self, item: int) -> tuple[int, ...]:
        """Shape of an item, by its number: that of every item, but for a kind that says otherwise."""
        return self.shape

    def under(self, at: str) -> Self:
        """The same group with its paths from the root of a model that has the planned part at `at`."""
        return replace(self, items=tuple(f"{at}.{path}" for path in self.items)) if at else self

    @staticmethod
    def note(groups: "Sequence[Any]") -> str:
        """What a printed plan says below the table, or nothing."""
        return ""

    def entry(self) -> dict[str, Any]:
        """What a plan's JSON says of it: what all kinds have, and what is its own."""
        common = {"name": self.name, "items": self.items, "shape": self.shape, "dtype": self.dtype}
        return {**common, **self._own_entry()}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Self:
        """Read what `entry` gave, out of a file that is not to be trusted.

        Raises:
            FileError: If no group can be so. What is missing raises as Python says.
        """
        items = tuple(str(item) for item in entry["items"])
        labels = cls._labels(entry)
        if len(items) != len(labels) or len(set(items)) != len(items):
            raise FileError(f"Group {entry['name']!r} of the plan has {len(items)} items and {len(labels)} slots.")
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        if not isinstance(vars(torch).get(dtype), torch.dtype):  # vars, since getattr would import what a file names
            raise FileError(f"Group {entry['name']!r} of the plan has dtype {dtype!r}, which torch does not know.")
        if any(length < 0 for length in shape) or math.prod(shape) >= 2**62:
            raise FileError(f"Group {entry['name']!r} of the plan has shape {shape}, which no tensor has.")
        return cls(str(entry["name"]), items, shape, dtype, Assignment.of(labels), **cls._own_fields(entry, shape))

    def _own_entry(self) -> dict[str, Any]:
        return {"slots": self.assignment.labels.tolist()}

    @classmethod
    def _labels(cls, entry: Mapping[str, Any]) -> list[int]:
        return list(entry["slots"])

    @classmethod
    def _own_fields(cls, entry: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        """The fields that this kind adds, checked."""
        return {}


@dataclass(frozen=True)
class LeftOut:
    """A site that the pattern matches and the plan leaves as it is, with the reason."""

    path: str
    reason: str


class Spec(Part):
    """How to share: the abstract base of `Tie` and all that follow. A spec is a frozen dataclass, valid once built."""

    @property
    def kind(self) -> type[Group]:
        """Of all its groups."""
        return Group

    @abstractmethod
    def group(
        self, model_sites: Sequence[sites.Site], chosen: Sequence[sites.Site], explicit: bool
    ) -> tuple[list[Any], list[LeftOut]]:
        """Sort the chosen sites into groups with their assignments.

        Args:
            model_sites: Every site of the model.
            chosen: Those that the pattern matches.
            explicit: Whether the user gave a pattern. A site that cannot be shared is an error if named, and is left
                out with its reason if nobody asked for it.

        Returns:
            The groups, all of the spec's `kind`, and every chosen site that is in none of them.
        """

    @property
    def reads_batches(self) -> bool:
        """Whether applying it needs batches that the model can run on."""
        return False

    def reads_as(self, other: "Spec") -> bool:
        """Whether models that two specs shared store and read the same, where the groups of their plans are equal."""
        return self == other

    @property
    def generates(self) -> bool:
        """Whether layers read weights that are made in each forward pass, and hold none."""
        return False

    def share_groups_(self, edits: edit.Transaction, groups: Sequence[Any], batches: Iterable[Any] | None) -> None:
        """Share every group of a plan."""
        for group in groups:
            self.share_(edits, group)

    def notes(self, groups: Sequence[Any], model_sites: Sequence[sites.Site]) -> list[str]:
        """What the user should know before a plan of these groups is applied, a sentence or more each.

        A plan prints them as warnings below its table. By default there are none.

        Args:
            groups: From `group`.
            model_sites: Every site of the model.
        """
        return []

    @abstractmethod
    def share_(self, edits: edit.Transaction, group: Any) -> None:
        """Put the slots of a group into the model, and make its items read them."""

    @abstractmethod
    def unshare_(self, edits: edit.Transaction, group: Any) -> None:
        """Give every item of a group a parameter of its own again, with the numbers that it read."""

    def place_(self, edits: edit.Transaction, group: Any) -> None:
        """Make the items of a group read what a file will fill in. By default nothing: see `files.checkpoint`."""

    def fold_(self, edits: edit.Transaction, group: Any) -> None:
        """Leave torch's own classes alone. By default nothing: one parameter under several names is torch's own."""

    def check_loading(self, group: Any, entries: Mapping[str, Any], prefix: str) -> None:
        """Refuse a state dict that the model could not compute with, before it is loaded. By default nothing is."""


def _refuse_idle(used: Sequence[int], labels: Sequence[int]) -> None:
    """Refuse labels whose slots, given sorted and each once, do not count up from 0 without a hole."""
    if used and used[0] < 0:
        raise SpecError(f"Slots count from 0, got {list(labels)}.")
    for expected, slot in enumerate(used):
        if slot != expected:
            raise SpecError(
                f"Slot {expected} has no reader in {list(labels)}: every slot from 0 to the largest needs one."
            )


def _span(group: Group) -> str:
    """Which layers share, by the number of their block: `0–11`, or each run of them, so that a gap shows."""
    at, stem = next(((at, part[:-1]) for at, part in enumerate(group.name.split(".")) if part.endswith("*")), (0, None))
    parts = [path.split(".")[at : at + 1] for path in group.items] if stem is not None else []
    numbers = [part[0].removeprefix(stem or "") for part in parts if part]
    if not numbers or len(numbers) < len(parts) or not all(one.isdecimal() and len(one) < 10 for one in numbers):
        # a name out of a file may be any
        return str(len(group.items))
    return _runs([int(number) for number in numbers])


def _runs(indices: Sequence[int]) -> str:
    """Numbers as `0–3, 6, 8–9`; as `0–22 by 2`, or `11 of 0–22`, where that has too many parts.

    Example:
        >>> _runs([0, 1, 2, 5]), _runs(range(0, 14, 2)), _runs([0, 1, 3, 5, 7, 9, 11])
        ('0–2, 5', '0–12 by 2', '7 of 0–11')
    """
    starts = [0, *(at for at in range(1, len(indices)) if indices[at] != indices[at - 1] + 1)]
    runs = [indices[start:end] for start, end in zip(starts, [*starts[1:], len(indices)], strict=True)]
    whole = f"{indices[0]}–{indices[-1]}"
    if len(runs) <= MOST_RUNS:
        return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    steps = {later - one for one, later in pairwise(indices)}
    return f"{whole} by {steps.pop()}" if len(steps) == 1 else f"{len(indices)} of {whole}"
