"""The tutorials say what is so: their code runs, prints what they show, and saves the pictures that are there."""

from pathlib import Path
import re
import runpy
import struct

import pytest

from tests.printed import differences
from tests.support import ROOT

TUTORIALS = runpy.run_path(str(ROOT / "docs" / "refresh_tutorials.py"))
FOLDER, IMAGES = ROOT / "docs" / "tutorials", ROOT / "docs" / "images" / "tutorials"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
every_page = pytest.mark.parametrize("name", NAMES)


def page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def size(picture: Path) -> tuple[int, int]:
    """Width and height, as the header of a PNG says."""
    return struct.unpack(">II", picture.read_bytes()[16:24])


def test_there_is_one_for_each_method():
    assert NAMES == ["local", "templates", "ties", "values"]


@every_page
def test_the_code_runs_and_prints_what_the_page_shows(name, tmp_path):
    printed = TUTORIALS["run"](page(name), tmp_path, name)
    said = [text for _, text in TUTORIALS["steps"](page(name))]
    assert [differences(one, other) for one, other in zip(said, printed, strict=True)] == [[]] * len(said)
    shown = set(re.findall(r"\]\(\.\./images/tutorials/([\w-]+\.png)\)", page(name)))
    made = {picture.name for picture in tmp_path.glob("*.png")}
    assert shown == made
    assert all(size(tmp_path / one)[1] == pytest.approx(size(IMAGES / one)[1], rel=0.1) for one in made)
    assert list(tmp_path.glob("*.safetensors"))


def test_no_picture_is_left_over():
    shown = [one for name in NAMES for one in re.findall(r"images/tutorials/([\w-]+\.png)", page(name))]
    assert sorted(picture.name for picture in IMAGES.glob("*.png")) == sorted(set(shown))


@every_page
def test_it_goes_all_the_way_and_ends_in_a_picture(name):
    code = "".join(code for code, _ in TUTORIALS["steps"](page(name)))
    for step in ("print(", "ws.report(", "ws.save(", "ws.load(", ".savefig("):
        assert step in code
    assert re.search(r"plan\.apply_\(|ws\.localize_\(", code)
    assert re.search(r"ws\.fold\(|loops\.fold\(", code)
    assert ".savefig(" in page(name)[page(name).rindex("\n## ") :]


@every_page
def test_links_lead_to_files(name):
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page(name)) if "://" not in target]
    assert len(targets) > 2
    assert [target for target in targets if not (FOLDER / target).exists()] == []
