"""The contract as a table for readers: what each kind of sharing survives, with a reason wherever it does not.

It is made of the declared refusals. The tests run every cell and hold its outcome against the declaration, so the
table says what they found.
"""

from collections.abc import Iterator, Sequence
import re

from tests.contract.matrix import Cell, cells, hook_cells, slow_cells
from tests.contract.refusals import Refusal, declared

METHODS = {
    "halves": "`Tie(rate=2)`",
    "random thirds, mean": "`Tie(rate=3, order=random(7), fuse=mean)`",
    "back, strided": "`Tie(rate=2, order=strided, spread=back)`",
    "trained through": "`Tie(rate=2, fuse=through(scalar_weighted))`",
    "low rank of each layer": "`Tie(rate=2, own=LoRA(1))`",
    "templates": "`Templates(2)`",
    "lattice": "`Lattice()`",
    "low rank": "`LowRank(2)`",
    "clusters": "`Codebook(3)`",
    "sleep": '`Sleep(mode="instant")`',
    "sleep, hebbian": '`Sleep(mode="hebbian")`',
    "proximal": "`Proximal(...)`",
}
"""The rows, as a user writes them."""

EVENTS: dict[str, tuple[str, ...]] = {
    "safetensors": ("file",),
    "`assign`": ("assign",),
    "`to_empty`": ("to_empty", "to_empty_retie"),
    "`deepcopy`": ("deepcopy",),
    "`AveragedModel`": ("ema", "swa"),
    "`compile`": ("compiled", "inductor"),
    "`export`": ("export",),
    "ONNX": ("onnx",),
    "AMP": ("amp_foreach", "amp_fused", "amp_sgd"),
    "DDP × 2": ("ddp",),
    "FSDP2 × 2": ("fsdp2",),
    "resume": ("resume",),
}
"""The columns, each with the events of the contract that it stands for."""


def tables() -> str:
    """The matrix in Markdown, and below it the reasons that its cells name."""
    found = {(row, column): _cells(row, column) for row in METHODS for column in EVENTS}
    reasons: dict[str, int] = {}
    lines = [f"| | {' | '.join(EVENTS)} |", f"|---|{'---|' * len(EVENTS)}"]
    for row, written in METHODS.items():
        shown = [_shown(found[row, column], reasons) for column in EVENTS]
        lines.append(f"| {written} | {' | '.join(shown)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes])


def unfit() -> str:
    """For each kind of sharing the modules that it refuses whatever happens to them, in Markdown."""
    found: dict[Refusal, list[str]] = {}
    for row in METHODS:
        for refusal in {cell: declared(*cell) for cell in _every(row)}.values():
            if refusal is not None and refusal.event == "*" and row not in found.setdefault(refusal, []):
                found[refusal].append(row)
    rows = [
        f"| {refusal.module} | {', '.join(METHODS[row] for row in of)} | {said(refusal)} |"
        for refusal, of in found.items()
    ]
    return "\n".join(["| network | refused by | why |", "|---|---|---|", *rows])


def said(refusal: Refusal) -> str:
    """The message that a refusal has to match, for a reader: what is left open are dots."""
    plain = refusal.reason.removeprefix("^").replace(".*", "… ").replace(r"\d", "N")
    return " ".join(re.sub(r"\\(.)", r"\1", plain).split())


def _every(row: str) -> Iterator[Cell]:
    return (cell for cell in (*cells(), *hook_cells(), *slow_cells()) if cell.spec == row)


def _cells(row: str, column: str) -> list[Cell]:
    """The cells of the contract behind one of the table: networks that this kind of sharing fits, or is asked to."""
    mine = [cell for cell in _every(row) if cell.event in EVENTS[column]]
    return [cell for cell in mine if (refusal := declared(*cell)) is None or refusal.event != "*"]


def _shown(mine: Sequence[Cell], reasons: dict[str, int]) -> str:
    """On how many networks it holds, and the numbers of the reasons for the others."""
    if not mine:
        raise ValueError("a cell of the table is behind no cell of the contract")
    networks = list(dict.fromkeys(cell.module for cell in mine))
    refused = {cell.module: refusal for cell in mine if (refusal := declared(*cell)) is not None}
    notes = [
        f"{said(refusal)} ({name})" if len(refused) < len(networks) else said(refusal)
        for name, refusal in refused.items()
    ]
    numbers = sorted({reasons.setdefault(note, len(reasons) + 1) for note in notes})
    marks = f" <sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""
    kept = len(networks) - len(refused)
    return f"{kept} of {len(networks)}{marks}" if kept else f"refused{marks}"
