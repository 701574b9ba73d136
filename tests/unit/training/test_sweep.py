"""A sweep on Ray itself: what it trains is what `weightshare train` trains, and whatever is killed goes on."""

from dataclasses import replace
import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from tests.support import ROOT
from tests.unit.training.killing_sweep import descendants, killed
from weightshare.files.checkpoint import tensors
from weightshare.training.recipe import strict
from weightshare.training.run import MODEL, run
from weightshare.training.sweep import SweepConfig, read_sweep
from weightshare.training.sweep_plan import planned
from weightshare.training.sweep_runs import look

TINY = {
    "model": "convmixer:4/2/2/3",
    "device": "cpu",
    "share": [{"rate": 2, "where": "blocks.*.pointwise"}],
    "train": {"epochs": 2, "clip": None, "augment": {"crop": 1, "mixup": 0.2}},
}


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}


def written(folder: Path, **changes) -> tuple[Path, SweepConfig]:
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    settings = {"base": TINY, "concurrent": 2, "out": str(folder / "the sweep"), **changes}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    return folder / "sweep.yaml", strict(SweepConfig, settings)


def started(file: Path, *options: str, **pipes) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "weightshare", "sweep", str(file), *options]
    return subprocess.Popen(command, cwd=file.parent, env=environment(), text=True, **pipes)


def called(file: Path, *options: str) -> tuple[int, str, str]:
    with started(file, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=1200)
        return process.returncode, out, err


def kill_all(process: int) -> None:
    killed([process, *descendants(process)])


def same_weights(one: Path, other: Path) -> bool:
    held, expected = tensors(one / MODEL), tensors(other / MODEL)
    return held.keys() == expected.keys() and all(torch.equal(held[name], expected[name]) for name in held)


@pytest.mark.slow
def test_runs_on_ray_are_those_of_one_process_and_one_that_fails_stops_no_other(tmp_path):
    """In a folder with a space in its name; what Ray left is gone."""
    file, settings = written(tmp_path / "a folder", grid={"train.lr": [0.01, 1e30, 0.1]})
    code, out, err = called(file)
    assert (code, "1 of 3 runs failed" in err) == (1, True), err
    assert "Traceback" not in err
    found = [look(one) for one in planned(settings)]
    assert [one.status for one in found] == ["finished", "failed", "finished"]
    assert [one.finishes for one in found] == [1, 0, 1]
    assert "it diverged" in found[1].error
    assert out.count(" of 3 runs have ended.") == 3
    assert "diverged" in (Path(settings.out) / "index.html").read_text()
    assert not (Path(settings.out) / ".tune").exists()
    alone = replace(found[2].planned.config, out=str(tmp_path / "alone"))
    run(alone)
    assert same_weights(tmp_path / "alone", found[2].planned.folder)


def at_work(file: Path, settings: SweepConfig) -> subprocess.Popen[str]:
    """A sweep whose first runs have begun to train."""
    process = started(file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list(Path(settings.out).glob("*/metrics.jsonl")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_asked_to_stop_says_how_to_go_on(tmp_path, asked):
    file, settings = written(tmp_path, base={**TINY, "train": {"epochs": 20}}, grid={"seed": [0, 1, 2]})
    with at_work(file, settings) as process:
        process.send_signal(asked)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + asked
    assert "every run has kept its state" in err
    assert "Go on with the same command." in err
    assert "Traceback" not in err
    assert called(file)[0] == 0
    assert [look(one).finishes for one in planned(settings)] == [1, 1, 1]
    assert max(look(one).attempts for one in planned(settings)) == 2


@pytest.mark.slow
def test_halving_on_ray_ends_runs_early_and_goes_on_after_a_kill(tmp_path):
    """Learning rates from hopeless to good; with one run at a time the order is that of the grid."""
    rates = {"train.lr": [0.01, 1e-7, 1e-6, 0.02]}
    asha = {"grace_epochs": 2, "reduction": 2}
    base = {**TINY, "train": {"epochs": 8}}
    file, settings = written(tmp_path, base=base, grid=rates, asha=asha, concurrent=1)
    with at_work(file, settings) as process:
        kill_all(process.pid)
        process.communicate()
    code, _, err = called(file)
    assert code == 0, err
    found = [look(one) for one in planned(settings)]
    assert [one.status for one in found] == ["finished", "stopped early", "stopped early", "finished"]
    assert [len(one.history) for one in found] == [8, 2, 2, 8]
    assert [one.finishes for one in found] == [1, 1, 1, 1]
    assert (found[1].planned.folder / "report.html").is_file()
    assert "2 ended early" in (Path(settings.out) / "index.html").read_text()


@pytest.mark.slow
def test_a_cluster_is_used_by_its_address(tmp_path):
    file, settings = written(tmp_path, grid={"seed": [0, 1]})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = str(Path(sys.executable).with_name("ray"))
    options = ["--head", "--block", f"--port={address.rpartition(':')[2]}", "--num-cpus=2", "--include-dashboard=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([ray, "start", *options, "--disable-usage-stats"], env=environment(), **quiet) as head:
        try:
            for _ in range(20):  # until it is up
                code, _, err = called(file, "--address", address)
                if "Ray cannot be had at address" not in err:
                    break
        finally:
            kill_all(head.pid)
    assert code == 0, err
    assert [look(one).finishes for one in planned(settings)] == [1, 1]


@pytest.mark.slow
def test_twelve_runs_killed_three_times_are_all_finished_exactly_once(tmp_path):
    """The sweep of the docs: strength × rewinding on the digits torus. Some minutes."""
    file, out = ROOT / "examples" / "torus_sweep.yaml", tmp_path / "torus"
    command = [sys.executable, str(Path(__file__).with_name("killing_sweep.py")), str(file), str(out), "3", "0"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    told = json.loads(done.stdout)
    assert told["code"] == 0
    assert [kind for kind, _, _ in told["killed"]] == ["all", "driver", "worker", "worker"]
    assert [(status, finishes) for status, _, finishes in told["runs"].values()] == [("finished", 1)] * 12
    runs = planned(replace(read_sweep(file), out=str(out)))
    often = max(runs, key=lambda one: told["runs"][one.name][1])  # it was killed, and went on
    assert told["runs"][often.name][1] > 1
    torch.set_num_threads(1)
    run(replace(often.config, out=str(tmp_path / "whole")))
    assert same_weights(tmp_path / "whole", often.folder)
    page = (out / "index.html").read_text()
    assert "12 of 12" in page
    assert "Best test accuracy: strength=" in page
