"""The contract matrix: every spec on every module of the zoo through every event, or refused as declared."""

from typing import Any

import pytest

from tests.contract import two_processes
from tests.contract.matrix import Cell, Outcome, cells, hook_cells, problem, run, slow_cells
from tests.contract.refusals import REFUSALS, declared
from tests.contract.specs import OF_BANKS, OF_POSITIONS

ALL = list(cells())
EVERY = [*ALL, *hook_cells(), *slow_cells()]
ONE_BY_ONE = [cell for cell in ALL if cell.event not in two_processes.TOGETHER]


def check_cell(cell: Cell) -> None:
    assert not (said := problem(cell, run(cell))), said


@pytest.mark.parametrize("cell", ONE_BY_ONE, ids=str)
def test_cell(cell: Cell) -> None:
    check_cell(cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", list(slow_cells()), ids=str)
def test_slow_cell(cell: Cell) -> None:
    check_cell(cell)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: "/".join(row[:3]))
def test_every_declared_refusal_is_the_first_for_some_cell(row: Any) -> None:
    assert [cell for cell in EVERY if declared(*cell) is row]


def test_every_event_passes_on_most_modules() -> None:
    """A refusal is the exception: no event and no spec may be declared away. Codebooks have no ties, nor layers of five
    modules to read them."""
    for tied, most in ((True, 0.2), (False, 0.34)):
        # FSDP2 runs at once where it is most likely to be refused, so its other cells count too.
        together = [cell for cell in slow_cells() if cell.event in two_processes.TOGETHER]
        cells_of_kind = [cell for cell in (*ALL, *together) if (cell.spec not in INSIDE) == tied]
        exempt = {"lazy", "shortcuts", "layer_used_twice"} if tied else NOT_CLUSTERED
        for names in zip(*cells_of_kind, strict=True):
            for name in set(names) - exempt:
                mine = [cell for cell in cells_of_kind if name in cell]
                refused = [cell for cell in mine if declared(*cell) is not None]
                assert len(refused) <= most * len(mine), name


INSIDE = {"clusters", *OF_POSITIONS, *OF_BANKS}
NOT_CLUSTERED = {"lazy", "parametrized", "parameter_list", "recurrent", "complex_weights"} | {
    *("retie", "owners_only", "pickle", "conflict"),
}
PLAIN = Cell("halves", "chain", "apply")
LAZY = Cell("halves", "lazy", "apply")


@pytest.mark.parametrize(
    ("cell", "outcome", "said"),
    [
        (PLAIN, Outcome("passed"), ""),
        (PLAIN, Outcome("failed", "AssertionError"), "failed"),
        (PLAIN, Outcome("refused", "SpecError: no"), "no entry of refusals.py"),
        (LAZY, Outcome("refused", "SpecError: '0.weight' has no shape yet: its lazy module is not built."), ""),
        (LAZY, Outcome("refused", "SpecError: something else"), "another reason"),
        (LAZY, Outcome("passed"), "says that it is refused"),
        (LAZY, Outcome("failed", "AssertionError"), "failed"),
    ],
)
def test_outcomes_are_held_against_the_table(cell: Cell, outcome: Outcome, said: str) -> None:
    found = problem(cell, outcome)
    assert bool(found) == bool(said)
    assert said in found
