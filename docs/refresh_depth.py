"""Put the committed results into docs/depth.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_depth.py
"""

from pathlib import Path

from weightshare.experiments.studies.results import costs
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "depth.md"
COSTS = {
    "test_tied_over_untied": ("tied at rate 2", "untied", "1.02"),
    "test_through_over_tied[mean]": ("through(mean)", "tied", "1.05"),
    "test_through_over_tied[scalar]": ("through(scalar_weighted)", "tied", "1.05"),
    "test_through_over_tied[channel]": ("through(channel_weighted)", "tied", "1.05"),
    "test_transforms_over_tied[lora16]": ("LoRA(16)", "tied", ""),
    "test_transforms_over_tied[channel-scale]": ('Scale("channel")', "tied", ""),
    "test_serving_over_untied": ("fold, evaluation", "untied", "1.02"),
    "test_once_a_pass_over_once_a_reader": ("made once a pass", "made by each reader", "below 1"),
}


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    minilm = (ROOT / "results" / "beyond" / "minilm" / "table.txt").read_text(encoding="utf-8").rstrip()
    return {"minilm": minilm, "costs": costs(ROOT / "results" / "benchmarks" / "depth.json", COSTS)}


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
