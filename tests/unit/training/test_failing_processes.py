"""One of several processes fails: the others say so and end, what was kept is whole, and any number of them goes on."""

from dataclasses import replace
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest
import torch

from tests.support import ROOT
from tests.unit.training.failing import CONFIG, PATIENCE
from weightshare.files.archive import read
from weightshare.training.keeper import CHECKPOINT
from weightshare.training.run import MODEL, run

TOLERANCE = 3e-6
LOST = "Process 0 of 2 has lost another one, which was killed, raised an error of its own or was silent for longer"
DIVERGED = "it diverged. The last good state is in"
WORKER = """
import os, sys
from tests.unit.training.failing import fail
from weightshare.cli import main

if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    fail(sys.argv[1])
main(["train", "--config", sys.argv[2]])
"""

pytestmark = pytest.mark.slow


def called(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = (sys.executable, "-m", *command)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run of one process that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(replace(CONFIG, out=str(out)))
    return read(out / MODEL, "model").tensors


def check_equal(found, whole):
    assert set(found) == set(whole)
    for name, wanted in whole.items():
        torch.testing.assert_close(torch.as_tensor(found[name]).to(wanted), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("strategy", "scenario", "codes", "said"),
    [
        ("ddp", "killed", [1, -9], [LOST, ""]),
        ("fsdp2", "killed", [1, -9], [LOST, ""]),
        ("ddp", "nan", [1, 1], [DIVERGED, DIVERGED]),
        ("ddp", "data", [1, 1], [LOST, "the disk with the images is gone"]),
        ("ddp", "silent", [1, -9], [LOST, ""]),
    ],
)
def test_what_is_kept_when_one_of_two_fails_loads_in_one_and_in_three(strategy, scenario, codes, said, whole, tmp_path):
    done = called("tests.unit.training.failing", str(tmp_path), strategy, scenario)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    first = told["first"]
    assert first["codes"] == codes, first["said"]
    assert all(wanted in words for wanted, words in zip(said, first["said"], strict=True)), first["said"]
    assert first["seconds"] < PATIENCE + 30
    assert told["at"] == [1, 10]
    for world in (1, 3):
        again = told[str(world)]
        assert again["codes"] == [0] * world, again["said"]
        assert f"was on 2 processes and goes on on {world}" in again["said"][0]
        check_equal(told[f"weights of {world}"], whole)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_starts_a_killed_worker_again(strategy, whole, tmp_path):
    done = elastic("killed", strategy, tmp_path, "--max-restarts", "1")
    assert done.returncode == 0, done.stderr
    assert LOST in done.stderr  # and so the run was cut
    check_equal(read(tmp_path / "run" / MODEL, "model").tensors, whole)


def test_a_terminated_torchrun_keeps_the_state(whole, tmp_path):
    done = elastic("terminated", "ddp", tmp_path)
    assert done.returncode != 0
    assert "Stopped in epoch 2, after step 10 of 14" in done.stderr
    progress = read(tmp_path / "run" / CHECKPOINT, "training").content["progress"]
    assert [len(progress["history"]), progress["step"]] == [1, 10]
    with pytest.warns(UserWarning, match="was on 2 processes and goes on on 1"):
        run(replace(CONFIG, out=str(tmp_path / "run")))
    check_equal(read(tmp_path / "run" / MODEL, "model").tensors, whole)


def elastic(scenario: str, strategy: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run under torchrun, where the second worker of the first life fails."""
    script, config = folder / "worker.py", folder / "run.yaml"
    script.write_text(WORKER)
    config.write_text(replace(CONFIG, out=str(folder / "run"), strategy=strategy, timeout_minutes=2.0).to_yaml())
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options)
    return called(*torchrun, str(script), scenario, str(config))
