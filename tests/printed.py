"""Whether what a page shows is what its code prints: words to the letter, numbers up to what a machine changes."""

from itertools import zip_longest
import re

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?|∞|\bequal\b")
LAID_OUT = re.compile(r"[ ─]+")
TRAINED = re.compile(r"^(One layer|Apart|Chain|  No loop|No loop|Also one parameter)|keeps its \d+ templates")
"""Lines whose very number depends on what a training found, which differs from machine to machine."""
POINTS, SHARE, FACTOR, SMALL = 8.0, 0.1, 2.0, 3.0
"""By how much percentages may differ, counts of thousands, other numbers, and small ones instead."""


def differences(said: str, printed: str) -> list[tuple[str | None, str | None]]:
    """The lines that a page shows and that its code prints otherwise.

    Accuracies may differ by some points, counts of a thousand and more by a tenth, other numbers by a factor of two or
    three units: training on another processor ends elsewhere. Everything else is equal.
    """
    pairs = zip_longest(_lines(said), _lines(printed))
    return [(one, other) for one, other in pairs if one is None or other is None or not _alike(one, other)]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not TRAINED.search(line)]


def _alike(one: str, other: str) -> bool:
    words = [LAID_OUT.sub(" ", NUMBER.sub("#", line)).strip() for line in (one, other)]
    return words[0] == words[1] and all(map(_near, NUMBER.findall(one), NUMBER.findall(other)))


def _near(one: str, other: str) -> bool:
    if "%" in one + other:
        return one[-1] == other[-1] and abs(_value(one) - _value(other)) <= POINTS
    a, b = _value(one), _value(other)
    if min(abs(a), abs(b)) >= 1000:
        return abs(a - b) <= SHARE * max(abs(a), abs(b))
    return abs(a - b) <= SMALL or max(abs(a), abs(b)) <= FACTOR * min(abs(a), abs(b))


def _value(text: str) -> float:
    words = {"∞": 1e300, "equal": 0.0}
    return words[text] if text in words else float(text.replace(",", "").rstrip("%"))
