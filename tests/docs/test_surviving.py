"""The page on what sharing survives says what the contract declares, and has no silent cell."""

import runpy

from tests.contract.matrix import hook_cells
from tests.contract.specs import SPECS
from tests.contract.survival import EVENTS, METHODS
from tests.support import ROOT

PAGE = ROOT / "docs" / "surviving.md"


def test_the_matrix_on_the_page_is_the_contract():
    script = runpy.run_path(str(ROOT / "docs" / "refresh_surviving.py"))
    assert script["filled"](PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8")


def test_each_method_has_a_row_and_each_cell_says_something():
    assert set(METHODS) == {*SPECS, *(cell.spec for cell in hook_cells())}
    rows = [line.strip("|").split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if " of " in line]
    table = [row for row in rows if row[0].strip() in METHODS.values()]
    assert len(table) == len(METHODS)
    for row in table:
        assert len(row) == 1 + len(EVENTS)
        assert all(cell.strip().endswith("</sup>") or _whole(cell) for cell in row[1:])


def _whole(cell: str) -> bool:
    """Whether a cell without a reason says that all networks hold."""
    kept, all_of_them = cell.split(" of ")
    return int(kept) == int(all_of_them) > 0
