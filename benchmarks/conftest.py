"""Two callables measured in turn, so that whatever else the machine does slows both.

`--results PATH` writes the ratios and the machine as JSON; what is in a file already and was not measured stays. A path
that ends in `.json` is one file; any other is a folder with a file for each `RESULTS` that the benchmarks name.

With `WEIGHTSHARE_BENCHMARKS=tiny` everything runs once on sizes that say nothing about time, and no ratio is expected.
"""

import json
from pathlib import Path
import statistics
import time

import pytest

from benchmarks.contest import TINY, versions

MEASURED = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--results", type=Path, help="write ratios and the machine to this JSON file, or to this folder")


def pytest_configure(config):
    config.stash[MEASURED] = {}


def pytest_sessionfinish(session):
    path, measured = session.config.getoption("--results"), session.config.stash[MEASURED]
    if path is None or not measured:
        return
    from weightshare.training.environment import environment

    for name, found in measured.items():
        file = path if path.suffix == ".json" else path / f"{name}.json"
        before = json.loads(file.read_text())["ratios"] if file.is_file() else {}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            json.dumps({"environment": environment() | {"rivals": versions()}, "ratios": before | found}, indent=1)
            + "\n"
        )


def paired(ours, rival, rounds):
    """Median over rounds of ours / rival, the two in turn, after one round that is not counted."""
    ratios, seconds = [], []
    for _ in range(rounds + 1):
        taken = []
        for run in (ours, rival):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        ratios.append(taken[0] / taken[1])
        seconds.append(taken)
    return statistics.median(ratios[1:]), [statistics.median(column) for column in zip(*seconds[1:], strict=True)]


@pytest.fixture
def keep(benchmark, request):
    """Put numbers under the name of the benchmark into the JSON of the run."""

    def put(numbers):
        benchmark.extra_info.update(numbers)
        file = getattr(request.module, "RESULTS", request.module.__name__)
        request.config.stash[MEASURED].setdefault(file, {})[benchmark.name] = numbers

    return put


@pytest.fixture
def against(benchmark, keep):
    """Measure two callables in turn, keep the ratio, and expect it within limits where there are any."""

    def measure(ours, rival, rounds, at_most=float("inf")):
        ratio, (ours_s, rival_s) = benchmark.pedantic(paired, (ours, rival, 1 if TINY else rounds), rounds=1)
        keep({"ratio": round(ratio, 4), "ours_seconds": round(ours_s, 6), "rival_seconds": round(rival_s, 6)})
        print(f"\n{benchmark.name}: ours {ours_s:.4f} s, rival {rival_s:.4f} s, ratio {ratio:.3f}")
        assert TINY or 0 < ratio <= at_most
        return ratio

    return measure


@pytest.fixture
def measured(benchmark, keep):
    """Keep numbers that are no times."""

    def put(**numbers):
        benchmark.pedantic(lambda: None, rounds=1)
        keep(numbers)
        print(f"\n{benchmark.name}: {numbers}")

    return put
