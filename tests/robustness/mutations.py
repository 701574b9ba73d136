"""Ways to spoil an input: bytes of any kind, JSON and YAML at one place, and text in whole words."""

from collections.abc import Callable, Mapping, Sequence
import json
import random
import re
from typing import Literal

from tests.unit.files import corrupting

Form = Literal["bytes", "json", "text"]
WORDS = (
    *(
        "",
        "*",
        "**",
        "?",
        "[",
        "]",
        "[!",
        "[a-",
        "!",
        "!!",
        "..",
        "../..",
        "/",
        "~",
        "\0",
        "\n",
        "\t",
        " ",
        "=",
        ":",
        ",",
    ),
    *(
        "0",
        "-1",
        "1e999",
        "nan",
        "inf",
        "9" * 30,
        "1" * 5000,
        "٣",
        "1.5",
        "true",
        "null",
        "[1, 2]",
        "{a: 1}",
        "- 1",
        "&a *a",
    ),
    *(
        "a" * 300,
        "a" * 5000,
        "é",
        "\ud800",
        "\U0001f4a5",
        "__class__",
        "'",
        '"',
        "\\",
        "--",
        "--help",
        "-x",
        "%s",
        "{}",
    ),
)
"""Stretches of text that a parser may trip over."""


def mutated(content: bytes, form: Form, drawn: random.Random, others: Sequence[bytes] = (b"",)) -> bytes:
    """An input that is spoiled once, or some times.

    Args:
        content: What was valid.
        form: What it is made of; an input of JSON or text may be spoiled as bytes too.
        drawn: What is random.
        others: Further inputs, of which stretches may be taken.
    """
    for _ in range(drawn.choice((1, 1, 1, 2, 4))):
        ways = [way for way, forms in WAYS.items() if form in forms]
        try:
            content = drawn.choice(ways)(content, drawn, others)
        except (ValueError, IndexError, TypeError, RecursionError):  # it is no JSON any more, or empty
            content = _bytes(content or b"0", drawn, others)
    return content


def _bytes(content: bytes, drawn: random.Random, _: Sequence[bytes]) -> bytes:
    return drawn.choice([*corrupting.BY_ACCIDENT.values()])(content, drawn)


def _spliced(content: bytes, drawn: random.Random, others: Sequence[bytes]) -> bytes:
    other = drawn.choice(others)
    at, start = drawn.randrange(len(content) + 1), drawn.randrange(len(other) + 1)
    return content[:at] + other[start : start + drawn.randrange(64)] + content[at + drawn.randrange(9) :]


def _json(content: bytes, drawn: random.Random, _: Sequence[bytes]) -> bytes:
    return corrupting.edited(json.loads(content), drawn).encode("utf-8", "surrogatepass")


def _large_number(content: bytes, drawn: random.Random, _: Sequence[bytes]) -> bytes:
    """One number is another one: large, of many digits, with a point, negative."""
    numbers = [*re.finditer(rb"\d+(\.\d+)?", content)]
    one = drawn.choice(numbers)
    new = drawn.choice((b"-1", b"0", b"1e308", b"1" + b"0" * 350, b"99999999999", b"0.5", b"NaN", b"4294967296", b"2"))
    return content[: one.start()] + new + content[one.end() :]


def _word(content: bytes, drawn: random.Random, _: Sequence[bytes]) -> bytes:
    """A word is in, instead of or beside one that was there."""
    words = re.split(rb"(\W+)", content)
    at = drawn.randrange(len(words))
    word = drawn.choice(WORDS).encode("utf-8", "surrogatepass")
    words[at] = drawn.choice((word, words[at] + word, word + words[at]))
    return b"".join(words)


def _moved_words(content: bytes, drawn: random.Random, _: Sequence[bytes]) -> bytes:
    words = re.split(rb"(\W+)", content)
    at, other = drawn.randrange(len(words)), drawn.randrange(len(words))
    words[at], words[other] = words[other], drawn.choice((words[at], b"", words[other]))
    return b"".join(words)


Way = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
WAYS: Mapping[Way, tuple[Form, ...]] = {
    _bytes: ("bytes", "json", "text"),
    _spliced: ("bytes", "json", "text"),
    _json: ("json",),
    _large_number: ("json", "text"),
    _word: ("json", "text"),
    _moved_words: ("json", "text"),
}
"""Each way, and what it is for."""
