"""Images per second of `weightshare train` against a bare PyTorch loop of the same network, in turn in the same run.

| benchmark | ours | rival | goal |
|---|---|---|---|
| plain | `weightshare train NETWORK --data X.npz` | a bare loop over ready float tensors | 0.95 × images/s |
| augmented | the same with crop and flip | the same bare loop, which varies nothing | read it |

Each is a process of its own.

`WEIGHTSHARE_CIFAR10` may name an `.npz` of CIFAR-10 (`weightshare data cifar10 --to cifar10.npz`); without it, made-up
images of that shape are used: the numbers that are trained on do not change how long it takes.
"""

import json
import os
from pathlib import Path
import statistics
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.contest import TINY

RESULTS = "training"
ROUNDS, IMAGES, BATCH = (1, 64, 16) if TINY else (5, 6_400, 128)
BARE = """
import sys, time
import numpy as np, torch
import weightshare as ws

file = np.load(sys.argv[1])
images = torch.from_numpy(file["images"][file["is_train"]]).permute(0, 3, 1, 2).float().div(255).contiguous()
images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
labels = torch.from_numpy(file["labels"][file["is_train"]])
width, depth, patch, kernel = map(int, sys.argv[2].split("/"))
model = ws.models.convmixer(width, depth, patch, kernel, classes=10)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
before = time.perf_counter()
for batch in torch.randperm(len(images)).split(int(sys.argv[3])):
    loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
print(len(images) / (time.perf_counter() - before))
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first training images of CIFAR-10 or made-up ones, and a few to be measured on."""
    path = tmp_path_factory.mktemp("cifar") / "images.npz"
    source = os.environ.get("WEIGHTSHARE_CIFAR10")
    if source:
        file = np.load(source)
        rows = np.concatenate(
            [np.flatnonzero(file["is_train"])[:: 50_000 // IMAGES][:IMAGES], np.flatnonzero(~file["is_train"])[::50]]
        )
        images, labels = file["images"][rows], file["labels"][rows]
    else:
        drawn = np.random.default_rng(0)
        images = drawn.integers(0, 256, (IMAGES + 200, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(IMAGES + 200) % 10
    np.savez(path, images=images, labels=labels, is_train=np.arange(len(images)) < IMAGES)
    return path


def ours(packed: Path, network: str, out: Path, *options: str) -> float:
    settings = ["--epochs", "1", "--batch-size", str(BATCH), "--device", "cpu", "--out", str(out), *options]
    command = [sys.executable, "-m", "weightshare", "train", f"convmixer:{network}", "--data", str(packed), *settings]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((out / "metrics.jsonl").read_text())["images_per_second"]


def bare(packed: Path, network: str) -> float:
    command = [sys.executable, "-c", BARE, str(packed), network, str(BATCH)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("options", [[], ["--augment", "crop=4", "--augment", "flip=true"]], ids=["plain", "augmented"])
@pytest.mark.parametrize("network", ["64/4/2/3", "128/8/2/5"])
def test_images_per_second(benchmark, packed: Path, network: str, options: list[str], tmp_path: Path) -> None:
    pairs = []

    def measure() -> None:
        outs = [tmp_path / str(number) for number in range(ROUNDS)]
        pairs.extend((ours(packed, network, out, *options), bare(packed, network)) for out in outs)

    benchmark.pedantic(measure, rounds=1)
    ratio = statistics.median(one / other for one, other in pairs)
    speeds = [statistics.median(column) for column in zip(*pairs, strict=True)]
    benchmark.extra_info.update(ratio=ratio, ours_images_per_second=speeds[0], bare_images_per_second=speeds[1])
    name = f"convmixer:{network} {' '.join(options)}"
    print(f"\n{name}: ours {speeds[0]:.0f}, bare {speeds[1]:.0f} images/s, ratio {ratio:.3f}")
    assert ratio > 0
