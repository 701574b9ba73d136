"""Many things named in one message: how many there are, and the first few."""

from collections.abc import Iterable, Sequence

from weightshare.errors import FileError

FIRST = 5
"""How many are named."""


def named(names: Iterable[object], count: int | None = None) -> str:
    """The first few, and how many more there are.

    Args:
        names: All of them, or at least the first few.
        count: How many there are, if not all are given.

    Example:
        >>> named("abc"), named(range(9)), named(range(9), 1200)
        ('a, b, c', '0, 1, 2, 3, 4 and 4 more', '0, 1, 2, 3, 4 and 1,195 more')
    """
    told = [str(name) for name in names]
    count = len(told) if count is None else count
    more = f" and {count - FIRST:,} more" if count > FIRST else ""
    return ", ".join(told[:FIRST]) + more


def unreadable(failures: Sequence[tuple[str, FileError]], total: int) -> FileError:
    """The error for images that cannot be read.

    Args:
        failures: Name of each, and what was wrong with it; one or more.
        total: How many images were looked at.
    """
    names = named(f"'{name}'" for name, _ in failures)
    first = "" if len(failures) == 1 else "The first: "
    return FileError(f"{len(failures):,} of {total:,} images cannot be read: {names}. {first}{failures[0][1]}")
