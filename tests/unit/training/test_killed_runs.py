"""Runs that are killed at any moment and started again end with the weights that they would have had."""

import json
import os
from pathlib import Path
import subprocess
import sys

from tests.support import ROOT

HARNESS = Path(__file__).with_name("killing.py")


def started(folder: Path, kills: int, seed: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, str(HARNESS), str(folder), str(kills), str(seed)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_thirty_runs_killed_at_random_moments_end_with_equal_weights(tmp_path: Path) -> None:
    """Two processes with fifteen runs each; state is kept after every step in half of them, else after every epoch."""
    harnesses = [started(tmp_path / str(seed), kills=15, seed=seed) for seed in (0, 1)]
    told = [(*harness.communicate(timeout=600), harness.returncode) for harness in harnesses]
    assert [code for _, _, code in told] == [0, 0], told
    runs = [run for out, _, _ in told for run in json.loads(out)["runs"].items()]
    assert len({digest for _, (digest, _) in runs}) == 1, runs
    killed = [times for name, (_, times) in runs if name.startswith("killed")]
    assert len(killed) == 30
    assert min(killed) >= 1
