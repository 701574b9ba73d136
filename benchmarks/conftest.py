"""Two callables measured in turn, so that whatever else the machine does slows both.

`--results FILE` writes the ratios and the machine as JSON; what is in the file already and was not measured stays.
"""

import json
from pathlib import Path
import statistics
import time

import pytest

MEASURED = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--results", type=Path, help="write ratios and the machine to this JSON file")


def pytest_configure(config):
    config.stash[MEASURED] = {}


def pytest_sessionfinish(session):
    path, measured = session.config.getoption("--results"), session.config.stash[MEASURED]
    if path is None or not measured:
        return
    from weightshare.training.environment import environment

    before = json.loads(path.read_text())["ratios"] if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": environment(), "ratios": before | measured}, indent=1) + "\n")


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
def against(benchmark, request):
    """Measure two callables in turn, and put the ratio into the table and the JSON of the run."""

    def measure(ours, rival, rounds):
        ratio, (ours_s, rival_s) = benchmark.pedantic(paired, (ours, rival, rounds), rounds=1)
        benchmark.extra_info.update(ratio=ratio, ours_seconds=ours_s, rival_seconds=rival_s)
        found = {"ratio": round(ratio, 4), "ours_seconds": round(ours_s, 6), "rival_seconds": round(rival_s, 6)}
        request.config.stash[MEASURED][benchmark.name] = found
        print(f"\n{benchmark.name}: ours {ours_s:.4f} s, rival {rival_s:.4f} s, ratio {ratio:.3f}")
        return ratio

    return measure


@pytest.fixture
def measured(benchmark, request):
    """Put numbers that are no times into the JSON of the run, under the name of the benchmark."""

    def keep(**numbers):
        benchmark.pedantic(lambda: None, rounds=1)
        benchmark.extra_info.update(numbers)
        request.config.stash[MEASURED][benchmark.name] = numbers
        print(f"\n{benchmark.name}: {numbers}")

    return keep
