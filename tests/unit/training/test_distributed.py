"""`shard_`, whole copies and sharded checkpoints: on two gloo processes, then loaded in one and in three."""

from collections.abc import Sequence
import os
from pathlib import Path
import subprocess
import sys

import pytest
from torch import nn

from tests.support import ROOT
from tests.unit.training import sharded
from weightshare.errors import FileError, OptimizerMismatch, SpecError
from weightshare.training.distributed import load_sharded, shard_

SECONDS = 240
CHECKS = ("units", "refused", "whole_verbs", "after_evaluation", "loading", "hooks", "optimizers", "saving")


def start(folder: Path, ranks: int, checks: Sequence[str]) -> None:
    """Run checks of `sharded` in so many processes."""
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    command = [sys.executable, "-W", "ignore", "-m", "tests.unit.training.sharded", str(folder)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), *checks],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, error) in zip(processes, said, strict=True):
        assert process.returncode == 0, error
        assert tuple(out.split()) == tuple(checks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes saved, their other checks having passed."""
    made = tmp_path_factory.mktemp("sharded")
    start(made, 2, CHECKS)
    return made


def test_one_process_goes_on(folder: Path) -> None:
    sharded.resuming(folder)


def test_three_processes_go_on(folder: Path) -> None:
    start(folder, 3, ["resuming"])


def test_what_does_not_fit_is_refused_and_changes_nothing(folder: Path) -> None:
    model, _ = sharded.shared("tie")
    before = sharded.numbers(model)
    with pytest.raises(FileError, match=r"'.*thin' holds no optimizer"):
        load_sharded(folder / "thin", sharded.thin(), sharded.optimizer_of(sharded.thin()))
    with pytest.raises(FileError, match=r"'stem.weight' in '.*thin' is missing, in the model \(5, 3\) float32"):
        load_sharded(folder / "thin", model)
    with pytest.raises(FileError, match=r"'blocks\.3\.norm\.weight' .*Build and share the model"):
        load_sharded(folder / "tie", sharded.zoo.chain().model)
    other = sharded.optimizer_of(model)
    del other.param_groups[1]
    with pytest.raises(OptimizerMismatch, match="groups hold other parameters"):
        load_sharded(folder / "tie", model, other)
    with pytest.raises(FileError, match="missing or damaged"):
        load_sharded(folder / "none", model)
    sharded.check_close(model.state_dict(), before)


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    model, _ = sharded.shared("templates")
    before = sharded.numbers(model)
    for name in os.listdir(folder / "templates"):
        content = bytearray((folder / "templates" / name).read_bytes())
        (tmp_path / name).write_bytes(content)
    damaged = sorted(tmp_path.glob("*.safetensors"))[-1]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(FileError, match=f"is damaged: its file '{damaged.name}'"):
        load_sharded(tmp_path, model)
    damaged.unlink()
    with pytest.raises(FileError, match=f"is damaged: its file '{damaged.name}'"):
        load_sharded(tmp_path, model)
    sharded.check_close(model.state_dict(), before)


def test_without_processes_there_is_nothing_to_shard_over() -> None:
    with pytest.raises(SpecError, match="there is no process group"):
        shard_(nn.Linear(2, 3))
