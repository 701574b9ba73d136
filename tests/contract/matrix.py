"""The contract: every spec on every module of the zoo through every event."""

from collections.abc import Iterator
import re
from typing import NamedTuple

from tests.contract import hooked, two_processes
from tests.contract.events import CHOSEN, EVENTS, SLOW
from tests.contract.outcomes import Outcome, attempt
from tests.contract.refusals import declared
from tests.contract.specs import SPECS, modules
from tests.contract.trial import Trial
from tests.contract.two_processes import TOGETHER
from tests.zoo import ZOO


class Cell(NamedTuple):
    """Names of a spec, a module and an event."""

    spec: str
    module: str
    event: str

    def __str__(self) -> str:
        return "/".join(self)


def cells() -> Iterator[Cell]:
    """Every cell but the slow ones."""
    for spec in SPECS:
        for module in modules(spec):
            for event in EVENTS:
                yield Cell(spec, module, event)
        for event, (_, preferred) in CHOSEN.items():
            yield Cell(spec, _first_of(preferred, spec), event)
    yield from map(Cell._make, two_processes.cells())


def hook_cells() -> Iterator[Cell]:
    """Every cell of what is attached to an optimizer, instead of shared."""
    for hook in hooked.HOOKS:
        for module in hooked.modules(hook):
            for event in hooked.EVENTS:
                yield Cell(hook, module, event)
            yield from (Cell(hook, module, event) for event, (_, chosen) in hooked.CHOSEN.items() if module in chosen)
    yield from map(Cell._make, two_processes.hook_cells())


def slow_cells() -> Iterator[Cell]:
    """Those behind the marker."""
    for spec in SPECS:
        for event, (_, chosen) in SLOW.items():
            for module in (name for name in chosen if name in modules(spec)):
                yield Cell(spec, module, event)
        for event, (_, preferred) in CHOSEN.items():
            for module in (name for name in modules(spec) if name != _first_of(preferred, spec)):
                yield Cell(spec, module, event)
    yield from map(Cell._make, two_processes.cells(slow=True))


def _first_of(preferred: tuple[str, ...], spec: str) -> str:
    return next(name for name in preferred if name in modules(spec))


def run(cell: Cell) -> Outcome:
    """Run one cell. The first one of two processes runs all of those."""
    if cell.event in TOGETHER:
        return two_processes.outcomes(slow=cell in two_processes.cells(slow=True))[cell]
    if cell.spec in hooked.HOOKS:
        trial = hooked.Hooked(hooked.modules(cell.spec)[cell.module], hooked.HOOKS[cell.spec]())
        of_hook = hooked.EVENTS[cell.event] if cell.event in hooked.EVENTS else hooked.CHOSEN[cell.event][0]
        return attempt(of_hook, trial)
    event = EVENTS[cell.event] if cell.event in EVENTS else {**SLOW, **CHOSEN}[cell.event][0]
    return attempt(event, Trial(ZOO[cell.module], SPECS[cell.spec]()))


def problem(cell: Cell, outcome: Outcome) -> str:
    """What is wrong with an outcome, or nothing: it passed, or it was refused as declared."""
    row = declared(*cell)
    if outcome.kind == "failed":
        return f"{cell} failed:\n{outcome.detail}"
    if outcome.kind == "refused" and row is None:
        return f"{cell} was refused, and no entry of refusals.py says so: {outcome.detail}"
    if outcome.kind == "refused" and row is not None and not re.search(row.reason, outcome.detail):
        return f"{cell} was refused for another reason than {row.reason!r}: {outcome.detail}"
    if outcome.kind == "passed" and row is not None:
        return f"{cell} passed, and refusals.py says that it is refused: {row.reason!r}"
    return ""
