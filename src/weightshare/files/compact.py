"""Weights of few values on file: a codebook and packed labels, exact to the bit, rebuilt with torch alone.

A weight `NAME` is two tensors: `NAME.codebook`, its values in the weight's own dtype, and `NAME.index`, a row of uint8
in which label `i` takes the bits `i·bits … (i+1)·bits − 1`, the least significant bit of a byte first. A recipe in the
metadata says so: `{"rule": "W = C[I]", "bits": 4, "shape": [784, 196], "dtype": "float32"}`.

Values are told apart by their bits, so `-0.0` and every NaN come back as they were. A recipe is data: nothing that a
file says is run, and one that does not fit its tensors is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any

import torch
from torch import Tensor

from weightshare.errors import FileError
from weightshare.sharing import MOST_CLUSTERS, index_bits, index_dtype
from weightshare.values.clusters import as_bits

RULE = "W = C[I]"
OVERHEAD = 512
"""Bytes that two entries of the header and a recipe take at most; a weight has to save more."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A weight as codebook and labels.

    Args:
        codebook: Its values, `(clusters,)`.
        index: Labels in the shape of the weight, as in memory: the smallest integers that serve.
    """

    codebook: Tensor
    index: Tensor

    @property
    def dense(self) -> Tensor:
        """The weight."""
        return self.codebook[self.index.reshape(-1).long()].view(self.index.shape)

    @property
    def bits(self) -> int:
        """Of one label on file."""
        return index_bits(len(self.codebook))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Bytes on file of codebook and labels, and of the dense weight."""
        count = self.index.numel()
        return self.codebook.nbytes, -(-count * self.bits // 8), count * self.codebook.element_size()

    def recipe(self) -> dict[str, Any]:
        """What the metadata says of it."""
        dtype = str(self.codebook.dtype).removeprefix("torch.")
        return {"rule": RULE, "bits": self.bits, "shape": list(self.index.shape), "dtype": dtype}


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


def entries(name: str, coded: Coded) -> dict[str, Tensor]:
    """The two tensors that are stored for a weight, by name."""
    return dict(zip(parts(name), (coded.codebook, pack(coded.index.cpu(), coded.bits)), strict=True))


def parts(name: str) -> tuple[str, str]:
    """The names of a weight's codebook and labels in a file."""
    return f"{name}.codebook", f"{name}.index"


def decode(path: object, stored: Mapping[str, Tensor], recipes: object) -> dict[str, Coded]:
    """What recipes make of stored tensors.

    Args:
        path: Name of the file, for messages.
        stored: Every tensor of the file.
        recipes: What the metadata says, which is not to be trusted.

    Returns:
        For each weight its codebook and labels.

    Raises:
        FileError: If a recipe is malformed, or does not fit its tensors.
    """
    if not isinstance(recipes, dict):
        raise FileError(f"'{path}' has recipes that are no table: {type(recipes).__name__}.")
    return {name: _decoded(path, stored, name, recipe) for name, recipe in recipes.items()}


def _decoded(path: object, stored: Mapping[str, Tensor], name: str, recipe: object) -> Coded:
    lead = f"'{path}' has a recipe for '{name}' that"
    if not isinstance(recipe, dict) or set(recipe) != {"rule", "bits", "shape", "dtype"} or recipe["rule"] != RULE:
        raise FileError(f"{lead} this version cannot follow: {str(recipe)[:200]}. It reads {RULE!r}.")
    bits, shape = recipe["bits"], recipe["shape"]
    if type(bits) is not int or not 1 <= bits <= 16:
        raise FileError(f"{lead} is damaged: {str(bits)[:40]} bits for a label, need 1 to 16.")
    whole = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**62 for n in shape)
    if not whole or math.prod(n for n in shape if n) >= 2**62:
        raise FileError(f"{lead} is damaged: {str(shape)[:80]} is no shape.")
    codebook, packed = (stored.get(part) for part in parts(name))
    if name in stored or codebook is None or packed is None:
        raise FileError(f"{lead} does not fit: need {' and '.join(map(repr, parts(name)))}, and not '{name}' itself.")
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) != -(-count * bits // 8):
        raise FileError(
            f"{lead} does not fit: {count:,} labels of {bits} bits are {-(-count * bits // 8):,} bytes, "
            f"'{parts(name)[1]}' is {tuple(packed.shape)} {packed.dtype}."
        )
    values = codebook.numel()
    if codebook.ndim != 1 or not 1 <= values <= 2**bits or str(codebook.dtype) != f"torch.{recipe['dtype']}":
        raise FileError(
            f"{lead} does not fit: it needs 1 to {2**bits:,} values of {str(recipe['dtype'])[:40]}, "
            f"'{parts(name)[0]}' is {tuple(codebook.shape)} {codebook.dtype}."
        )
    labels = unpack(packed, bits, count)
    if count and int(labels.max()) >= values:
        raise FileError(f"{lead} does not fit: a label is {int(labels.max())}, the codebook has {values} values.")
    return Coded(codebook, labels.to(index_dtype(values)).view(shape))


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
        labels = torch.searchsorted(values, flat, out_int32=True).clamp_(max=len(values) - 1)
        missed = flat[values[labels] != flat]
        if not len(missed):
            return values, labels
        # A sample of what was missed, so that many new values are not sorted whole either.
        values = torch.cat([values, missed[:: max(1, len(missed) // (2 * most + 1024))].unique()]).unique()
    return None
