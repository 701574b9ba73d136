"""Runs that are ended at any moment and started again end with the weights that they would have had."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.unit.training.killing import CONFIGS


def started(folder: Path, seed: int, killed: int, terminated: int, *methods: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    options = [str(folder), str(seed), str(killed), str(terminated), *methods]
    command = [sys.executable, "-m", "tests.unit.training.killing", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check(harness: subprocess.Popen[str], seconds: float) -> list[str]:
    """The signals that ended runs, one for each; every run of a method ends with the same weights and rows."""
    out, said = harness.communicate(timeout=seconds)
    assert harness.returncode == 0, said
    signals = []
    for line in out.splitlines():
        told = json.loads(line)
        _, *ended = told["runs"]
        assert len({digest for digest, _ in told["runs"]}) == 1, told
        assert len(ended) == len(told["signals"])
        assert all(times >= 1 for _, times in ended)
        signals += told["signals"]
    return signals


def test_killed_runs_end_with_equal_weights(tmp_path: Path) -> None:
    harness = started(tmp_path, 0, 3, 1, "similarity")
    assert sorted(check(harness, 300)) == ["SIGKILL"] * 3 + ["SIGTERM"]


@pytest.mark.slow
def test_fifty_killed_runs_of_every_method_end_with_equal_weights(tmp_path: Path) -> None:
    """And ten that are terminated; two processes that share the methods."""
    methods = [*CONFIGS]
    halves = [started(tmp_path / str(seed), seed, 25, 5, *methods[seed::2]) for seed in (0, 1)]
    try:
        signals = [one for harness in halves for one in check(harness, 3600)]
    finally:
        for harness in halves:
            harness.kill()
    assert sorted(signals) == ["SIGKILL"] * 50 + ["SIGTERM"] * 10
