"""Put each example and what it prints into its recipe: the block of code, and the block of text below it.

python docs/refresh_recipes.py [NAME ...]
"""

from collections.abc import Sequence
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile

ROOT = Path(__file__).resolve().parents[1]
PAGES, EXAMPLES = ROOT / "docs" / "recipes", ROOT / "examples"
SHOWN = re.compile(r"^```py\n(?P<code>.*?)^```\n\n```text\n(?P<printed>.*?)^```\n", re.DOTALL | re.MULTILINE)
"""`py` and not `python`: the blocks of tutorials are run where they stand, an example as a script of its own."""
PROCESSES = {"eight_gpus": 2}
"""Of the examples that torchrun starts, how many run here."""
SECONDS = 1200  # seconds on an idle core, minutes on a busy one


def shown(page: str) -> tuple[str, str]:
    """The code of a recipe, and what it says that it prints."""
    (found,) = SHOWN.finditer(page)
    return found["code"], found["printed"]


def filled(page: str, code: str, printed: str) -> str:
    """The page with an example and its output."""
    return SHOWN.sub(lambda _: f"```py\n{code}```\n\n```text\n{printed}```\n", page)


def run(example: Path, folder: Path) -> str:
    """Run an example in a fresh process and an empty folder, a warning being an error; what it printed.

    Raises:
        AssertionError: If it fails, with what it said.
    """
    several = PROCESSES.get(example.stem)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(several)] if several else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", *launcher, str(example)],
        cwd=folder,
        env=environment | ({"PYTHONWARNINGS": "error"} if several else {}),  # for those that torchrun starts, too
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def main(chosen: Sequence[str]) -> None:
    """Refresh the recipes."""
    for path in sorted(PAGES.glob("*.md")):
        example = EXAMPLES / f"{path.stem}.py"
        if not example.is_file() or (chosen and path.stem not in chosen):
            continue
        with tempfile.TemporaryDirectory() as folder:
            printed = run(example, Path(folder))
        page = path.read_text(encoding="utf-8")
        path.write_text(filled(page, example.read_text(encoding="utf-8"), printed), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
