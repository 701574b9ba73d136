"""Weights of few values, or of few kernels, on file: a codebook and packed labels, exact to the bit, rebuilt with torch
alone.

A weight `NAME` is two tensors: `NAME.codebook`, its values in the weight's own dtype, and `NAME.index`, a row of uint8
in which label `i` takes the bits `i·bits … (i+1)·bits − 1`, the least significant bit of a byte first. A recipe in the
metadata says so: `{"rule": "W = C[I]", "bits": 4, "shape": [784, 196], "dtype": "float32"}`.

The items of a codebook may be arrays, as the kernels of positions are: then `NAME.codebook` has their shape behind its
first axis, the weight has it as its last axes, and there is a label for each index of the axes before those.

Values are told apart by their bits, so `-0.0` and every NaN come back as they were. A recipe is data: nothing that a
file says is run, and one that does not fit its tensors is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from weightshare.decoding import LOOKUP, MOST_CLUSTERS, index_bits, index_dtype
from weightshare.errors import FileError
from weightshare.files.recipes import Recipe, dtype_name, expect_stored, shape_of
from weightshare.values.clusters import as_bits

OVERHEAD = 512
"""Bytes that two entries of the header and a recipe take at most; a weight has to save more."""
SLOTS, MOST_IN_TABLE = 2**16, 256
"""Of so many values, two share a slot in two of five cases; each of the factors is another chance."""
FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)
"""Odd, with bits all over: their products' highest bits are slots of a table."""


@dataclass(frozen=True, eq=False)
class Coded(Recipe):
    """A weight as codebook and labels.

    Args:
        codebook: Its values, `(clusters,)`, or items of several numbers, `(clusters, ...)`.
        index: Labels in the shape of the weight, without that of an item; as in memory: the smallest integers that
            serve.
    """

    codebook: Tensor
    index: Tensor

    rule: ClassVar[str] = LOOKUP
    fields: ClassVar[frozenset[str]] = frozenset({"rule", "bits", "shape", "dtype"})
    suffixes: ClassVar[tuple[str, str]] = ("codebook", "index")

    @property
    def in_memory(self) -> tuple[Tensor, Tensor]:
        return self.codebook, self.index

    @property
    def on_file(self) -> tuple[Tensor, Tensor]:
        return self.codebook, pack(self.index.cpu(), self.bits)

    @property
    def dense(self) -> Tensor:
        """The weight."""
        return self.codebook.index_select(0, self.index.reshape(-1).int()).view(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return *self.index.shape, *self.codebook.shape[1:]

    @property
    def bits(self) -> int:
        """Of one label on file."""
        return index_bits(len(self.codebook))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Bytes on file of codebook and labels, and of the dense weight."""
        dense = math.prod(self.shape) * self.codebook.element_size()
        return self.codebook.nbytes, -(-self.index.numel() * self.bits // 8), dense

    def recipe(self) -> dict[str, Any]:
        """What the metadata says of it."""
        return {"rule": self.rule, "bits": self.bits, "shape": list(self.shape), "dtype": dtype_name(self.codebook)}

    @classmethod
    def read(cls, path: object, stored: Mapping[str, Tensor], name: str, recipe: Mapping[str, Any]) -> Self:
        lead = f"'{path}' has a recipe for '{name}' that"
        bits = recipe["bits"]
        if type(bits) is not int or not 1 <= bits <= 16:
            raise FileError(f"{lead} is damaged: {str(bits)[:40]} bits for a label, need 1 to 16.")
        shape = shape_of(lead, recipe)
        codebook, packed = expect_stored(lead, stored, name, cls.suffixes)
        values, item = codebook.shape[0] if codebook.ndim else 0, tuple(codebook.shape[1:])
        fits = 1 <= values <= 2**bits and dtype_name(codebook) == recipe["dtype"]
        if not fits or shape[len(shape) - len(item) :] != item:
            raise FileError(
                f"{lead} does not fit: it needs 1 to {2**bits:,} values of {str(recipe['dtype'])[:40]}, "
                f"'{name}.codebook' is {tuple(codebook.shape)} {codebook.dtype}."
            )
        labelled = shape[: len(shape) - len(item)]
        count = math.prod(labelled)
        if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) != -(-count * bits // 8):
            raise FileError(
                f"{lead} does not fit: {count:,} labels of {bits} bits are {-(-count * bits // 8):,} bytes, "
                f"'{name}.index' is {tuple(packed.shape)} {packed.dtype}."
            )
        labels = unpack(packed, bits, count)
        if count and int(labels.max()) >= values:
            raise FileError(f"{lead} does not fit: a label is {int(labels.max())}, the codebook has {values} values.")
        return cls(codebook, labels.to(index_dtype(values)).view(labelled))


def code(tensor: Tensor) -> Coded | None:
    """A dense weight as codebook and labels, or nothing where that would not be much smaller.

    A weight has two or more dimensions and real floating-point numbers; its labels may take half of its bits at most.

    Args:
        tensor: Any tensor. A sample of it tells most weights of many values; none is sorted whole.
    """
    plain = tensor.layout == torch.strided and tensor.is_floating_point() and not tensor.is_meta
    if not plain or tensor.ndim < 2 or tensor.nbytes <= OVERHEAD:
        return None
    flat = as_bits(tensor.detach().cpu().contiguous().reshape(-1))
    most = _most_values(len(flat), tensor.element_size())
    found = _labels(flat, most) if most else None
    if found is None:
        return None
    values, index = found
    return Coded(values.view(tensor.dtype), index.to(index_dtype(len(values))).view(tensor.shape))


def pack(labels: Tensor, bits: int) -> Tensor:
    """Labels as a row of bits in bytes, the lowest first.

    Args:
        labels: Whole numbers from 0 to `2**bits − 1`, any shape.
        bits: Of one label, from 1 to 16.

    Example:
        >>> pack(torch.tensor([1, 0, 3]), bits=2).tolist()
        [49]
    """
    count = labels.numel()
    eights = torch.zeros(-(-count // 8) * 8, dtype=torch.int32)  # eight labels fill `bits` bytes
    eights[:count] = labels.reshape(-1)
    eights = eights.view(-1, 8)
    packed = torch.zeros(len(eights), bits, dtype=torch.uint8)
    for byte in range(bits):
        column = torch.zeros(len(eights), dtype=torch.int32)
        for label in range(8 * byte // bits, (8 * byte + 7) // bits + 1):
            column |= _shifted(eights[:, label], label * bits - 8 * byte)
        packed[:, byte] = (column & 255).to(torch.uint8)
    return packed.reshape(-1)[: -(-count * bits // 8)]


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Labels, int32 in one row, from what `pack` made of them.

    Args:
        packed: uint8, as many as `count` labels take.
        bits: As for `pack`.
        count: How many labels.

    Example:
        >>> unpack(torch.tensor([49], dtype=torch.uint8), bits=2, count=3).tolist()
        [1, 0, 3]
    """
    whole = torch.zeros(-(-count // 8) * bits, dtype=torch.uint8)
    whole[: len(packed)] = packed
    rows = whole.view(-1, bits)
    labels = torch.empty(len(rows), 8, dtype=torch.int32)
    for label in range(8):
        column = torch.zeros(len(rows), dtype=torch.int32)
        for byte in range(label * bits // 8, (label * bits + bits - 1) // 8 + 1):
            column |= _shifted(rows[:, byte].int(), 8 * byte - label * bits)
        labels[:, label] = column & (2**bits - 1)
    return labels.reshape(-1)[:count]


def _shifted(numbers: Tensor, left: int) -> Tensor:
    return numbers << left if left >= 0 else numbers >> -left


def _most_values(count: int, itemsize: int) -> int:
    """The most values for which a codebook and labels of at most half the bits save more than the overhead, or 0."""
    for bits in range(min(16, 4 * itemsize), 0, -1):
        room = count * itemsize - OVERHEAD - (-(-count * bits // 8)) - 1
        values = min(2**bits, MOST_CLUSTERS, max(0, room // itemsize))
        if index_bits(values) == bits and values:
            return values
    return 0


def _labels(flat: Tensor, most: int) -> tuple[Tensor, Tensor] | None:
    """Distinct integers and the label of each, or nothing if there are more than `most`."""
    step = max(1, len(flat) // (2 * most + 1024))
    values = flat[::step].unique()
    while len(values) <= most:
        labels = _nearly(values, flat)
        missed = flat[values.index_select(0, labels) != flat]
        if not len(missed):
            return values, labels
        # A sample of what was missed, so that many new values are not sorted whole either.
        values = torch.cat([values, missed[:: max(1, len(missed) // (2 * most + 1024))].unique()]).unique()
    return None


def _nearly(values: Tensor, flat: Tensor) -> Tensor:
    """The label of each integer that is one of the sorted values, and any label for another, int32.

    A table of slots takes a twentieth of the time of a binary search, where no two values fall into one slot.
    """
    order = torch.arange(len(values), dtype=torch.int32)
    for factor in FACTORS if len(values) <= MOST_IN_TABLE else ():
        table = torch.zeros(SLOTS, dtype=torch.int32)
        at = _slots(values, factor)
        table[at.long()] = order
        if torch.equal(table.index_select(0, at), order):
            return table.index_select(0, _slots(flat, factor))
    return torch.searchsorted(values, flat, out_int32=True).clamp_(max=len(values) - 1)


def _slots(bits: Tensor, factor: int) -> Tensor:
    width = 8 * bits.element_size()
    signed = factor - 2**32 if width <= 32 else factor * 2**31 + 1
    product = bits.int() if width < 32 else (bits * signed) >> (width - 16)
    return product.int() & (SLOTS - 1)
