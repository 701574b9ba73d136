"""Training ResNet-20 as the rows `conv` and `lc` of `studies.pogodin2021_protocol` do, against a bare script, in turn.

| ours | over | goal, images a second |
|---|---|---|
| row `conv` | `plain_resnet20.py` | at least 1.0 × |
| row `conv` | the same with rectifiers that write over what they read | read it |
| row `conv` in bfloat16 | `plain_resnet20.py` in bfloat16 | read it: slow where cores have no such products |
| row `lc`, 40.8 million weights | `plain_resnet20.py`, by `unfold` and `einsum` | at least 1.3 × |
| two runs at once, a thread each | one after the other, two threads each | read it: total time |

Ours is `training.loop.fit` with the row's recipe, crops out of a border of 4 pixels included; between two of its epochs
the script does one. Only whole epochs count, and neither's first. Two runs are processes of `weightshare train`, from
their start to their end.

`WEIGHTSHARE_CIFAR10` may name an `.npz` of CIFAR-10 (`weightshare data cifar10 --to cifar10.npz`); without it, made-up
images of that shape are used: the numbers that are trained on do not change how long it takes.
"""

from dataclasses import replace
import os
from pathlib import Path
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from plain_resnet20 import Script
import pytest
import torch

from benchmarks.contest import TINY
from weightshare.experiments.studies.pogodin2021_protocol import config
from weightshare.training import loop
from weightshare.training.data.build import build
from weightshare.training.launch import launched
from weightshare.training.loop import evaluate, fit
from weightshare.training.run import prepared

RESULTS = "resnet20"
TURNS = 1 if TINY else 2
TEST = 10  # images that ours is measured on after each epoch, which does not count


def images(count: int, size: int = 32, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Bytes `(count, channels, size, size)` and labels."""
    source = os.environ.get("WEIGHTSHARE_CIFAR10")
    if source and size == 32:
        file = np.load(source)
        return file["images"][:count].transpose(0, 3, 1, 2).copy(), file["labels"][:count].astype(np.int64)
    drawn = np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return drawn, np.arange(count) % 10


@pytest.fixture
def speeds(measured, monkeypatch):
    """Images a second of ours and of the script, in turn; the median ratio of the pairs."""

    def measure(row: str, batch: int, steps: int, rounds: int, half: bool = False, inplace: bool = False) -> float:
        if TINY:
            batch, steps, rounds = 2, 1, 1
        given, labels = images(batch * steps + TEST)
        data = build("cifar", (given[TEST:], labels[TEST:]), (given[:TEST], labels[:TEST]), classes=10)
        made = config(row, "cifar10", 4, seed=0, out="unused")
        recipe = replace(made.train, epochs=rounds + 1, batch_size=batch)
        made = replace(made, train=recipe, device="cpu", precision="bf16-mixed" if half else "32-true")
        model, _ = prepared(made, data)
        tensors = torch.from_numpy(given[TEST:]), torch.from_numpy(labels[TEST:])
        script = Script(*tensors, row == "lc", batch, half, inplace)
        numbers = [sum(p.numel() for p in one.parameters()) for one in (model, script.model)]
        assert numbers[0] == numbers[1]
        theirs: list[float] = []
        marks: list[float] = []

        def evaluated(*given: Any) -> tuple[float, float]:
            marks.append(time.process_time())
            return evaluate(*given)

        def turn(_: object) -> bool:
            marks.append(time.process_time())
            theirs.append(script.epoch())
            marks.append(time.process_time())
            return False

        monkeypatch.setattr(loop, "evaluate", evaluated)  # it says when the steps of an epoch are done
        ours = [one["images_per_second"] for one in fit(model, data, recipe, fabric=launched(made), on_epoch=turn)]
        turn(None)
        pairs = list(zip(ours[1:], theirs[1:], strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        # From the end of the script's to the evaluation, and the script's; before the first epoch all is made.
        taken = np.array([(c - b, e - d) for b, c, d, e in zip(*(marks[at::3] for at in (2, 3, 4, 5)), strict=False)])
        medians = [round(statistics.median(column), 2) for column in zip(*pairs, strict=True)]
        spread = [round(one / other, 4) for one, other in pairs]
        measured(
            ratio=round(ratio, 4),
            processor_ratio=round(float(np.median(taken[:, 1] / taken[:, 0])), 4),
            ours_images_per_second=medians[0],
            rival_images_per_second=medians[1],
            ratios=spread,
            threads=torch.get_num_threads(),
        )
        return ratio

    return measure


def least(ratio: float) -> float:
    return 0.0 if TINY else ratio


def test_convolutions(speeds) -> None:
    assert speeds("conv", batch=128, steps=3, rounds=15) >= least(1.0)


def test_convolutions_over_rectifiers_in_place(speeds) -> None:
    assert speeds("conv", batch=128, steps=3, rounds=9, inplace=True) > 0


def test_convolutions_of_large_batches(speeds) -> None:
    assert speeds("conv", batch=512, steps=1, rounds=7) >= least(1.0)


def test_convolutions_in_bfloat16(speeds) -> None:
    assert speeds("conv", batch=32, steps=2, rounds=3, half=True) > 0


def test_local_layers(speeds) -> None:
    assert speeds("lc", batch=128, steps=1, rounds=3) >= least(1.3)


NETWORKS = {
    "resnet20": ("resnet20:8/16/32", ["--model-arg", "blocks=1", "--batch-size", "128"], 32, 3, 2),
    "torus-mlp": ("torus-mlp:4/8", ["--batch-size", "128"], 14, 1, 10),
}
"""Of each network its name, its options, side and channels of images, and epochs, of 1,280 images each."""


@pytest.mark.parametrize("kind", NETWORKS)
def test_seeds_at_once(kind: str, tmp_path: Path, measured) -> None:
    network, options, side, channels, epochs = NETWORKS[kind]
    given, labels = images((64 if TINY else 1_280) + TEST, side, channels)
    packed = tmp_path / "images.npz"
    np.savez(packed, images=given.transpose(0, 2, 3, 1), labels=labels, is_train=np.arange(len(given)) >= TEST)
    at_once = os.cpu_count() or 1

    def started(name: str, seed: int, threads: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "weightshare", "train", network, "--data", str(packed), *options]
        command += [
            "--epochs",
            str(1 if TINY else epochs),
            "--seed",
            str(seed),
            "--device",
            "cpu",
            "--out",
            str(tmp_path / name),
        ]
        env = os.environ | {"OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def together(turn: int) -> None:
        runs = [started(f"together-{turn}-{seed}", seed, 1) for seed in range(at_once)]
        assert [run.wait() for run in runs] == [0] * at_once

    def in_turn(turn: int) -> None:
        for seed in range(at_once):
            assert started(f"in-turn-{turn}-{seed}", seed, at_once).wait() == 0

    pairs, load = [], round(os.getloadavg()[0], 1)
    for turn in range(TURNS):
        pairs.append([])
        for run in (together, in_turn):
            before = time.perf_counter()
            run(turn)
            pairs[-1].append(time.perf_counter() - before)
    ratio = statistics.median(one / other for one, other in pairs)
    medians = [round(statistics.median(column), 2) for column in zip(*pairs, strict=True)]
    faster = "at once" if ratio < 1 else "in turn"
    ratios = [round(one / other, 4) for one, other in pairs]
    seconds = {"at_once_seconds": medians[0], "in_turn_seconds": medians[1]}
    measured(ratio=round(ratio, 4), **seconds, ratios=ratios, runs=at_once, faster=faster, load=load)
