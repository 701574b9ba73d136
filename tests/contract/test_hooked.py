"""What is attached to an optimizer, through every event; and that the events notice what fails."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract import hooked, two_processes
from tests.contract.matrix import Cell, hook_cells, problem, run
from tests.contract.refusals import declared
from weightshare import hooks
from weightshare.space.sleep import SleepHandle
from weightshare.training import snapshot
from weightshare.values.proximal import ProximalHandle

ALL = [cell for cell in hook_cells() if cell.event not in two_processes.TOGETHER]


@pytest.mark.parametrize("cell", ALL, ids=str)
def test_cell(cell: Cell) -> None:
    assert not (said := problem(cell, run(cell))), said


def nothing(*_: object, **__: object) -> list[str]:
    """Stands in for a part of the library that does not do its work."""
    return []


SABOTAGE: dict[str, tuple[Any, str, Callable[..., Any], tuple[str, ...]]] = {
    "the state of a sleep is not loaded": (SleepHandle, "load_state_dict", nothing, ("file", "deepcopy")),
    "the state of a map is not loaded": (ProximalHandle, "load_state_dict", nothing, ("file", "deepcopy")),
    "a run's hooks stay where they are": (snapshot, "_set_hooks", nothing, ("resume",)),
    "stale parameters are no concern": (hooks.Handle, "expect_held", nothing, ("assign", "to_empty")),
    "a skipped step counts": (hooks, "_overflowed", nothing, ("amp_fused",)),
    "no map after a step": (hooks.Handle, "_after_step", nothing, tuple(hooked.EVENTS)),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_a_library_that_is_broken_on_purpose_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement, events = SABOTAGE[name]
    mine = {SleepHandle: "sleep, hebbian", ProximalHandle: "proximal"}.get(owner, "proximal")
    module = {"proximal": "chain", "sleep, hebbian": "local_rows"}[mine]
    chosen = [cell for cell in ALL if cell[:2] == (mine, module) and cell.event in events]
    assert {cell.event for cell in chosen} == {*events}
    monkeypatch.setattr(owner, attribute, replacement)
    assert [cell for cell in chosen if run(cell).kind != "failed"] == []


def test_each_event_passes_where_the_hook_fits() -> None:
    refused = {cell.event for cell in ALL if cell.module in ("chain", "local_rows") and declared(*cell)}
    assert refused == {"assign", "to_empty"}
