"""Corrupted files of every method and kind, read in a process of bounded memory: see `fuzzing`."""

from collections import Counter
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import python

RUN = """
import sys
from pathlib import Path
from tests.unit.files.fuzzing import main
main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
"""


def fuzzed(folder: Path, never: int, signed: int, seed: int) -> dict[str, Any]:
    return json.loads(python(RUN, folder, never, signed, seed))


def check(told: dict[str, Any], never: int, signed: int) -> Counter[str]:
    """All are refused with an error of ours or valid, in little memory; returns how many there were of each kind."""
    kinds = Counter[str]()
    for kind, _, count in told["counts"]:
        kinds[kind] += count
    assert told["wrong"] == []
    assert kinds.total() == never + signed
    assert told["grown"] < 256 * 2**20
    return kinds


def test_corrupted_files_are_refused(tmp_path: Path) -> None:
    kinds = check(fuzzed(tmp_path, 90, 40, seed=7), 90, 40)
    assert len(kinds) >= 12, kinds


@pytest.mark.slow
def test_two_thousand_corrupted_files_are_refused(tmp_path: Path) -> None:
    told = fuzzed(tmp_path, 2000, 800, seed=1)
    kinds = check(told, 2000, 800)
    print(json.dumps(told["counts"]), told["grown"], told["slowest"])
    assert len(kinds) >= 15, kinds
