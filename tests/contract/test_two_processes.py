"""The cells of the contract matrix that need two processes."""

import pytest

from tests.contract import two_processes
from tests.contract.matrix import Cell, Outcome, cells, hook_cells, problem

IN_PAIRS = [cell for cell in (*cells(), *hook_cells()) if cell.event in two_processes.TOGETHER]


@pytest.fixture(scope="module")
def pair() -> dict[two_processes.Key, Outcome]:
    """Two processes, started once, that run the cells of all specs and modules."""
    return two_processes.outcomes()


@pytest.mark.parametrize("cell", IN_PAIRS, ids=str)
def test_cell_on_two_processes(cell: Cell, pair: dict[two_processes.Key, Outcome]) -> None:
    assert not (said := problem(cell, pair[cell])), said
