"""Put the committed results into docs/space.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_space.py
"""

import json
from pathlib import Path

from weightshare._table import render
from weightshare.experiments.studies.local_cifar import PAPER, ROWS, TABLE, WHOLE
from weightshare.experiments.studies.local_cifar_results import table
from weightshare.experiments.studies.results import Result
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "space.md"


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {"table1": _results(TABLE), "whole": _results(WHOLE), "costs": costs()}


RIVALS = {
    "over_unfolding": ("unfold + einsum", {"64": "0.667, 0.333, 0.5", "512": "0.769"}),
    "over_unfolding_and_bmm": ("unfold + bmm, our layout", {}),
    "over_the_convolution": ("nn.Conv2d", {}),
    "over_copies_of_what_must_be_moved": ("copies of what must be moved", {}),
    "peak_memory_over_unfolding": ("unfold + einsum: peak memory", {"64": "0.7", "512": "0.7"}),
}
"""For each benchmark what ours is measured over, and the highest ratio that is meant, by the batch."""
LAYERS = ("16-32x32", "32-16x16", "64-8x8")


def costs() -> str:
    """The ratios that benchmarks wrote, and the time of ours."""
    ratios = json.loads((ROOT / "results" / "benchmarks" / "space.json").read_text())["ratios"]
    columns = ("over", "batch", "16 ch, 32×32", "32 ch, 16×16", "64 ch, 8×8", "at most")
    rows: list[tuple[str, ...]] = []
    for name, (over, goals) in RIVALS.items():
        for batch in ("64", "512"):
            found = [ratios[f"test_{name}[{layer}-batch{batch}]"]["ratio"] for layer in LAYERS]
            rows.append((over, batch, *(f"{ratio:.3g}" for ratio in found), goals.get(batch, "")))
    seconds = [ratios[f"test_over_unfolding[{layer}-batch64]"]["ours_seconds"] for layer in LAYERS]
    rows.append(("(ours, seconds)", "64", *(f"{one:.3g}" for one in seconds), ""))
    step = ratios["test_a_training_step_over_unfolding"]
    lead = "A whole training step of the local ResNet-20 (batch 128, AdamW, 40.8 million weights):"
    times = f"{step['ours_seconds']:.3g} s over {step['rival_seconds']:.3g} s"
    text = f"{lead} {step['ratio']:.3g} of that\nwith unfold + einsum (at most 0.5): {times}."
    return f"{render(columns, rows, numbers=columns[1:])}\n\n{text}"


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


def _results(name: str) -> str:
    folder = ROOT / "results" / PAPER / name
    return table([Result.read(folder / f"{row}.json") for row in ROWS if (folder / f"{row}.json").is_file()])


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
