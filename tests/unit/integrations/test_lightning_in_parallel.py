"""Lightning on two processes: the weights of one process on the joined batches, equal on both."""

import os
from pathlib import Path
import subprocess
import sys

import pytest
import torch

from tests.support import ROOT
from tests.unit.integrations.lightning_digits import QUIET
from tests.unit.integrations.test_lightning import by_hand

pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(warning) for warning in QUIET)]

SCRIPT = """
import os
import torch
from weightshare.models.by_name import mend_torchvision
mend_torchvision()
torch.set_num_threads(1)
from tests.unit.integrations.test_lightning import BATCH, Classifier, callback, trainer
from tests.unit.integrations.lightning_digits import loader

def halved():
    # Lightning's own sampler would shuffle.
    rank = int(os.environ.get("LOCAL_RANK", 0))
    sampler = torch.utils.data.DistributedSampler(loader().dataset, num_replicas=2, rank=rank, shuffle=False)
    return torch.utils.data.DataLoader(loader().dataset, BATCH // 2, sampler=sampler)

whole, sharing = Classifier(), callback()
run = trainer(".", sharing, devices=2, strategy="ddp", max_epochs=2, precision="64-true", use_distributed_sampler=False)
run.fit(whole, halved())
torch.save(whole.state_dict(), f"rank{run.global_rank}.pt")
torch.save(sharing.state_dict(), f"state{run.global_rank}.pt")
"""


def test_two_processes_equal_one_on_the_joined_batches(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    states = [torch.load(tmp_path / f"state{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert states[0] == states[1]
    assert [state["steps"] for state in states[0]["handles"]] == [12, 12]
    # In float64, since Adam makes whole steps of the rounding errors in gradients that are all but 0.
    for name, tensor in by_hand(2, dtype=torch.float64).state_dict().items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-6, atol=1e-8, msg=name)
