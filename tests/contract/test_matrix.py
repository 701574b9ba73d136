"""The contract matrix: every spec on every module of the zoo through every event, or refused as declared."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract import two_processes
from tests.contract.matrix import Cell, Outcome, cells, hook_cells, problem, run, slow_cells
from tests.contract.refusals import REFUSALS, declared
from tests.contract.specs import OF_BANKS, OF_POSITIONS
import weightshare as ws
from weightshare import planning
from weightshare.decoding import mix
from weightshare.depth.bank import LayerBank
from weightshare.depth.templates import TemplateBank
from weightshare.space import lattice, lowrank
from weightshare.surgery import edit
from weightshare.values import codebook

ALL = list(cells())
EVERY = [*ALL, *hook_cells(), *slow_cells()]
ONE_BY_ONE = [cell for cell in ALL if cell.event not in two_processes.TOGETHER]
IN_PAIRS = [cell for cell in (*ALL, *hook_cells()) if cell.event in two_processes.TOGETHER]


def check_cell(cell: Cell) -> None:
    assert not (said := problem(cell, run(cell))), said


@pytest.fixture(scope="module")
def pair() -> dict[two_processes.Key, Outcome]:
    """Two processes, started once, that run the cells of all specs and modules."""
    return two_processes.outcomes()


@pytest.mark.parametrize("cell", ONE_BY_ONE, ids=str)
def test_cell(cell: Cell) -> None:
    check_cell(cell)


@pytest.mark.parametrize("cell", IN_PAIRS, ids=str)
def test_cell_on_two_processes(cell: Cell, pair: dict[two_processes.Key, Outcome]) -> None:
    assert not (said := problem(cell, pair[cell])), said


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


def nothing(*_: object, **__: object) -> list[str]:
    """Stands in for a part of the library that does not do its work."""
    return []


HONEST_TIE = edit.tie


def tie_a_wrong_pair_too(edits: edit.Transaction, ties: Any, compare: bool = True) -> list[str]:
    """Ties what it should, and then the first two parameters that have equal shapes and are not one."""
    mended = HONEST_TIE(edits, ties, compare)
    named = list(edits.model.named_parameters())
    pairs = ((left, path) for at, (_, left) in enumerate(named) for path, right in named[at + 1 :] if fits(left, right))
    tensor, path = next(pairs)
    edits.put(path, tensor)
    return mended


def fits(left: nn.Parameter, right: nn.Parameter) -> bool:
    return (left.shape, left.dtype) == (right.shape, right.dtype)


RETIES = ("retie", "assign", "to_empty", "to_empty_retie", "deepcopy")
SABOTAGE: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "retie does nothing": (edit, "tie", nothing, RETIES),
    "retie ties a wrong pair": (edit, "tie", tie_a_wrong_pair_too, RETIES),
    "loading completes and compares nothing": (planning, "_before_loading", nothing, ("conflict", "owners_only")),
    "edits are not undone": (edit.Transaction, "roll_back", nothing, ("late_failure",)),
    "hooks stay": (edit.Transaction, "unwatch", nothing, ("fold", "unshare", "deepcopy")),
    "plans stay": (planning, "forget", nothing, ("fold", "unshare", "deepcopy")),
    "readers stay together": (edit, "untie", nothing, ("unshare",)),
    "numbers are not written": (edit.Transaction, "write", nothing, ("apply", "file")),
    "nothing is put": (edit.Transaction, "put", nothing, ("apply", "gradient", "optimizer")),
    "any optimizer is accepted": (ws, "check", nothing, ("optimizer",)),
}


def summed(self: codebook.Decoder, values: Tensor) -> Tensor:
    """Reads a codebook as torch would: a value gets the sum of its members' gradients."""
    return values[self.index.long()]


CLUSTER_SABOTAGE: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "gradients are summed": (codebook.Decoder, "forward", summed, ("gradient",)),
    "codebooks stay": (edit.Transaction, "undecode", nothing, ("fold", "unshare", "deepcopy")),
    "nothing is decoded": (edit.Transaction, "decode", nothing, ("apply", "optimizer")),
    "any labels are loaded": (codebook.Codebook, "check_loading", nothing, ("conflict",)),
    "edits are not undone": SABOTAGE["edits are not undone"],
}


def detached(self: lattice.Decoder, slots: Tensor) -> Tensor:
    """Reads slots of classes, and gives the first alone a gradient."""
    return torch.cat([slots[:1], slots[1:].detach()])[self.index.long()]


def unmixed(self: lowrank.Mixer, templates: Tensor) -> Tensor:
    """Mixes templates by coefficients that are not trained."""
    return mix(self.coefficients.detach(), templates).view(*self.positions, *templates.shape[1:])


STAY = (edit.Transaction, "undecode", nothing, ("unshare", "deepcopy"))
NOT_MADE = (edit.Transaction, "decode", nothing, ("apply", "optimizer"))
LATTICE_SABOTAGE: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "one slot is trained": (lattice.Decoder, "forward", detached, ("gradient",)),
    "slots stay": STAY,
    "nothing is decoded": NOT_MADE,
    "any labels are loaded": (lattice.Lattice, "check_loading", nothing, ("conflict",)),
}
LOW_RANK_SABOTAGE: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "coefficients are not trained": (lowrank.Mixer, "forward", unmixed, ("gradient",)),
    "templates stay": STAY,
    "nothing is decoded": NOT_MADE,
}


def untrained(self: LayerBank, slot: int) -> Tensor:
    """A slot that reaches its readers and gets no gradient from them."""
    return HONEST_SLOT(self, slot).detach()


def fixed(self: TemplateBank) -> Any:
    """All weights, with coefficients that are not trained."""
    return mix(self.coefficients.detach(), self.templates).unbind()


HONEST_SLOT = LayerBank._slot
BANKS_STAY = (edit.Transaction, "drop_child", nothing, ("fold", "unshare"))
BANK_SABOTAGE: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "slots are not trained": (LayerBank, "_slot", untrained, ("gradient",)),
    "banks stay": BANKS_STAY,
}
TEMPLATE_SABOTAGE: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "coefficients are not trained": (TemplateBank, "make", fixed, ("gradient",)),
    "banks stay": BANKS_STAY,
}
BROKEN = [("random thirds, mean", name, *row) for name, row in SABOTAGE.items()] + [
    (spec, name, *row)
    for spec, rows in (
        ("clusters", CLUSTER_SABOTAGE),
        ("lattice", LATTICE_SABOTAGE),
        ("low rank", LOW_RANK_SABOTAGE),
        *((spec, BANK_SABOTAGE) for spec in OF_BANKS if spec != "templates"),
        ("templates", TEMPLATE_SABOTAGE),
    )
    for name, row in rows.items()
]


@pytest.mark.parametrize("row", BROKEN, ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_library_that_is_broken_on_purpose_fails_everywhere(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither passed nor refused, on any module, where readers are distant and their numbers fused, or scalars."""
    spec, _, owner, attribute, replacement, events = row
    mine = [cell for cell in ALL if cell.spec == spec and cell.event in events]
    chosen = [cell for cell in mine if declared(*cell) is None]
    assert {cell.event for cell in chosen} == set(events)
    monkeypatch.setattr(owner, attribute, replacement)
    assert [cell for cell in chosen if run(cell).kind != "failed"] == []
