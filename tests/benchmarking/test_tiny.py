"""Benchmarks run: each file as a whole on tiny sizes, and each way of each contest, with the error that it may have."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.contest import CONTESTS, Running, Worker, contest, exponent
from tests.support import ROOT

FILES = ("core", "depth", "local", "prox", "proximal", "templates")
TRAININGS = ("loading", "resnet20", "training")
WAYS = [(name, way) for name in CONTESTS for way in contest(name).ways]
EXTRA = {"coremltools", "cvxpy", "flax", "tf_keras", "torchao", "torchinfo", "torchisotonic", "x_transformers"}
"""Packages that bring others along, and warn: each in a process of its own."""
WRONG = {
    ("counting", "sum over state_dict()"): 1e6,
    ("counting", "torchinfo"): 1e6,
    ("proximal", "ws.prox_pairwise_binned"): 1e-5,
    ("filters", "cvxpy, SCS"): 1e-3,
    **{("codebook", way): 0.3 for way in contest("codebook").ways},
}
"""Errors that are more than rounding."""
OTHER = {
    ("local", "nn.Conv2d"),
    ("lookup", "nn.Linear"),
    ("ties", "untied"),
    ("ties", "x-transformers, weight_tie_layers"),
    ("ties", "ws.Tie on x-transformers"),
}
"""Ways that find another thing, which nothing is compared with."""


def run_file(name, *options):
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}  # nor that of workers
    env |= {"WEIGHTSHARE_BENCHMARKS": "tiny", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, f"benchmarks/test_{name}.py"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


QUICK = ("depth", "prox")


@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in FILES])
def test_a_file_runs(name):
    run_file(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_file_of_trainings_runs(name):
    run_file(name)


@pytest.mark.parametrize(("name", "key"), WAYS, ids=[f"{name}: {way}" for name, way in WAYS])
def test_a_way_finds_what_is_right(name, key):
    held = contest(name)
    way = held.ways[key]
    if not way.installed:
        pytest.skip(f"{way.needs} is not installed: pip install 'weightshare[bench]'")
    if way.needs in EXTRA:
        with Running(name, key) as process:
            process.answer()
            found = process.ask("prepare", held.tiny)
    else:
        found = Worker(held, way).prepare(held.tiny)
    assert found["once"] > 0
    assert ("error" in found) == ((name, key) not in OTHER)
    assert abs(found.get("error", 0.0)) <= WRONG.get((name, key), 1e-5)
    assert ("stored" in found) == bool(held.stored)


def test_a_contest_is_written_with_its_machine(tmp_path):
    run_file("rivals", "-k", "sleep", "--results", str(tmp_path))
    written = json.loads((tmp_path / "rivals.json").read_text())
    found = written["ratios"]["test_contest[sleep]"]
    held = contest("sleep")
    assert written["environment"]["cores"] == os.cpu_count()
    assert list(found["ways"]) == list(held.ways)
    first, *others = found["ways"].values()
    assert first[str(held.tiny)]["ratio"] == 1.0
    assert all(one[str(held.tiny)]["ratio"] > 0 for one in others)


@pytest.mark.parametrize("name", CONTESTS)
def test_a_contest_is_what_its_page_needs(name):
    held = contest(name)
    first, *_ = held.ways.values()
    assert first.ours
    assert set(held.shown) <= set(held.sizes)
    assert sorted(held.sizes) == list(held.sizes)
    assert held.tiny <= held.sizes[0]
    assert all(way.ours or way.why for way in held.ways.values())
    assert all(way.goal is None or way.goal > 0 for way in held.ways.values())
    assert (ROOT / "benchmarks" / "contests" / f"{name}.py").is_file()


def test_every_contest_is_listed():
    files = {path.stem for path in (ROOT / "benchmarks" / "contests").glob("*.py")}
    assert files == set(CONTESTS)


def test_the_exponent_is_that_of_a_power():
    assert exponent({10: 3.0, 100: 300.0, 1000: 30_000.0}) == 2.0
    assert exponent({10: 3.0}) is None
