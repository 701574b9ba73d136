"""The pages of docs/ and the README as tests read them."""

from collections.abc import Iterator
from contextlib import contextmanager
import re
import sys
from types import ModuleType
from typing import Any

import torch

from tests.support import ROOT

DOCS = ROOT / "docs"
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")


def names() -> list[str]:
    """Every page, by its path in the repository."""
    return [*OUTSIDE, *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))]


def text(page: str) -> str:
    """What a page says."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language, in order, also those inside of lists."""
    found = re.findall(rf"^( *)```{language}\b.*\n((?:.*\n)*?)\1``` *$", text(page), re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


@contextmanager
def running(page: str) -> Iterator[dict[str, Any]]:
    """What the page's code leaves, its blocks run in order in one module and in the folder that is the current one."""
    torch.manual_seed(0)
    module = ModuleType("page")  # so that a class of the page has a module, as in a script
    sys.modules["page"] = module
    try:
        for number, code in enumerate(blocks(page, "python"), 1):
            exec(compile(code, f"{page}, block {number}", "exec"), vars(module))
        yield vars(module)
    finally:  # this one alone: what the page imported stays, as numba stands no second import
        del sys.modules["page"]


def links(page: str) -> Iterator[str]:
    """What the page links to and shows, but for code blocks and addresses of the web."""
    prose = re.sub(r"^( *)(```+|~~~+)(?:.*\n)*?\1\2 *$", "", text(page), flags=re.MULTILINE)
    for target in re.findall(r'(?:\]\(|\b(?:src|href)=")([^)\s"]+)', prose):
        if "://" not in target:
            yield target
