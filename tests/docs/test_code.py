"""The code on every page runs, block after block, in an empty folder; and leaves what the page says.

A page that is new runs here by itself. What it must leave is a function in `LEAVES`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.contract.by_hand import KINDS
from tests.contract.events import EVENTS
from tests.contract.matrix import Cell, problem, run
from tests.contract.specs import SPECS
from tests.docs.pages import blocks, names, running
from tests.support import ROOT
from weightshare.decoding import Clusters
from weightshare.models.by_name import mend_torchvision
from weightshare.space.local import LocallyConnected2d

OWN = {
    "README.md": "test_readme.py",
    "docs/export.md": "test_export_page.py",
    "docs/files.md": "test_files_page.py",
    "docs/integrations.md": "test_integrations.py",
    "docs/reproduce.md": "test_reproduce_page.py",
    **{f"docs/tutorials/{name}.md": "test_tutorials.py" for name in ("local", "templates", "ties", "values")},
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


def extending(left: dict[str, Any], printed: str) -> None:
    shown("docs/extending.md", printed)
    clusters = [Cell("clusters", "chain", event) for event in EVENTS if event != "compiled"]  # seconds; see contract/
    by_hand = KINDS[Clusters]._replace(gradients=of_circulant)
    with mock.patch.dict(SPECS, circulant=left["Circulant"]), mock.patch.dict(KINDS, {Clusters: by_hand}):
        outcomes = {cell: run(cell._replace(spec="circulant")) for cell in clusters}
    assert [said for cell, outcome in outcomes.items() if (said := problem(cell, outcome))] == []  # no more than those
    assert sum(outcome.kind == "passed" for outcome in outcomes.values()) > 20


def of_circulant(group: Clusters, state: dict[str, Tensor], dense: Tensor | None) -> dict[str, Tensor | None]:
    """What `c` gets, given the gradient of the dense weight: `∂c_k = Σ_i ∂W_(i, (i + k) mod n)`."""
    if dense is None:
        return {group.keys[0]: None}
    rows, columns = group.shape
    summed = [sum(dense[i, (i + k) % columns].double() for i in range(rows)) for k in range(columns)]
    return {group.keys[0]: torch.stack(summed).to(dense.dtype)}


def costs(left: dict[str, Any], printed: str) -> None:
    (counted, *_) = blocks("docs/costs.md", "text")
    assert counted in printed


def index(left: dict[str, Any], printed: str) -> None:
    shown("docs/index.md", printed)
    assert left["small"].blocks[0].pointwise.weight is left["small"].blocks[1].pointwise.weight


def shown(page: str, printed: str) -> None:
    """What a page shows as text is what its code prints."""
    assert [text for text in blocks(page, "text") if text not in printed] == []


LEAVES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "docs/index.md": index,
    "docs/costs.md": costs,
    "docs/extending.md": extending,
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
        assert Path(page).stem in (ROOT / "tests" / "docs" / test).read_text(encoding="utf-8")
