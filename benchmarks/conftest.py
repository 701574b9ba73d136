"""Two callables measured in turn, so that whatever else the machine does slows both."""

import statistics
import time

import pytest


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
def against(benchmark):
    """Measure two callables in turn, and put the ratio into the table and the JSON of the run."""

    def measure(ours, rival, rounds):
        ratio, (ours_s, rival_s) = benchmark.pedantic(paired, (ours, rival, rounds), rounds=1)
        benchmark.extra_info.update(ratio=ratio, ours_seconds=ours_s, rival_seconds=rival_s)
        print(f"\n{benchmark.name}: ours {ours_s:.4f} s, rival {rival_s:.4f} s, ratio {ratio:.3f}")
        return ratio

    return measure
