"""Run directories: one process at a time, a folder or a disk that refuses, and what the command line says of a stop."""

import os
from pathlib import Path
import resource
import subprocess
import sys

from filelock import FileLock
import numpy as np
import pytest
import torch

from tests.support import ROOT
from weightshare.cli import main
from weightshare.errors import FileError, TrainingError
from weightshare.files.checkpoint import tensors
from weightshare.training.keeper import CHECKPOINT
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.run import read_history, run
from weightshare.training.workplace import LOCK, at_work

HOLD = """
import sys, time
from filelock import FileLock

lock = FileLock(sys.argv[1])
lock.acquire()
print("at work", flush=True)
time.sleep(60)
"""
STOPPED = """
import os, signal, sys
from weightshare.cli import main
from weightshare.models.convmixer import ConvMixer

forward, seen = ConvMixer.forward, []

def counted(self, x):
    seen.append(1)
    if len(seen) == int(sys.argv[1]) and os.environ.get("LOCAL_RANK", "0") == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    return forward(self, x)

ConvMixer.forward = counted
main(["train", "convmixer:8/4/2/3", "--rate", "2", "--where", "blocks.*.pointwise", "--device", "cpu", *sys.argv[2:]])
"""


def called(command: list[str], prepare=None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, *command]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, preexec_fn=prepare, timeout=300, check=False
    )


def test_a_folder_is_for_one_process(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "at work\n"
    settings = RunConfig("convmixer:8/4/2/3", train=Recipe(epochs=1), device="cpu", out=str(tmp_path))
    with pytest.raises(TrainingError, match=r"Another process is at work in '.*'\. Wait for it"):
        run(settings)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    other.kill()
    other.wait()
    other.stdout.close()
    assert run(settings)["accuracy"] > 0


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), at_work(tmp_path):
        raise ZeroDivisionError
    with FileLock(tmp_path / LOCK, timeout=0) as lock:
        assert lock.is_locked


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".checkpoint.safetensors.99999.tmp").write_text("half")
    (tmp_path / ".kept").write_text("not ours")
    with at_work(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".kept", LOCK}


@pytest.mark.slow
def test_a_full_disk_is_said_and_nothing_half_written_stays(tmp_path):
    """The system refuses to let any file grow past 150 kB: the configuration fits, a checkpoint does not."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    out = tmp_path / "run"
    command = [
        "-m",
        "weightshare",
        "train",
        "convmixer:64/4/2/3",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    full = called(command, prepare=limit)
    assert full.returncode == 1
    assert "FileError: Cannot" in full.stderr
    assert CHECKPOINT in full.stderr
    assert "Traceback" not in full.stderr
    left = {path.name for path in out.iterdir()}
    assert CHECKPOINT not in left
    assert not [name for name in left if name.endswith(".tmp")]
    again = called(command)
    assert again.returncode == 0, again.stderr


def as_nobody(action) -> str:
    """What an action says when it is refused, in a fork that is not root, to whom nothing is closed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
        except PermissionError:
            pass  # it is not root anyway
        try:
            action()
            said = "nothing"
        except FileError as error:
            said = str(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as told:
        return told.read()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    for above in [tmp_path, *list(tmp_path.parents)[:2]]:
        above.chmod(above.stat().st_mode | 0o055)
    closed, inside = tmp_path / "closed", tmp_path / "inside"
    for folder in (closed, inside / "run"):
        folder.mkdir(parents=True)
    for folder in (closed, inside / "run"):
        folder.chmod(0o555)

    def work(folder: Path) -> None:
        with at_work(folder):
            pass

    for folder in (closed / "run", inside / "run"):
        said = as_nobody(lambda folder=folder: work(folder))
        assert said.startswith(f"Cannot work in '{folder}': Permission denied. Choose a folder")


def test_a_folder_under_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"Cannot work in .*Not a directory"), at_work(tmp_path / "file" / "run"):
        pass


def test_the_command_line_says_how_to_go_on(tmp_path):
    out = str(tmp_path / "run")
    done = called(["-c", STOPPED, "30", "--epochs", "2", "--out", out])
    assert done.returncode == 143, done.stderr
    assert f"Go on with: weightshare train --out {out}" in done.stderr
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--out", out, "--checkpoint-minutes", "5"])
    assert stopped.value.code == 0


@pytest.mark.slow
def test_two_processes_that_are_terminated_go_on_with_equal_weights(tmp_path):
    """The signal reaches one of them; both stop after the same step, and each draws its own numbers afterwards."""
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    options = ["--epochs", "2", "--devices", "2", "--strategy", "ddp", "--augment", "crop=1", "--augment", "mixup=0.2"]
    stopped = called([str(script), "7", *options, "--out", str(tmp_path / "cut")])
    assert stopped.returncode == 143, stopped.stderr
    assert "after step 10 of 22" in stopped.stderr
    for folder in ("cut", "whole"):
        done = called([str(script), "-1", *options, "--out", str(tmp_path / folder)])
        assert done.returncode == 0, done.stderr
    cut, whole = (tensors(tmp_path / folder / "model.safetensors") for folder in ("cut", "whole"))
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    rows = [
        [{key: value for key, value in row.items() if "second" not in key} for row in read_history(tmp_path / folder)]
        for folder in ("cut", "whole")
    ]
    assert rows[0] == [pytest.approx(row, rel=1e-5) for row in rows[1]]


@pytest.mark.slow
def test_two_processes_measure_one_image(tmp_path):
    images, labels = np.zeros((67, 8, 8), np.uint8), np.arange(67) % 3
    images += labels[:, None, None].astype(np.uint8)
    np.savez(tmp_path / "tiny.npz", images=images, labels=labels, is_train=np.arange(67) < 66)
    options = ["--data", str(tmp_path / "tiny.npz"), "--epochs", "1", "--devices", "2", "--strategy", "ddp"]
    (tmp_path / "script.py").write_text(STOPPED)
    done = called([str(tmp_path / "script.py"), "-1", *options, "--out", str(tmp_path / "run")])
    assert done.returncode == 0, done.stderr


BRIEFLY = """
import sys, time
from weightshare.training.workplace import at_work

with at_work(sys.argv[1]):
    print("at work", flush=True)
    sys.stdin.readline()
    time.sleep(0.2)
"""


def test_one_that_is_patient_waits_until_the_other_has_left(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", BRIEFLY, str(tmp_path)], **pipes) as other:
        assert other.stdout.readline() == "at work\n"
        with pytest.raises(TrainingError, match="Another process is at work"), at_work(tmp_path):
            pass
        other.stdin.write("leave\n")
        other.stdin.flush()
        with at_work(tmp_path, patience=60):
            assert other.wait(timeout=60) == 0
