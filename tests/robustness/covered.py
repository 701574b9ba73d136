"""Which lines of the core its tests run: `python -m tests.robustness.covered [--report]`.

The core is all that lies below `analysis` in the import contract. It is measured with its own tests (`FOLDERS`), so a
line that only a training or a command of the command line happens to run does not count. `--report` reads the
measurement that is there again.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import subprocess
import sys
import time
import tomllib
from typing import Any

from tests.robustness import record
from tests.support import ROOT

FOLDERS = (
    *(
        f"tests/unit/{name}"
        for name in ("surgery", "sharing", "verbs", "depth", "space", "values", "kernels", "optimizer")
    ),
    *("tests/unit/files", "tests/equations", "tests/properties", "tests/contract", "tests/robustness"),
)
"""Tests of the core; with them the files that lie in tests/unit itself."""
NEEDED = 95.0
"""Percent of the core's lines."""


def core() -> list[str]:
    """The modules of the core, from the import contract: those below `analysis`, and `files`, which only reads them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = settings["contracts"][0]["layers"]
    below = layers[layers.index("weightshare.analysis") + 1 :]
    return ["weightshare.files", *(name.strip() for layer in below for name in layer.split("|"))]


def measure(data: Path) -> int:
    """Run the tests of the core under coverage; the exit status of pytest."""
    single = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "unit").glob("test_*.py"))]
    words = [sys.executable, "-m", "coverage", "run", f"--data-file={data}", "-m", "pytest", "-q", "-p", "no:xdist"]
    return subprocess.run([*words, *FOLDERS, *single], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def found(data: Path) -> dict[str, Any]:
    """Of the core, and of each module of it, statements, those that ran, and the lines that did not."""
    told = data.with_suffix(".json")
    words = ["json", f"--data-file={data}", "-q", "-o", str(told), "--ignore-errors"]
    subprocess.run([sys.executable, "-m", "coverage", *words], cwd=ROOT, check=True)
    parts = core()
    files = {
        path: one
        for path, one in json.loads(told.read_text())["files"].items()
        if any(f"{_module(path)}.".startswith(f"{part}.") for part in parts)
    }
    modules = {
        path: [one["summary"]["num_statements"], one["summary"]["covered_lines"], one["missing_lines"]]
        for path, one in sorted(files.items())
    }
    total = sum(row[0] for row in modules.values())
    ran = sum(row[1] for row in modules.values())
    return {"statements": total, "ran": ran, "percent": round(100 * ran / total, 2), "modules": modules}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="covered", description=__doc__)
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args(arguments)
    data = record.PROGRESS / "coverage.data"
    data.parent.mkdir(parents=True, exist_ok=True)
    status, began = 0, time.perf_counter()
    if not asked.report:
        status = measure(data)
    result: Mapping[str, Any] = found(data)
    print(f"{result['ran']:,} of {result['statements']:,} statements of the core ran: {result['percent']} %.")
    for path, (statements, ran, missing) in result["modules"].items():
        if ran < statements:
            print(f"{100 * ran / statements:6.1f} %  {path}: {missing}")
    seconds = {} if asked.report else {"seconds": round(time.perf_counter() - began)}
    record.write("coverage", "make coverage", {**result, **seconds, "tests": [*FOLDERS, "tests/unit/test_*.py"]})
    return status or int(result["percent"] < NEEDED)


def _module(path: str) -> str:
    return path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


if __name__ == "__main__":
    raise SystemExit(main())
