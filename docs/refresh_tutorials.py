"""Run the code of the tutorials, put what it prints below it, and keep the pictures that it saves.

python docs/refresh_tutorials.py [NAME ...]
"""

from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stdout
import io
from pathlib import Path
import re
import sys
import tempfile

import torch

DOCS = Path(__file__).resolve().parent
PAGES, IMAGES = DOCS / "tutorials", DOCS / "images" / "tutorials"
STEP = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def steps(page: str) -> Iterator[tuple[str, str]]:
    """Each block of code of a page, and what the page says that it prints."""
    for step in STEP.finditer(page):
        yield step["code"], step["printed"] or ""


def run(page: str, folder: Path, name: str = "page") -> list[str]:
    """Run the code of a page in order in one namespace, in a folder; what each block prints."""
    names: dict[str, object] = {}
    printed = []
    with chdir(folder), torch.random.fork_rng(devices=[]):
        for number, (code, _) in enumerate(steps(page)):
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(code, f"{name}.md, block {number}", "exec"), names)
            printed.append("".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines()))
    return printed


def filled(page: str, printed: Sequence[str]) -> str:
    """The page with what its blocks print below them."""
    rest = iter(printed)

    def step(found: re.Match[str]) -> str:
        text = next(rest)
        return f"```python\n{found['code']}```\n" + (f"\n```text\n{text}```\n" if text else "")

    return STEP.sub(step, page)


def main(chosen: Sequence[str]) -> None:
    """Refresh pages and pictures."""
    torch.set_num_threads(1)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for path in sorted(PAGES.glob("*.md")):
        if chosen and path.stem not in chosen:
            continue
        page = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            path.write_text(filled(page, run(page, Path(folder), path.stem)), encoding="utf-8")
            for picture in Path(folder).glob("*.png"):
                (IMAGES / picture.name).write_bytes(picture.read_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
