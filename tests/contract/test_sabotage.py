"""A library that is broken on purpose: the contract matrix has to notice, everywhere."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.matrix import cells, problem, run
from tests.contract.refusals import declared
from tests.contract.specs import OF_BANKS
import weightshare as ws
from weightshare import planning
from weightshare.decoding import mix
from weightshare.depth.bank import LayerBank
from weightshare.depth.templates import TemplateBank
from weightshare.space import lattice, lowrank
from weightshare.surgery import edit
from weightshare.values import codebook

ALL = list(cells())


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
    """Not passed, nor refused as declared, on any module, where readers are distant and fused, or scalars."""
    spec, _, owner, attribute, replacement, events = row
    mine = [cell for cell in ALL if cell.spec == spec and cell.event in events]
    chosen = [cell for cell in mine if declared(*cell) is None]
    assert {cell.event for cell in chosen} == set(events)
    monkeypatch.setattr(owner, attribute, replacement)
    assert [cell for cell in chosen if not problem(cell, run(cell))] == []
