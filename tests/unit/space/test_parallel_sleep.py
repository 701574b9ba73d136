"""Sleep on two gloo processes: data-parallel training."""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT

SECONDS = 150


@pytest.mark.slow
def test_two_processes(tmp_path):
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    pair = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.unit.space.parallel", str(tmp_path), str(rank)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=SECONDS) for process in pair]
    finally:
        for process in pair:
            process.kill()
    for process, (out, error) in zip(pair, said, strict=True):
        assert process.returncode == 0, error
        assert out.split() == ["ddp"]
