"""Ways to corrupt a file: by accident, and by an author who knows the format and signs what he makes."""

from collections.abc import Callable, Iterator
import json
import random
from typing import Any

import torch
from torch import Tensor

from weightshare.files import archive
from weightshare.files.stored import DTYPES

Parts = tuple[dict[str, Any], bytes]
"""The header of a safetensors file, and its numbers."""

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 2**31, 2**62, 2**63, 2**64, 10**400, -(2**63)),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), "", "a", "0", "blocks.0.fc1.weight", "../../../etc/passwd"),
    *("/dev/zero", "\0", "\ud800", "́" * 99, "x" * 100_000, "__class__", "__import__('os').system('true')"),
    *([], [[]], {}, {"a": 1}, [0] * 10_000, ["a", "a"], {"Tie": {"rate": 2}}, {"Tie": {"rate": 1e300}}),
    *({"Codebook": {"clusters": 2**40}}, {"LoRA": {"rank": 10**9}}, {"RunConfig": {"model": "os:system"}}),
    *([2**40, 2**40], [10**9, 0], [1] * 70, [-1, -1], [2**30, 2**30, 0]),
)
"""Values that a place of a file was not made for."""


def deep(depth: int = 50_000) -> str:
    """JSON that is nested too deeply for most readers."""
    return "[" * depth + "]" * depth


# What happens to files.


def cut_at_pages(content: bytes) -> Iterator[bytes]:
    """At every 4 KiB boundary."""
    yield from (content[:length] for length in range(0, len(content), 4096))


def cut(content: bytes, drawn: random.Random) -> bytes:
    return content[: drawn.randrange(len(content))]


def flipped(content: bytes, drawn: random.Random) -> bytes:
    """One bit."""
    at = drawn.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << drawn.randrange(8)]) + content[at + 1 :]


def flipped_header(content: bytes, drawn: random.Random) -> bytes:
    """One bit of what a file says first."""
    return flipped(content[:256], drawn) + content[256:]


def overwritten(content: bytes, drawn: random.Random) -> bytes:
    """A stretch: noise, or a block of zeros as a lost page leaves it."""
    start, length = drawn.randrange(len(content)), drawn.choice((1, 9, 99, 4096))
    filled = drawn.choice((drawn.randbytes(length), bytes(length), b"\xff" * length, b" " * length))
    return (content[:start] + filled + content[start + length :])[: len(content)]


def moved(content: bytes, drawn: random.Random) -> bytes:
    """A stretch is missing, doubled, or of another place."""
    start, length = drawn.randrange(len(content)), drawn.randrange(1, 999)
    stretch = content[start : start + length]
    at = drawn.randrange(len(content))
    kind = drawn.randrange(3)
    if kind == 0:
        return content[:start] + content[start + length :]
    if kind == 1:
        return content[:start] + stretch + content[start:]
    return content[:at] + stretch + content[at + len(stretch) :]


def appended(content: bytes, drawn: random.Random) -> bytes:
    more = drawn.randbytes(drawn.randrange(1, 5000))
    return drawn.choice((content + more, content + content, content + bytes(1), more + content))


BY_ACCIDENT: dict[str, Callable[[bytes, random.Random], bytes]] = {
    one.__name__: one for one in (cut, flipped, flipped_header, overwritten, moved, appended)
}


# What somebody makes who knows the format.


def opened(content: bytes) -> Parts:
    """Header and numbers of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def closed(header: dict[str, Any] | bytes, numbers: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def signed(header: dict[str, Any], numbers: bytes) -> bytes:
    """A file whose checksum is right, as far as its tensors can be read at all."""
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict):
        metadata.pop(archive.CHECKSUM, None)
        try:
            metadata[archive.CHECKSUM] = archive._checksum(_tensors(header, numbers), metadata)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            metadata[archive.CHECKSUM] = "0" * 64  # there are no such tensors, so nothing has their checksum
    return closed(header, numbers)


def _tensors(header: dict[str, Any], numbers: bytes) -> dict[str, Tensor]:
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            content = torch.frombuffer(bytearray(numbers[begin:end]) or bytearray(1), dtype=torch.uint8)
            found[name] = content[: end - begin].clone().view(DTYPES[entry["dtype"]]).view(entry["shape"])
    return found


def version(content: bytes, drawn: random.Random) -> bytes:
    """Another version of the format."""
    header, numbers = opened(content)
    said = json.loads(header["__metadata__"][archive.CONTENT])
    said["version"] = drawn.choice([0, 3, 99, -1, 2**70, "1", None, [1], {"1": 1}, 1.5])
    header["__metadata__"][archive.CONTENT] = json.dumps(said)
    return signed(header, numbers)


def unsigned_edit(content: bytes, drawn: random.Random) -> bytes:
    """Metadata that say something else under the old checksum."""
    header, numbers = opened(content)
    metadata = header["__metadata__"]
    key = drawn.choice([key for key in metadata if key != archive.CHECKSUM])
    metadata[drawn.choice([key, key + "x"])] = drawn.choice(["", "x", metadata[key] + " ", "stem.weight"])
    return closed(header, numbers)


def bad_header(content: bytes, drawn: random.Random) -> bytes:
    """A header that no writer makes: huge, deep, ambiguous, of shapes and offsets that do not fit."""
    header, numbers = opened(content)
    name = drawn.choice([name for name in header if name != "__metadata__"])
    text, before = json.dumps(header)[:-1].encode(), json.dumps(header)
    entry = json.dumps({name: header[name]})[1:-1].encode()
    kind = drawn.randrange(9)
    if kind == 0:
        return drawn.choice((2**63 - 1, 2**64 - 1, 10**8, len(content) + 1)).to_bytes(8, "little") + content[8:]
    if kind == 1:
        return closed(drawn.choice((deep().encode(), b'{"a":' * 9999, b"{}", b"[]", b"", b"9" * 9999)), numbers)
    if kind == 2:
        return closed(text + b"," + entry + b"}", numbers)  # one name twice
    if kind == 3:
        return closed(text + b', "__metadata__": {}}', numbers)
    if kind == 4:
        header[name][drawn.choice(("shape", "dtype", "data_offsets"))] = drawn.choice(ODD)
    if kind == 5:
        at = drawn.randrange(2)
        header[name]["data_offsets"][at] += drawn.choice((-1, 1, 4, -4, 2**40, -(2**40)))
    if kind == 6:
        header[name]["shape"] = [length * drawn.choice((2, 2**20, 0, -1)) for length in header[name]["shape"]] or [2]
    if kind == 7:
        header[name] = drawn.choice(ODD)
    if kind == 8:
        header["__metadata__"][drawn.choice(("more", archive.CONTENT))] = drawn.choice((1, None, [], {}, True))
    if json.dumps(header) == before:  # a place that was made for this value
        header[name] = None
    return signed(header, numbers)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values lie in nested lists and tables."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*at, key)
        yield from places(inner, (*at, key))


def edited(value: Any, drawn: random.Random) -> str:
    """JSON of a value of which one place, chosen anywhere, holds something else, is missing, or is there twice."""
    value = json.loads(json.dumps(value))
    at = drawn.choice(list(places(value)))
    inside = value
    for key in at[:-1]:
        inside = inside[key]
    kind = drawn.randrange(6)
    if kind == 0:
        del inside[at[-1]]
    elif kind == 1 and isinstance(inside, dict):
        inside[drawn.choice(("more", "", "\0", "__class__"))] = inside[at[-1]]
    elif kind == 2 and isinstance(inside, list):
        inside.append(inside[at[-1]])
    elif kind == 3:
        inside[at[-1]] = "HERE"
        return json.dumps(value).replace('"HERE"', drawn.choice((deep(), "1" * 9999, "NaN", "-Infinity", "1e999")))
    else:
        inside[at[-1]] = drawn.choice(ODD)
    return json.dumps(value)


def hostile_content(content: bytes, drawn: random.Random) -> bytes:
    """What a file says of itself, or one of its plans, edited at one place and signed."""
    header, numbers = opened(content)
    metadata = header["__metadata__"]
    said = json.loads(metadata[archive.CONTENT])
    plans = said.get("plans")
    if plans and drawn.random() < 0.7:
        one = drawn.choice(plans)
        one[1] = edited(json.loads(one[1]), drawn)
        metadata[archive.CONTENT] = json.dumps(said)
    else:
        metadata[archive.CONTENT] = edited(said, drawn)
    return signed(header, numbers)


def hostile_tensors(content: bytes, drawn: random.Random) -> bytes:
    """Tensors of other names, shapes and types, and aliases of other things, signed."""
    header, numbers = opened(content)
    metadata = header["__metadata__"]
    names = [name for name in header if name != "__metadata__"]
    name, other = drawn.choice(names), drawn.choice(names)
    kind = drawn.randrange(6)
    if kind == 0:
        header[drawn.choice((f"{name}x", "", "\0", "../../x", "__class__", "a.b.c", "weight"))] = header.pop(name)
    elif kind == 1:
        header[name], header[other] = header[other], header[name]
    elif kind == 2:
        header[name]["shape"] = [*header[name]["shape"][::-1], *drawn.choice(([1], [1, 1]))]
    elif kind == 3:
        size = DTYPES[header[name]["dtype"]].itemsize
        header[name]["dtype"] = drawn.choice([key for key, dtype in DTYPES.items() if dtype.itemsize == size])
    elif kind == 4:
        metadata[drawn.choice((f"{name}x", name, other, "", "weight"))] = drawn.choice((name, other, "nobody", ""))
    else:
        spoiled = bytearray(numbers)
        begin, end = header[name]["data_offsets"]
        spoiled[begin:end] = drawn.choice((b"\xff", b"\x7f", b"\x01")) * (end - begin)
        numbers = bytes(spoiled)
    return signed(header, numbers)


ON_PURPOSE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    one.__name__: one for one in (version, unsigned_edit, bad_header)
}
"""Never to be taken."""

SIGNED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    one.__name__: one for one in (hostile_content, hostile_tensors)
}
"""What they make may be a valid file of another content."""


def hostile_text(content: bytes, drawn: random.Random) -> bytes:
    """JSON or YAML without a checksum, edited at one place: JSON is YAML, too."""
    import yaml

    return edited(yaml.safe_load(content), drawn).encode()


BOMB = "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 or ''}, *a{n - 1 or ''}]\n" for n in range(1, 60))
TEXTS: tuple[bytes, ...] = (
    *(b"", b"\0", b"\xff\xfe", b"[]", b"1", b"null", b"{}", b"{", b"a: &a [*a]\n", b"a: 1\na: 2\n"),
    *(b"!!python/object/apply:os.system ['true']\n", b"model: !!python/name:os.system\n", b"model: !!map {}\n"),
    *(b"model: !include /etc/passwd\n", b"model: 2024-13-45\n", b"seed: 0x" + b"f" * 9999, b"seed: " + b"9" * 9999),
    *(BOMB.encode(), f"model: m\nmodel_args: {{{BOMB[3:].splitlines()[0]}}}".encode(), deep().encode()),
    *(b"- " * 9999, b"? [1]\n: 2\n", b"<<: 3\n", b"%YAML 9.9\n---\n{}\n", b"{}\n---\n{}\n", b"x" * 300_000),
    *(b"model: *nobody\n", b"model: !!binary x\n", b"model: \xed\xa0\x80\n", b"model: m\nmodel: m\n"),
)
"""Texts that are neither a plan nor a configuration."""
