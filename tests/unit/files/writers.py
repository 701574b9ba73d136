"""Forks that write one file again and again, and are killed: to be run in a Python of its own, which has no threads."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import random
import signal
import time

import torch
from torch import nn

import weightshare as ws
from weightshare.files.atomic import remove_leftovers


def model(number: float) -> nn.Module:
    """A model of one number, but for a row, so that a mixture of two files would show."""
    made = nn.Linear(300, 300)
    with torch.no_grad():
        made.weight.fill_(number)[0] += torch.arange(300.0)
        made.bias.fill_(number)
    return made


@contextmanager
def writer(path: Path, *numbers: float) -> Iterator[int]:
    """A fork that writes a file again and again; killed at the end. Forked: a new Python would take seconds."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            while True:
                for number in numbers:
                    ws.save(model(number), path)
                    os.write(writes, b".")
        finally:
            os._exit(1)
    try:
        os.read(reads, 1)  # it has written once
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)


def read(path: Path) -> float:
    """The number that a file is full of; loading checks every bit."""
    return ws.load(path, model(-1.0)).bias[0].item()


def killed(folder: Path, kills: int) -> None:
    """Kill a writer at random moments; what it leaves is a whole file of its own."""
    drawn, path = random.Random(0), folder / "m"
    for number in range(kills):
        with writer(path, 2 * number, 2 * number + 1):
            time.sleep(drawn.uniform(0, 0.03))
        assert read(path) in (2 * number, 2 * number + 1)
    assert all(left.name == "m" or left.suffix == ".tmp" for left in folder.iterdir())
    remove_leftovers(folder)
    assert [left.name for left in folder.iterdir()] == ["m"]
    print(kills)


def at_once(folder: Path, reads: int) -> None:
    """Read what two processes write."""
    path = folder / "m"
    with writer(path, 1.0), writer(path, 2.0):
        seen = [read(path) for _ in range(reads)]
    assert {*seen} <= {1.0, 2.0}
    print(len(seen))
