"""Put the committed results into docs/data.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_data.py
"""

import json
from pathlib import Path

from weightshare._table import render
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "data.md"

LOADERS = {
    "memory": "in memory",
    "folder": "files, read in each step",
    "shards": "shards, read in each step",
    "packed": "packed JPEG, loaded once",
}
NETWORKS = {"resnet20": "training resnet20:16/32/64", "convmixer": "training convmixer:64/8/4/3"}
ROWS = {f"test_over_training[{a}-{b}]": (LOADERS[a], NETWORKS[b]) for a in LOADERS for b in NETWORKS} | {
    "test_over_one_by_one[memory]": (LOADERS["memory"], "DataLoader, Pillow one by one"),
    "test_over_one_by_one[folder]": (LOADERS["folder"], "DataLoader, Pillow one by one"),
    "test_over_webdataset": (LOADERS["shards"], "webdataset"),
}


def loading() -> str:
    """Rates of our loaders and of what they are measured against."""
    found = json.loads((ROOT / "results" / "benchmarks" / "loading.json").read_text(encoding="utf-8"))["ratios"]
    keys = ("ours_images_per_second", "rival_images_per_second")
    rows = [
        (what, over, *(f"{found[name][key]:,}" for key in keys), f"{found[name]['ratio']:.3g}")
        for name, (what, over) in ROWS.items()
    ]
    return render(("ours", "over", "images/s", "theirs", "ratio"), rows, numbers=("images/s", "theirs", "ratio"))


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, {"loading": loading()})


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
