"""Put what `weightshare inspect` prints into docs/inspect.md, and make its picture anew, for which it needs Chromium.

python docs/refresh_inspect.py
"""

from pathlib import Path
import sys
import tempfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the browser lies among the tests

from tests.browsing import browser  # noqa: E402
from weightshare.analysis.inspecting import inspect  # noqa: E402
from weightshare.experiments.studies.results import filled as with_blocks  # noqa: E402
from weightshare.training.opened import opened  # noqa: E402
from weightshare.training.recipe import RunConfig, strict  # noqa: E402
from weightshare.training.run import run  # noqa: E402

PAGE = ROOT / "docs" / "inspect.md"
PICTURE = ROOT / "docs" / "images" / "inspect.png"
NAME = "timm:vit_tiny_patch16_224"
TABLES = 4
"""Of what is printed, those before what depends on random weights."""
HEIGHT = 1520
"""Of the picture; the page goes on below."""


def blocks() -> dict[str, str]:
    """What belongs between the markers, by name."""
    model, _ = opened(NAME, {})
    printed = str(inspect(model, name=NAME))
    return {"vit": "\n\n".join(printed.split("\n\n")[:TABLES])}


def filled(page: str) -> str:
    """The page with every block as it should be."""
    return with_blocks(page, blocks())


def picture() -> None:
    """The page of a ConvMixer that learned handwritten digits."""
    with tempfile.TemporaryDirectory() as folder:
        config = {"model": "convmixer:64/8/2/3", "data": "digits", "train": {"epochs": 12}, "out": f"{folder}/digits"}
        run(strict(RunConfig, config))
        model, batches = opened(f"{folder}/digits", {})
        shown = Path(folder) / "page.html"
        shown.write_text(inspect(model, batches=batches, name="a ConvMixer that reads digits").page(), encoding="utf-8")
        with browser() as tab:
            tab.open(shown.as_uri(), width=1000)
            tab.photograph(PICTURE, most=HEIGHT)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    picture()
