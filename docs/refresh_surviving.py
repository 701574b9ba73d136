"""Put the contract's matrix into docs/surviving.md, from what the tests declare and hold every cell against.

python docs/refresh_surviving.py
"""

from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the contract lies among the tests

from tests.contract.survival import tables, unfit  # noqa: E402
from weightshare.experiments.studies.results import filled as with_blocks  # noqa: E402

PAGE = ROOT / "docs" / "surviving.md"


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {"matrix": tables(), "unfit": unfit()}


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks(), markdown=True)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
