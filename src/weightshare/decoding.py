"""Sharing inside one weight: the weight that a forward pass reads is made from fewer stored numbers at every read.

Where a spec shares layers, several paths hold one parameter. Where it shares parts of one weight, its scalars or its
kernels at positions, nothing but a function of what is stored can give the weight: torch's own parametrization calls
it, so all that knows parametrized modules knows these: state dicts, optimizers, compilers, autocast, copies. What torch
refuses for them (pickling the module itself) it refuses here too.

A new kind of this family says which weights it fits (`group`), what is stored for one (`find`) and how the weight comes
back from that (`decoder`). The rest is here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weightshare._table import shape_text
from weightshare.errors import AlreadyShared, FileError, ModelChanged, SpecError
from weightshare.sharing import Group, LeftOut, Spec
from weightshare.surgery import edit, sites
from weightshare.surgery.precision import without_autocast
from weightshare.surgery.sites import Site

MOST_CLUSTERS = 2**16
"""An index takes at most 16 bits."""
LOOKUP, MIXTURE = "W = C[I]", "W = A·T"
"""The rules by which files make a weight: rows of a codebook by labels; templates mixed by coefficients."""


@dataclass(frozen=True)
class Decoded(Group, ABC):
    """One weight that a parametrization of torch makes from two stored tensors at every read; abstract.

    The first is the parametrization's original, a parameter with the slots. The second is the decoder's own: a buffer
    of labels, or a parameter of coefficients. `name` is the weight's path, and `items` holds it alone.
    """

    rule: ClassVar[str]
    """How files name what makes it."""
    second: ClassVar[str]
    """What the decoder calls its own tensor."""
    listed: ClassVar[bool] = False  # as many labels as weights, in the model

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """None: no two paths become one parameter."""
        return ()

    @property
    def keys(self) -> tuple[str, str]:
        """What the two stored tensors are called in a state dict."""
        return sites.decoded_names(self.items[0], self.second)

    @property
    @abstractmethod
    def stored_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the two stored tensors."""

    @property
    def index_memory(self) -> int:
        """Bytes of labels in memory, if there are any."""
        return 0

    @classmethod
    def _labels(cls, entry: Mapping[str, Any]) -> list[int]:
        return [0]


@dataclass(frozen=True)
class Clusters(Decoded):
    """The scalars of one weight, which read the values of a codebook: `W = C[I]`.

    Args:
        name: The weight's path.
        items: The same path, alone.
        shape: Shape of the weight.
        dtype: Of the weight, and of the codebook.
        assignment: That of a weight which is stored once. The labels of its scalars are a buffer of the model.
        clusters: Values of the codebook.
    """

    clusters: int

    rule: ClassVar[str] = LOOKUP
    second: ClassVar[str] = "index"
    columns: ClassVar[tuple[str, ...]] = (
        *("group", "weight", "stored before", "after"),
        *("bits", "index in memory", "on file: codebook", "+ index", "dense"),
    )
    numbers: ClassVar[tuple[str, ...]] = columns[2:]

    @property
    def stored_after(self) -> int:
        return self.clusters

    @property
    def stored_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.clusters,), self.shape

    @property
    def bits(self) -> int:
        """Bits of one label on file."""
        return index_bits(self.clusters)

    @property
    def index_memory(self) -> int:
        """Bytes of the labels in memory."""
        return self.numel * index_dtype(self.clusters).itemsize

    @property
    def on_file(self) -> tuple[int, int, int]:
        """Bytes on file: of the codebook, of the packed labels, and of the dense weight that they replace."""
        return self.clusters * self.itemsize, -(-self.numel * self.bits // 8), self.numel * self.itemsize

    @property
    def row(self) -> tuple[object, ...]:
        """What a printed plan says of it, under `columns`."""
        numbers = (self.stored_before, self.stored_after, self.bits, self.index_memory)
        return self.name, shape_text(self.shape), *numbers, *self.on_file

    @staticmethod
    def note(groups: "Sequence[Clusters]") -> str:
        """The sums of what the table lists, in bytes."""
        codebooks, packed, dense = (sum(sizes) for sizes in zip(*(group.on_file for group in groups), strict=True))
        return (
            f"{sum(group.index_memory for group in groups):,} bytes of labels in memory, as buffers.\n"
            f"{dense:,} bytes of these weights on file before; {codebooks:,} of codebooks and {packed:,} of packed "
            "labels after."
        )

    def _own_entry(self) -> dict[str, Any]:
        return {"clusters": self.clusters}

    @classmethod
    def _own_fields(cls, entry: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        most = min(MOST_CLUSTERS, math.prod(shape))
        return {"clusters": expect_count(entry, "clusters", most, f"a weight of shape {shape}")}


def expect_count(entry: Mapping[str, Any], name: str, most: int, what: str) -> int:
    """A count of a group in a plan's JSON, refused where it is none, or impossible for what it counts."""
    found = entry[name]
    if type(found) is not int or not 1 <= found <= most:
        raise FileError(f"Group {entry['name']!r} of the plan has {found!r} {name} for {what}.")
    return found


def index_bits(clusters: int) -> int:
    """Bits that tell so many values apart, at least 1."""
    return max(1, (clusters - 1).bit_length())


def index_dtype(clusters: int) -> torch.dtype:
    """The smallest integers that labels fit in and that every backend of torch.distributed can send: not int16."""
    return torch.uint8 if clusters <= 2**8 else torch.int32


class Decoding(Spec):
    """A spec whose groups are weights made from stored numbers; abstract."""

    @abstractmethod
    def find(self, model: nn.Module, group: Any) -> tuple[Tensor, Tensor]:
        """What is to be stored for a weight of a model: the slots, and labels or coefficients."""

    @abstractmethod
    def decoder(self, group: Any, second: Tensor) -> nn.Module:
        """What makes the weight from the slots, given labels or coefficients."""

    def share_(self, edits: edit.Transaction, group: Any) -> None:
        """Find what is stored for a weight, and make it read that; see `Spec.share_`."""
        self.read_(edits, group, *self.find(edits.model, group))

    def read_(self, edits: edit.Transaction, group: Any, stored: Tensor, second: Tensor) -> None:
        """Make a weight read what is known already, as a file holds it."""
        (path,) = group.items
        weight = edit.parameter_at(edits.model, path)
        got = tuple(stored.shape), tuple(second.shape)
        if (tuple(weight.shape), got, stored.dtype) != (group.shape, group.stored_shapes, weight.dtype):
            raise ModelChanged(
                f"'{path}' is {tuple(weight.shape)} {weight.dtype}, what is stored for it is {got[0]} {stored.dtype} "
                f"and {got[1]}. Make the model as it was when it was shared."
            )
        decoder = self.decoder(group, second.to(weight.device)).requires_grad_(weight.requires_grad)
        edits.decode(path, decoder, edit.like_parameter(weight, stored.to(weight.device)))

    def unshare_(self, edits: edit.Transaction, group: Any) -> None:
        """Give a weight a dense parameter again; see `Spec.unshare_`."""
        edits.undecode(group.items[0])

    def fold_(self, edits: edit.Transaction, group: Any) -> None:
        """The same: without our class in it, a model can only hold the dense weight. Files keep it small."""
        self.unshare_(edits, group)


def sort_out(
    chosen: Sequence[Site],
    explicit: bool,
    unfit: Any,
    planned: Any,
    verb: str,
    advice: str = "",
) -> tuple[list[Any], list[LeftOut]]:
    """Make each weight that fits a group of its own, where that saves something.

    Args:
        chosen: As for `Spec.group`.
        explicit: As for `Spec.group`.
        unfit: Gives the reason why a site is left out whatever the pattern says, or nothing.
        planned: Gives the group of a site, and the reason why it would save nothing, or nothing.
        verb: What is done to a weight, for messages.
        advice: What to do about one that would not become smaller.

    Raises:
        AlreadyShared: If the pattern names a weight that several paths read.
        SpecError: If it names one that would not become smaller.
    """
    groups: list[Any] = []
    left_out: list[LeftOut] = []
    for site in chosen:
        reason = unfit(site)
        if not reason and site.aliases:
            reason = f"already one parameter with '{site.aliases[0]}'"
            if explicit:
                raise AlreadyShared(
                    f"Cannot {verb} '{site.path}': it is {reason}. Leave it out of the pattern, or give it a "
                    "parameter of its own first (unshare_ does, where a plan tied it)."
                )
        if not reason:
            group, reason = planned(site)
            if not reason:
                groups.append(group)
                continue
            if explicit:
                raise SpecError(f"Cannot {verb} '{site.path}': {reason}.{advice and ' '}{advice}")
        left_out.append(LeftOut(site.path, reason))
    return groups, left_out


def unreadable(site: Site) -> str:
    """Why torch could not make a site's weight from stored numbers, or nothing."""
    if not site.tensor.is_floating_point():
        return f"its numbers are {site.dtype}, which have no means"
    if site.tensor.element_size() < 2:
        return f"its numbers are {site.dtype}, which torch does not compute with"
    if nn.Parameter not in type(site.tensor).__mro__:
        return f"it is a {type(site.tensor).__name__}, whose numbers lie elsewhere"
    return ""


def refuse_labels(keys: tuple[str, str], entries: Mapping[str, Any], what: str) -> None:
    """Refuse labels in a state dict that point nowhere: a GPU would only say that its memory is broken.

    Args:
        keys: Names of the slots and of the labels.
        entries: The state dict.
        what: What the slots are, such as `its codebook has {slots} values`.
    """
    slots, index = entries.get(keys[0]), entries.get(keys[1])
    if isinstance(index, Tensor) and isinstance(slots, Tensor) and index.numel() and not index.is_meta:
        least, most = (int(label) for label in index.aminmax())
        if least < 0 or most >= len(slots):
            raise ModelChanged(
                f"'{keys[1]}' in the state dict has labels from {least} to {most}, {what.format(slots=len(slots))}. "
                "Load the two as they were saved."
            )


def refuse_nonfinite(path: str, weight: Tensor) -> None:
    """Refuse numbers that no sharing can keep."""
    if not bool(weight.isfinite().all()):
        raise SpecError(f"Cannot share '{path}': it holds NaN or infinity. Find out why first.")


def wide(tensor: Tensor) -> Tensor:
    """In float32 or wider, for sums of many numbers."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def mix(coefficients: Tensor, templates: Tensor) -> Tensor:
    """`A·T`, `(positions, ...)`: a mixture of templates for each row of coefficients, whatever autocast says."""
    with without_autocast(coefficients.device.type):
        return (coefficients @ templates.flatten(1)).view(len(coefficients), *templates.shape[1:])
