"""Write a notebook of each tutorial: its text, its blocks of code as cells, and what they print as outputs.

python docs/make_notebooks.py
"""

from pathlib import Path, PurePosixPath
import posixpath
import re

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output

ROOT = Path(__file__).resolve().parents[1]
PAGES, NOTEBOOKS = ROOT / "docs" / "tutorials", ROOT / "examples" / "notebooks"
PRINTED = re.compile(r"\A```text\n(.*?)^```\n?\s*", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:|#)([^)]+)\)")


def notebook(page: str) -> NotebookNode:
    """The notebook of a page."""
    made = jupytext.reads(page, fmt="md")
    cells: list[NotebookNode] = []
    for cell in made.cells:
        if cell.cell_type == "markdown":
            printed = PRINTED.match(cell.source)
            if printed and cells and cells[-1].cell_type == "code":
                cells[-1].outputs = [new_output("stream", name="stdout", text=printed[1])]
                cell.source = cell.source[printed.end() :]
            cell.source = LINK.sub(lambda link: f"]({_from_here(link[1])})", cell.source)
        if cell.source.strip():
            cell.metadata = {}
            cells.append(cell)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same whenever it is made
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def written(page: str) -> str:
    """The text of its file."""
    made = notebook(page)
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def _from_here(link: str) -> str:
    here = PurePosixPath(posixpath.relpath(PAGES.as_posix(), NOTEBOOKS.as_posix()))
    return posixpath.normpath((here / link).as_posix())


if __name__ == "__main__":
    NOTEBOOKS.mkdir(parents=True, exist_ok=True)
    for path in sorted(PAGES.glob("*.md")):
        text = written(path.read_text(encoding="utf-8"))
        (NOTEBOOKS / f"{path.stem}.ipynb").write_text(text, encoding="utf-8")
