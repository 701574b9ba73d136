"""English sentences that are on every machine of ours: those of the docstrings of installed packages.

They are read from source files, which are parsed and never run. What is prose is told by simple rules, so some of it is
not; the same versions of the packages give the same sentences in the same order.
"""

import ast
from collections.abc import Iterator, Sequence
import hashlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
import inspect
from pathlib import Path
import re
import warnings

from weightshare.errors import ConfigError

PARAGRAPHS = re.compile(r"\n\s*\n")
SENTENCES = re.compile(r"(?<=[.?!]) +(?=[A-Z])")
MARKUP = re.compile(r":[a-z:]+:|[`*]+")
PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'()\-]*[a-z)]\.")
STRUCTURE = re.compile(r"^\s*(>>>|\.\.|-{3,}|={3,}|[-*|] |@|Args:|Returns:|Raises:|Examples?:)", re.MULTILINE)
WORDS = (6, 32)


def sentences(packages: Sequence[str], most: int, skip: frozenset[str] = frozenset()) -> list[str]:
    """Sentences of the docstrings of packages, each once.

    Args:
        packages: Names of installed packages, with source files.
        most: How many sentences at most.
        skip: Sentences that are not wanted.

    Returns:
        Sentences of 6 to 32 words, without markup, in the order of a hash of their text: the first ones of a longer
        list are a shorter list.

    Raises:
        ConfigError: If a package is not installed, or has no sentence.
    """
    found: set[str] = set()
    for package in packages:
        here = {text for path in _files(package) for text in _prose(path)}
        if not here:
            raise ConfigError(f"The package {package!r} has no sentence in its docstrings: name another one.")
        found |= here
    return sorted(found - skip, key=lambda text: hashlib.sha256(text.encode()).digest())[:most]


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The versions of installed packages, by name; `None` where there is no record of it."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version({"sklearn": "scikit-learn"}.get(package, package))
        except PackageNotFoundError:
            found[package] = None
    return found


def _files(package: str) -> list[Path]:
    found = find_spec(package)
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    if not folders:
        raise ConfigError(f"The package {package!r}, whose docstrings are the text, is not installed.")
    files = [(path.relative_to(folder), path) for folder in folders for path in Path(folder).rglob("*.py")]
    return [path for inside, path in sorted(files) if not {"tests", "test", "testing"} & {*inside.parts}]


def _prose(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in other people's strings
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # a template, or a file for another Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in PARAGRAPHS.split(inspect.cleandoc(ast.get_docstring(node, clean=False) or "")):
                if not STRUCTURE.search(paragraph):
                    yield from _sentences(paragraph)


def _sentences(paragraph: str) -> Iterator[str]:
    text = " ".join(MARKUP.sub("", paragraph).split())
    for sentence in SENTENCES.split(text):
        if PROSE.fullmatch(sentence) and WORDS[0] <= sentence.count(" ") + 1 <= WORDS[1]:
            yield sentence
