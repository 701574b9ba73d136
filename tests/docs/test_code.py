"""The code on every page runs, block after block, in an empty folder; and leaves what the page says.

A page that is new runs here by itself. What it must leave is a function in `LEAVES`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs.pages import blocks, names, running
from tests.support import ROOT
from weightshare.models.by_name import mend_torchvision
from weightshare.space.local import LocallyConnected2d

OWN = {
    "README.md": "test_readme.py",
    "docs/export.md": "test_export_page.py",
    "docs/files.md": "test_files_page.py",
    "docs/integrations.md": "test_integrations.py",
    "docs/papers.md": "test_papers_page.py",
}
"""Pages whose code needs something around it, and the test that gives it."""
PAGES = [page for page in names() if page not in OWN and blocks(page, "python")]


def values(left: dict[str, Any], printed: str) -> None:
    assert left["clusters"].shape == left["model"].fc1.weight.shape
    assert left["handle"].steps == 3


def space(left: dict[str, Any], printed: str) -> None:
    assert left["handle"].sleeps == 3  # two epochs of three steps, and once more
    assert type(left["plain"].conv1) is LocallyConnected2d
    assert type(left["layer"].weight) is torch.Tensor  # made from templates
    assert "whole model" in printed


def depth(left: dict[str, Any], printed: str) -> None:
    assert left["plan"].stored_after <= 0.75 * left["plan"].stored_before
    assert "linear CKA" in printed


def templates(left: dict[str, Any], printed: str) -> None:
    assert left["loops"].output_error < 1e-6
    assert left["loops"].removed == 4
    assert repr(left["small"].layer2).startswith("Looped(\n  0 → 3 × (1)\n")
    assert left["record"].history.steps == (0, 1, 2, 3)
    assert "|cos| of coefficients" in printed


def data(left: dict[str, Any], printed: str) -> None:
    assert left["seen"].shape == (1437 % 128, 1, 8, 8)
    assert torch.equal(left["targets"], left["labels"])


LEAVES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "docs/values.md": values,
    "docs/space.md": space,
    "docs/depth.md": depth,
    "docs/templates.md": templates,
    "docs/data.md": data,
}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mend_torchvision()
    monkeypatch.chdir(tmp_path)
    with running(page) as left:
        LEAVES.get(page, lambda left, printed: None)(left, capsys.readouterr().out)


def test_each_page_with_code_is_run_once() -> None:
    assert set(OWN) | set(LEAVES) <= set(names())
    assert not set(OWN) & set(LEAVES)
    for page, test in OWN.items():
        assert blocks(page, "python")
        assert Path(page).name in (ROOT / "tests" / "docs" / test).read_text(encoding="utf-8")
