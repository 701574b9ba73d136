"""Training on several processes is training on one, with the same batches: every method, with DDP and with FSDP2."""

import json
import math
import os
from pathlib import Path
import socket
import subprocess
import sys

from lightning_fabric import Fabric
import pytest
import torch

from tests.support import ROOT
from tests.unit.training.methods import METHODS, network, trained
from weightshare.values import proximal

RANKS, SECONDS = 2, 240
TOLERANCE = 3e-6
"""Absolute, on weights of about 1: what summing a batch in two parts does to float32 over 8 steps."""


def together(folder: Path, strategy: str, *names: str, ranks: int = RANKS) -> list[dict[str, dict]]:
    """Let some processes go through methods; for each of them what it found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = folder / "said"
    with said.open("w") as log:
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.unit.training.several", str(folder), strategy, *names],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "WORLD_SIZE": str(ranks)}
                | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
                stdout=log,
                stderr=log,
            )
            for rank in range(ranks)
        ]
        try:
            codes = [process.wait(SECONDS) for process in running]
        finally:
            for process in running:
                process.kill()
    assert codes == [0] * ranks, said.read_text()
    return [
        {name: json.loads((folder / f"{name}.{rank}.json").read_text()) for name in names or METHODS}
        for rank in range(ranks)
    ]


@pytest.fixture(scope="module")
def alone():
    """What one process ends with, by method."""
    found = {}

    def of(name):
        if name not in found:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(proximal, "SORT_FREE_FROM", 1)
                model, history = trained(name, Fabric(accelerator="cpu", devices=1))
            found[name] = dict(model.state_dict()), history
        return found[name]

    return of


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    return together(tmp_path_factory.mktemp("ddp"), "ddp")


@pytest.fixture(scope="module")
def fsdp2(tmp_path_factory):
    return together(tmp_path_factory.mktemp("fsdp2"), "fsdp2")


def check(found, alone):
    weights, history = alone
    assert set(found["weights"]) == set(weights)
    for key, wanted in weights.items():
        torch.testing.assert_close(torch.tensor(found["weights"][key]).to(wanted), wanted, rtol=0, atol=TOLERANCE)
    for row, wanted in zip(found["history"], history, strict=True):
        measured = {key: value for key, value in wanted.items() if "second" not in key}
        assert {key: row[key] for key in measured} == pytest.approx(measured, rel=1e-3, abs=1e-6)
        assert all(math.isfinite(value) for value in row.values())


@pytest.mark.parametrize("name", METHODS)
def test_ddp_ends_with_the_weights_of_one_process(name, ddp, alone):
    for found in ddp:
        check(found[name], alone(name))
    assert ddp[0][name]["weights"] == ddp[1][name]["weights"]


@pytest.mark.parametrize("name", METHODS)
def test_fsdp2_ends_with_the_weights_of_one_process(name, fsdp2, alone):
    for found in fsdp2:
        check(found[name], alone(name))
    assert fsdp2[0][name]["weights"] == fsdp2[1][name]["weights"]


def test_methods_differ(alone):
    """Else the tests above would compare what is equal anyway."""
    start = network().head.weight
    seen = [alone(name)[0]["head.weight"] for name in METHODS]
    assert min((weight - start).abs().max() for weight in seen) > 1e3 * TOLERANCE
