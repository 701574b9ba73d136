"""Print the contract matrix: `python -m tests.contract [--slow] [SPEC/MODULE/EVENT ...]`, each argument a glob."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
import sys
import time

import torch

from tests.contract.matrix import Cell, cells, hook_cells, problem, run, slow_cells
from tests.contract.outcomes import Outcome
from weightshare._table import WIDTH, render


def main(arguments: Sequence[str]) -> int:
    """Run the cells, print one table for each spec with the reasons below it; 1 if anything is not as declared."""
    torch.set_num_threads(1)
    globs = [argument for argument in arguments if argument != "--slow"] or ["*"]
    slow = list(slow_cells())
    every = [*cells(), *hook_cells(), *(slow if "--slow" in arguments else [])]
    chosen = [cell for cell in every if any(fnmatchcase(str(cell), glob) for glob in globs)]
    if not chosen:
        print(f"No cell matches {globs}: the form is SPEC/MODULE/EVENT, such as {every[0]}.")
        return 1
    started = time.perf_counter()
    outcomes = {cell: run(cell) for cell in chosen}
    for spec in dict.fromkeys(cell.spec for cell in chosen):
        print(_table(spec, {cell: outcome for cell, outcome in outcomes.items() if cell.spec == spec}))
    problems = [text for cell, outcome in outcomes.items() if (text := problem(cell, outcome))]
    for text in problems:
        print(f"{text}\n")
    count = Counter(outcome.kind for outcome in outcomes.values())
    print(
        f"{len(chosen):,} cells in {time.perf_counter() - started:.0f} s: {count['passed']:,} passed, "
        f"{count['refused']:,} refused, {count['failed']:,} failed; {len(problems):,} not as declared."
    )
    if "--slow" not in arguments:
        print(f"Not run: {len(slow)} slow cells; --slow runs them.")
    return int(bool(problems))


def _table(spec: str, outcomes: dict[Cell, Outcome]) -> str:
    reasons: dict[str, int] = {}
    shown = {cell: _shown(cell, outcome, reasons) for cell, outcome in outcomes.items()}
    modules, events = (list(dict.fromkeys(names)) for names in list(zip(*outcomes, strict=True))[1:])
    count = Counter(outcome.kind for outcome in outcomes.values())
    kinds = ("passed", "refused", "failed")
    lines = [f"{spec}: {', '.join(f'{count[kind]:,} {kind}' for kind in kinds)}", ""]
    widest = max(map(len, modules))
    while events:
        width, columns = widest, list[str]()
        while events and (width := width + 3 + max(len(events[0]), len("refused (10)"))) <= WIDTH:
            columns.append(events.pop(0))
        rows = [[module, *(shown.get(Cell(spec, module, event), "") for event in columns)] for module in modules]
        lines += [render(("module", *columns), rows), ""]
    lines += [f"({number}) {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, ""])


def _shown(cell: Cell, outcome: Outcome, reasons: dict[str, int]) -> str:
    if problem(cell, outcome):
        return "FAIL"
    if outcome.kind == "refused":
        return f"refused ({reasons.setdefault(outcome.detail, len(reasons) + 1)})"
    return "pass"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
