"""`Proximal` on parameters that are spread over two gloo processes: DTensor by hand, and FSDP2."""

import os
import subprocess
import sys

from tests.support import ROOT

SECONDS = 150


def test_two_processes_with_sharded_parameters(tmp_path):
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    pair = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.unit.values.sharded", str(tmp_path), str(rank)],
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
        assert out.split() == ["sort_free_on_shards", "exact_on_shards", "fsdp", "empty_part", "refused"]
