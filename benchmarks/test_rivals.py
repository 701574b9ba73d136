"""Every fast path against every rival that installs: time, memory, error, and how time grows with size.

One contest a test; `contests/` has them, `contest.py` says how they are measured, and docs/benchmarks.md is made of
what they write. What a way claims (`goal`) is the ratio of times at the last size of the table, at most.
"""

import pytest

from benchmarks.contest import CONTESTS, TINY, compare, contest

RESULTS = "rivals"


@pytest.mark.parametrize("name", CONTESTS)
def test_contest(name, measured):
    held = contest(name)
    found = compare(name)
    measured(**found)
    if TINY:
        return
    last = str(held.shown[-1])
    ratios = {way: found["ways"][way][last]["ratio"] for way in held.goals if last in found["ways"].get(way, {})}
    assert {way: ratio for way, ratio in ratios.items() if ratio > held.goals[way]} == {}
