"""Training on several processes is training on one, with the same batches: every method, with DDP and with FSDP2."""

import functools
import json
import math
import os
from pathlib import Path
import socket
import subprocess
import sys
import tempfile

from lightning_fabric import Fabric
import pytest
import torch
from torch import Tensor

from tests.support import ROOT
from tests.unit.training.methods import METHODS, network, trained
from tests.unit.training.several import STRATEGIES
from weightshare.training.loop import History
from weightshare.values import proximal

RANKS, SECONDS = 2, 400
TOLERANCE = 3e-6
"""Absolute, on weights of about 1: what summing a batch in two parts does to float32 over 8 steps."""
QUICK = ("templates, similarity", "sleep, hebbian", "proximal, l1 and rewind")
REST = tuple(name for name in METHODS if name not in QUICK)
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)]

Found = dict[tuple[str, str], list[dict]]
"""What each process found, by method and strategy."""


@functools.cache
def together(names: tuple[str, ...]) -> Found:
    """Let two processes go through methods."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "WORLD_SIZE": str(RANKS), "NODE_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "said"), "w+") as said:
        command = [sys.executable, "-m", "tests.unit.training.several", folder, *names]
        pair = [
            subprocess.Popen(command, env=environment | {"LOCAL_RANK": str(rank)}, stdout=said, stderr=said)
            for rank in range(RANKS)
        ]
        try:
            codes = [process.wait(SECONDS) for process in pair]
        finally:
            for process in pair:
                process.kill()
        said.seek(0)
        assert codes == [0] * RANKS, said.read()
        return {
            (name, strategy): [
                json.loads(Path(folder, f"{name}.{strategy}.{rank}.json").read_text()) for rank in range(RANKS)
            ]
            for name in names
            for strategy in STRATEGIES
        }


@functools.cache
def alone(name: str) -> tuple[dict[str, Tensor], History]:
    """What one process ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proximal, "SORT_FREE_FROM", 1)
        model, history = trained(name, Fabric(accelerator="cpu", devices=1))
    return dict(model.state_dict()), history


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_end_with_the_weights_of_one(name, strategy):
    found = together(QUICK if name in QUICK else REST)[name, strategy]
    weights, history = alone(name)
    for of_rank in found:
        assert set(of_rank["weights"]) == set(weights)
        for key, wanted in weights.items():
            got = torch.tensor(of_rank["weights"][key]).to(wanted)
            torch.testing.assert_close(got, wanted, rtol=0, atol=TOLERANCE)
        for row, wanted in zip(of_rank["history"], history, strict=True):
            measured = {key: value for key, value in wanted.items() if "second" not in key}
            assert {key: row[key] for key in measured} == pytest.approx(measured, rel=1e-3, abs=1e-6)
            assert all(math.isfinite(value) for value in row.values())
    assert found[0]["weights"] == found[1]["weights"]


def test_training_moves_the_weights_that_are_compared():
    start = network().head.weight
    assert min((alone(name)[0]["head.weight"] - start).abs().max() for name in QUICK) > 1e3 * TOLERANCE
