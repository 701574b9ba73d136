"""Put the committed results into docs/sweep.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_sweep.py
"""

from pathlib import Path

from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "sweep.md"


def filled(page: str) -> str:
    """The page with every block as it should be."""
    table = (ROOT / "results" / "sweep" / "torus" / "table.txt").read_text(encoding="utf-8")
    return with_blocks(page, {"torus": table.rstrip()})


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
