"""Put the committed results into docs/costs.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_costs.py
"""

from pathlib import Path

from weightshare.experiments.studies.results import costs
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "costs.md"

COSTS = {
    "depth": {
        "test_tied_over_untied": ("forward and backward, tied at rate 2", "untied", "1.02"),
        "test_through_over_tied[mean]": ("the same, trained through a mean", "tied", "1.05"),
        "test_transforms_over_tied[lora16]": ("the same, LoRA(16) of each layer", "tied", ""),
        "test_serving_over_untied": ("folded, evaluation", "untied", "1.02"),
    },
    "templates": {
        "test_a_step_over_the_unshared_network": ("training step of SWRN-28-10-2", "WRN-28-10", "1.05"),
    },
    "space": {
        f"test_over_the_convolution[{size}-batch64]": (
            f"local layer, {size.replace('-', ' channels, ')}",
            "nn.Conv2d",
            "",
        )
        for size in ("16-32x32", "32-16x16", "64-8x8")
    },
    "values": {
        "test_over_the_plain_step[sort_free]": ("training step with Proximal", "plain step", "at most 1.25"),
        "test_over_the_plain_step[exact]": ("the same, exact map at every step", "plain step", "at most 2.5"),
    },
}


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {name: costs(ROOT / "results" / "benchmarks" / f"{name}.json", rows) for name, rows in COSTS.items()}


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
