"""Change the code in one place, and see whether a test notices: `python -m tests.robustness.mutants [--sample 300]`.

mutmut makes the mutants and runs, for each, the tests that reach its function, in a copy of this tree. A sample is
drawn from all mutants with a seed; what was tried stays, so that a larger sample or a stopped run goes on. `--fresh`
begins again, and has to be given when the code has changed; `--again` tries those that survived on the tests as they
are now. Exit status 1 if an unexplained mutant survives.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import random
import shutil
import subprocess
import sys
from typing import Any

from tests.robustness import record
from tests.support import ROOT

MUTATED = ("surgery/*.py", "sharing.py", "planning.py", "values/prox.py", "values/pairwise.py")
TESTS = (
    *("tests/unit/surgery", "tests/unit/sharing", "tests/unit/verbs"),
    *(f"tests/unit/test_{name}.py" for name in ("bad_input", "generating", "wrapped_and_awkward")),
    *(f"tests/unit/depth/test_{name}.py" for name in ("cka", "quantised", "tie_spec")),
    *("tests/unit/optimizer/test_param_groups.py", "tests/unit/optimizer/test_scales.py"),
    *(f"tests/unit/space/test_{name}.py" for name in ("macs", "space_sharing")),
    *(
        f"tests/unit/values/test_{name}.py"
        for name in ("bad_input", "codebook", "collisions", "pairwise", "prox", "proximal")
    ),
)
"""Tests of these modules, and of what is built on them: those that reach a mutant's function are run for it, the
fastest first."""
OUTCOMES = {0: "survived", 1: "killed", 3: "killed", 33: "no tests", 24: "timeout", 36: "timeout", -24: "timeout"}
"""What mutmut's exit status of a mutant says; others are that a process died, which a test run would show too."""
SURVIVORS = Path(__file__).with_name("survivors.json")
# What mutmut puts into a mutated function is no code that torch compiles whole: hence no test of that.
SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = {mutated}
also_copy = ["conftest.py"]
pytest_add_cli_args = [
    "-o", "addopts=--strict-markers", "-m", "not slow", "-k", "not a_compiled_pass", "-p", "no:cacheprovider"
]
pytest_add_cli_args_test_selection = {tests}
use_setproctitle = false
use_git_change_detection = false
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args(arguments)
    copy = record.PROGRESS / "mutants"
    if asked.fresh or not copy.exists():
        copied(copy, ("src", "tests"))
    elif asked.again:
        copied(copy, ("tests",))
    if not held(copy):
        mutmut(copy, "no mutant has this name")  # which makes them, and then finds none to run
    names = sampled(held(copy), asked.sample, asked.seed)
    survived = [name for name in names if outcome(copy, name) in ("survived", "no tests")]
    if asked.again and survived:  # with no name it would try all
        mutmut(copy, "--max-children", str(asked.processes), *survived)
    while not asked.report and (left := [name for name in names if outcome(copy, name) is None]):
        if mutmut(copy, "--max-children", str(asked.processes), *left[:100]) or outcome(copy, left[0]) is None:
            print("mutmut stopped. What was tried is kept; go on with the same command.", file=sys.stderr)
            break
    found = told(copy, names)
    tried = sum(map(len, found["tried"].values()))
    result = {**found, "sample": tried, "seed": asked.seed, "tests": TESTS}
    record.write("mutants", f"make mutants MUTANTS={asked.sample}", result)
    explained = json.loads(SURVIVORS.read_text(encoding="utf-8"))
    ends = {name: one["outcome"] for module in found["tried"].values() for name, one in module.items()}
    open_ = [name for name, end in ends.items() if end not in ("killed", "timeout") and name not in explained]
    print(f"{tried} tried, {len(open_)} neither noticed nor explained: {open_}")
    return int(bool(open_))


def copied(copy: Path, folders: Sequence[str]) -> None:
    """A tree of its own, so that mutants never lie among the sources."""
    if "src" in folders:
        shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True, exist_ok=True)
    for name in folders:
        shutil.rmtree(copy / name, ignore_errors=True)
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    mutated = json.dumps([f"src/weightshare/{glob}" for glob in MUTATED])
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = SETTINGS.format(mutated=mutated, tests=json.dumps(TESTS))
    (copy / "pyproject.toml").write_text(text + settings, encoding="utf-8")


def mutmut(copy: Path, *words: str) -> int:
    """Run `mutmut run` in the copy; its exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
    return subprocess.run([sys.executable, "-m", "mutmut", "run", *words], cwd=copy, env=environment).returncode


def held(copy: Path) -> dict[str, tuple[str, int | None]]:
    """Every mutant with its module and the exit status of its tests, if they were run."""
    found = {}
    root = copy / "mutants" / "src" / "weightshare"
    for path in sorted(root.rglob("*.meta")):
        module = str(path.relative_to(root)).removesuffix(".meta")
        found |= {name: (module, code) for name, code in json.loads(path.read_text())["exit_code_by_key"].items()}
    return found


def sampled(names: Mapping[str, Any], size: int, seed: int) -> list[str]:
    """The first so many of all names in an order that follows from the seed: a larger sample holds a smaller one."""
    order = sorted(names)
    random.Random(seed).shuffle(order)
    return order[:size]


def outcome(copy: Path, name: str) -> str | None:
    """What came of a mutant, or nothing if it was not tried."""
    code = held(copy)[name][1]
    return None if code is None else OUTCOMES.get(code, f"died ({code})")


def told(copy: Path, names: Sequence[str]) -> dict[str, Any]:
    """How many mutants each module has, and for those that were tried what came of them and what they change."""
    every = held(copy)
    modules = [module for module, _ in every.values()]
    tried: dict[str, dict[str, Any]] = {module: {} for module in sorted({*modules})}
    for name in names:
        end = outcome(copy, name)
        if end is not None:
            shown = {} if end == "killed" else {"change": _change(copy, name)}
            tried[every[name][0]][name] = {"outcome": end, **shown}
    return {"all": {module: modules.count(module) for module in tried}, "tried": tried}


def _change(copy: Path, name: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name], cwd=copy, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


if __name__ == "__main__":
    raise SystemExit(main())
