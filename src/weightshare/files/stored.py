"""The safetensors format, read without mapping the file: a length, a header of JSON, the numbers one after the other.

safetensors' own reader maps the file into memory. Then a file that another process cuts kills this one when it is read,
and one that is written again changes tensors that were checked already. Here each number is read once, into memory of
its own, and nothing is allocated that the file does not have the bytes for.
"""

from collections.abc import Mapping
import math
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from weightshare.errors import FileError
from weightshare.files.opening import opened, parse_json

LARGEST_HEADER = 100_000_000
"""Bytes: the format's own limit."""
PICKLE = (
    "It looks like a pickle, as torch.save writes: such a file can run code when opened, so none is opened here. "
    "If you trust it, read it with torch.load(path, weights_only=True) and write it with safetensors.torch.save_file."
)
MOST_AXES = 64
"""Dimensions of a tensor: numpy's limit."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}


def read_stored(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata.

    Raises:
        FileError: If the file cannot be read, or is no whole safetensors file.
    """
    with opened(path) as (file, size):
        try:
            header, start = _header(file, size)
            metadata = _metadata(header.pop("__metadata__", {}))
            return _tensors(file, header, size - start), metadata
        except ValueError as error:
            file.seek(0)
            pickled = file.read(4).startswith((b"PK\x03\x04", *(bytes([128, protocol]) for protocol in range(2, 6))))
            advice = PICKLE if pickled else "It is cut, damaged or of another kind."
            raise FileError(f"'{path}' is no whole safetensors file: {error}. {advice}") from error


def is_shape(shape: object) -> bool:
    """Whether an entry of a file is a shape that a tensor can have: lengths from 0, fewer than 2^58 numbers in all."""
    if not isinstance(shape, list) or len(shape) > MOST_AXES:
        return False
    lengths = all(type(length) is int and 0 <= length < 2**58 for length in shape)
    return lengths and math.prod(length for length in shape if length) < 2**58


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """What the header says, and where the numbers begin."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, LARGEST_HEADER):
        raise ValueError(f"its header would have {length:,} bytes of {max(0, size - 8):,}")
    content = file.read(length)
    if len(content) != length or not content.startswith(b"{"):
        raise ValueError("it has no header")
    header = parse_json(content.decode())
    assert isinstance(header, dict)  # since it starts with a brace
    return header, 8 + length


def _metadata(entry: object) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise ValueError("its metadata are no table of texts")
    return entry


def _tensors(file: BinaryIO, header: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    places = sorted((_place(name, entry), name) for name, entry in header.items())
    tensors, at = dict[str, Tensor](), 0
    for (begin, end), name in places:
        if begin != at:
            raise ValueError(f"the bytes of '{name[:80]}' begin at {begin:,}, need {at:,}")
        at = end
    if at != size:
        raise ValueError(f"its tensors have {at:,} bytes, and the file has {size:,} for them")
    for (begin, end), name in places:
        dtype, shape = DTYPES[header[name]["dtype"]], header[name]["shape"]
        content = torch.empty(end - begin, dtype=torch.uint8, device="cpu")
        if file.readinto(content.numpy()) != end - begin:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"it ends inside '{name[:80]}'")
        if dtype == torch.bool and len(content) and int(content.max()) > 1:
            raise ValueError(f"'{name[:80]}' is of type BOOL and has other values than 0 and 1")
        tensors[name] = content.view(dtype).view(shape)
    return {name: tensors[name] for name in sorted(tensors)}


def _place(name: str, entry: object) -> tuple[int, int]:
    """Where the bytes of a tensor begin and end, if its entry is sound."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of '{name[:80]}' is no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES or not is_shape(shape):
        raise ValueError(
            f"'{name[:80]}' would be {str(dtype)[:40]} of shape {str(shape)[:80]}, which torch does not hold"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int and at >= 0 for at in offsets):
        raise ValueError(f"'{name[:80]}' would lie at {str(offsets)[:80]}")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise ValueError(f"'{name[:80]}' has {offsets[1] - offsets[0]:,} bytes, need {needed:,} for {shape}")
    return offsets[0], offsets[1]
