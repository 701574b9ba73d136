"""Kill runs and start them again, from one warm process: `python killing.py FOLDER KILLS SEED`.

Every run is a fork, killed with SIGKILL at a random moment of its life, some of them again after they were resumed, and
then left to finish. Prints one JSON line: for each run its weights' digest and how often it was killed while at work.
"""

from dataclasses import replace
import hashlib
import json
import os
from pathlib import Path
import random
import shutil
import signal
import sys
import time

import torch

from weightshare.files.archive import read
from weightshare.training.data import Augment
from weightshare.training.recipe import Recipe, RunConfig, Share
from weightshare.training.run import run

RECIPE = Recipe(epochs=3, batch_size=64, augment=Augment(crop=1, flip=True, mixup=0.2))


def config(out: Path, minutes: float) -> RunConfig:
    """A tied network, whose state is kept after every step (0 minutes) or after every epoch."""
    share = [Share(rate=2, fuse="mean", where="blocks.*.pointwise")]
    settings = RunConfig("convmixer:8/4/2/3", share=share, train=RECIPE, device="cpu", out=str(out))
    return replace(settings, checkpoint_minutes=minutes)


def started(settings: RunConfig) -> int:
    """Start a run in a fork that says nothing; returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        run(settings)
        status = 0
    finally:
        os._exit(status)


def finished(settings: RunConfig, kill_after: float | None) -> bool:
    """Run until the end or until it is killed; says whether it came to its end."""
    child = started(settings)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"a run failed instead of being killed: {settings.out}")
    return not os.WIFSIGNALED(status)


def digest(out: Path) -> str:
    """Of the trained weights, of the state of training and of the measured rows but for their times."""
    model, state = read(out / "model.safetensors", "model"), read(out / "checkpoint.safetensors", "training")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = hashlib.sha256()
    for held in (model, state):
        for name, tensor in sorted(held.tensors.items()):
            told.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for row in rows:
        told.update(json.dumps({key: row[key] for key in row if "second" not in key}, sort_keys=True).encode())
    return told.hexdigest()


def main(folder: Path, kills: int, seed: int) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)  # before anything runs: a fork of a process with a thread pool hangs
    drawn = random.Random(seed)
    seconds = {}
    for minutes in (0.0, 10.0):
        before = time.monotonic()
        finished(config(folder / f"whole-{minutes}", minutes), None)
        seconds[minutes] = time.monotonic() - before
    runs = {f"whole-{minutes}": [digest(folder / f"whole-{minutes}"), 0] for minutes in seconds}
    for number in range(kills):
        minutes = 10.0 * (number % 2)
        settings = config(folder / f"killed-{number}", minutes)
        at = drawn.uniform(0.02, 0.9 * seconds[minutes])
        while finished(settings, at):  # it was faster than the one before: once more, from nothing
            shutil.rmtree(settings.out)
            at *= 0.8
        killed = 1
        for _ in range(drawn.randrange(3)):
            killed += not finished(settings, drawn.uniform(0.02, seconds[minutes]))
        finished(settings, None)
        runs[f"killed-{number}"] = [digest(folder / f"killed-{number}"), killed]
    print(json.dumps({"runs": runs, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
