"""What the papers print, number by number; the code that makes our numbers never reads them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """What a paper prints in one cell.

    Args:
        value: The number, in the unit of its metric; `None` where the paper prints a word.
        source: Where it stands, such as `table 3`.
        misprint: Why the number cannot be right, or what it disagrees with, and how it is read.
        word: What is printed instead of a number, such as `Diverged`.
    """

    value: float | None
    source: str
    misprint: str = ""
    word: str = ""
