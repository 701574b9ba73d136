"""Put the committed results into docs/space.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_space.py
"""

import json
from pathlib import Path
import re

from weightshare._table import render
from weightshare.experiments.local_cifar import PAPER, ROWS, TABLE, WHOLE
from weightshare.experiments.local_cifar_results import table
from weightshare.experiments.results import Result

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "space.md"


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    return {"table1": _results(TABLE), "whole": _results(WHOLE), "costs": costs()}


def costs() -> str:
    """The ratios that benchmarks wrote."""
    ratios = json.loads((ROOT / "results" / "benchmarks" / "space.json").read_text())["ratios"]
    columns = ("benchmark", "ratio", "ours (s)", "rival (s)")
    rows = [
        (name.removeprefix("test_"), f"{one['ratio']:.3g}", f"{one['ours_seconds']:.3g}", f"{one['rival_seconds']:.3g}")
        for name, one in ratios.items()
    ]
    return render(columns, rows, numbers=columns[1:])


def filled(page: str) -> str:
    """The page with every block as it should be."""
    for name, text in blocks().items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        page, count = pattern.subn(lambda _, inside=text, b=begin, e=end: f"{b}```text\n{inside}\n```\n{e}", page)
        if count != 1:
            raise SystemExit(f"{PAGE.name} has {count} places for {name!r}, need one.")
    return page


def _results(name: str) -> str:
    folder = ROOT / "results" / PAPER / name
    return table([Result.read(folder / f"{row}.json") for row in ROWS if (folder / f"{row}.json").is_file()])


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
