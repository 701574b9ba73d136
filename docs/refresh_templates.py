"""Put the committed results into docs/templates.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_templates.py
"""

from pathlib import Path

from weightshare.experiments.studies.results import costs
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "templates.md"
FORWARD, BACKWARD = "weights of 6 layers, forward", "with their backward pass"
COSTS = {
    "test_generating_over_layer_by_layer[forward-2]": (f"{FORWARD}, k = 2", "layer by layer", "0.67"),
    "test_generating_over_layer_by_layer[backward-2]": (f"{BACKWARD}, k = 2", "layer by layer", "0.67"),
    "test_generating_over_layer_by_layer[forward-6]": (f"{FORWARD}, k = 6", "layer by layer", "0.67"),
    "test_generating_over_layer_by_layer[backward-6]": (f"{BACKWARD}, k = 6", "layer by layer", "0.67"),
    "test_a_step_over_the_unshared_network": ("step of SWRN-28-10-2, batch 32", "WRN-28-10", "1.05"),
}


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {"costs": costs(ROOT / "results" / "benchmarks" / "templates.json", COSTS)}


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
