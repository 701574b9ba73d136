"""Put the committed results into docs/space.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_space.py
"""

import json
from pathlib import Path

from weightshare._table import render
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "space.md"


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {"costs": costs(), "steps": steps()}


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


STEPS = {
    "convolutions": ("row `conv`, batch 128", "script", "1"),
    "convolutions_of_large_batches": ("row `conv`, batch 512", "script", "1"),
    "convolutions_over_rectifiers_in_place": ("row `conv`, batch 128", "script, rectifiers in place", ""),
    "convolutions_in_bfloat16": ("row `conv`, bfloat16, batch 32", "script, bfloat16", ""),
    "local_layers": ("row `lc`, batch 128", "script, unfold + einsum", "1.3"),
}
"""For each benchmark what was measured, over what, and the lowest ratio that is meant."""
SEEDS = {"resnet20": "resnet20:8/16/32, blocks=1", "torus-mlp": "torus-mlp:4/8"}


def steps() -> str:
    """How fast training steps are, and whether several runs belong beside one another."""
    file = json.loads((ROOT / "results" / "benchmarks" / "resnet20.json").read_text())
    ratios, machine = file["ratios"], file["environment"]
    rows = []
    for name, (what, over, goal) in STEPS.items():
        if (found := ratios.get(f"test_{name}")) is not None:
            numbers = [found[f"{key}_images_per_second"] for key in ("ours", "rival")]
            numbers += [found["ratio"], found["processor_ratio"]]
            between = f"{min(found['ratios']):.3g} to {max(found['ratios']):.3g}"
            rows.append((what, over, *(f"{number:.3g}" for number in numbers), between, goal))
    columns = ("ours", "over", "images/s", "theirs", "ratio", "of CPU time", "ratio of pairs", "at least")
    seeds = []
    for kind, name in SEEDS.items():
        if (found := ratios.get(f"test_seeds_at_once[{kind}]")) is not None:
            numbers = [found[key] for key in ("runs", "at_once_seconds", "in_turn_seconds", "ratio")]
            seeds.append((name, *(f"{number:.3g}" for number in numbers)))
    several = ("network", "runs", "at once (s)", "in turn (s)", "ratio")
    on = f"{machine['processor']}, {machine['cores']} cores, torch {machine['packages']['torch']}; "
    threads = sorted({found["threads"] for found in ratios.values() if "threads" in found})
    text = f"{on}steps on {' or '.join(map(str, threads))} of its threads."
    tables = [render(columns, rows, numbers=columns[2:])]
    tables += [render(several, seeds, numbers=several[1:])] if seeds else []
    return "\n\n".join((*tables, text))


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
