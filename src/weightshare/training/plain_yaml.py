"""YAML that holds plain values and nothing else: no tags that build objects, and no text that grows when it is read.

An alias names a node again. Nested aliases let a few lines stand for billions of values, which take no memory until
somebody prints, compares or copies them; so aliases are followed, and counted.
"""

from collections.abc import Hashable
from functools import cache
from itertools import accumulate
from typing import Any

from weightshare.errors import ConfigError

LARGEST = 2**18
"""Characters that a configuration may have: a hundred times what one needs."""
MOST_VALUES = 100_000
"""Values of a configuration, those of aliases counted each time."""
DEEPEST = 100
"""Brackets that may be open at one place: the scanner's time for each word grows with them."""
LONGEST_NUMBER = 400
INTEGER, MERGE = "tag:yaml.org,2002:int", "tag:yaml.org,2002:merge"


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML as plain values.

    Args:
        text: What is read; anchors, aliases and merged keys (`<<`) are known.
        where: Names the text in messages.

    Returns:
        Mappings, lists, texts, numbers, truth values, dates and nothing.

    Raises:
        ConfigError: If it is no YAML, has a tag that is not plain, one key twice in a mapping, an alias inside of what
            it names, or more than `MOST_VALUES` values.

    Example:
        >>> parse_yaml("lr: 0.1\\nshare: [{rate: 2}]", "here")
        {'lr': 0.1, 'share': [{'rate': 2}]}
    """
    import yaml

    lead = f"Cannot read the configuration {where}"
    if len(text) > LARGEST:
        raise ConfigError(f"{lead}: it has more than {LARGEST:,} characters.")
    if _depth(text) > DEEPEST:
        raise ConfigError(f"{lead}: more than {DEEPEST} brackets are open at one place.")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node) > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, those of aliases counted each time")
        _refuse_odd(loader, node)
        return loader.construct_document(node)
    except RecursionError as error:
        raise ConfigError(f"{lead}: it is nested too deeply, or an alias lies inside of what it names.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of Python for dates that are none
        raise ConfigError(f"{lead}: {error}") from error


def _values(root: Any) -> int:
    """How many nodes a tree has, each alias as what it names; an alias inside of what it names goes on for ever."""

    @cache
    def count(node: Any) -> int:
        return 1 + sum(map(count, _children(node)))

    return count(root)


def _depth(text: str) -> int:
    """The most brackets that are open at one place, those inside of quotes counted too."""
    steps = (1 if sign in "[{" else -1 for sign in text if sign in "[]{}")
    return max(accumulate(steps), default=0)


def _children(node: Any) -> list[Any]:
    value = node.value
    if not isinstance(value, list):
        return []
    return [part for entry in value for part in (entry if isinstance(entry, tuple) else (entry,))]


def _refuse_odd(loader: Any, root: Any) -> None:
    """Refuse what the standard leaves open: one key twice, and numbers too long to be printed."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        waiting += _children(node)
        if node.tag == INTEGER and len(node.value) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(node.value):,} characters, {_line(node)}")
        keys = set[Any]()
        for key, _ in node.value if node.id == "mapping" else ():
            named = loader.construct_object(key, deep=True) if key.tag != MERGE else key
            if isinstance(named, Hashable) and named in keys:
                raise ValueError(f"the key {str(named)[:80]!r} is there twice, {_line(key)}")
            keys |= {named} if isinstance(named, Hashable) else set()


def _line(node: Any) -> str:
    return f"in line {node.start_mark.line + 1}"
