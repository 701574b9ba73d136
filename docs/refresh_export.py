"""Put the committed results into docs/export.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_export.py
"""

from pathlib import Path

from weightshare.experiments.studies.exporting import compile_table, read, size_table
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "export.md"


def filled(page: str) -> str:
    """The page with every block as it should be."""
    sizes, compiled = read(ROOT / "results" / "export.json")
    return with_blocks(page, {"sizes": size_table(sizes), "compilers": compile_table(compiled)})


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
