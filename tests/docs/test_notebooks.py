"""The notebooks are those that are made from the tutorials, and they run."""

import runpy

import pytest

from tests.printed import differences
from tests.support import ROOT

FOLDER = ROOT / "examples" / "notebooks"
NAMES = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.stem != "index")
every_notebook = pytest.mark.parametrize("name", NAMES)


def page(name):
    return (ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(ROOT / "docs" / "make_notebooks.py"))


def test_there_is_one_for_each_tutorial():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@every_notebook
def test_it_is_the_one_that_its_tutorial_makes(name, maker):
    assert (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8") == maker["written"](page(name))


@every_notebook
def test_its_links_lead_to_files(name, maker):
    cells = [cell.source for cell in maker["notebook"](page(name)).cells if cell.cell_type == "markdown"]
    targets = [target.split("#")[0] for text in cells for target in maker["LINK"].findall(text)]
    assert targets
    assert [target for target in targets if not (FOLDER / target).exists()] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Jupyter itself
@every_notebook
def test_it_runs_and_prints_what_it_shows(name, maker, tmp_path):
    import nbclient

    made = maker["notebook"](page(name))
    said = [cell.outputs for cell in made.cells if cell.cell_type == "code"]
    nbclient.NotebookClient(made, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [cell.outputs for cell in made.cells if cell.cell_type == "code"]
    assert len(said) == len(printed) > 5
    for shown, found in zip(said, printed, strict=True):
        texts = ["".join(one.text for one in outputs if one.output_type == "stream") for outputs in (shown, found)]
        assert differences(*texts) == []
    assert list(tmp_path.glob("*.png"))
