"""Images per second of our loaders, against what trains on them and against what else reads them, in turn in one run.

| benchmark | ours | rival | goal |
|---|---|---|---|
| over training | a loader, with crop, flip and norm | training steps of a small network | above 1: never waited for |
| over one by one | in memory; files of a folder | `DataLoader` over Pillow images, as usual | above 1 |
| over webdataset | shards, in any order | the package webdataset, through a buffer of 1,000 | above 1 |

A ratio is ours over the rival's, in images per second, the median over rounds. Images are 32×32 in colour, batches 128;
what reads from disk has as many processes as there are cores, up to 8, on both sides. `packed` is an `.npz` of JPEG
files, which are decoded when the set is loaded and never again: its rate is that of loading.
"""

from importlib.util import find_spec
import os
from pathlib import Path
import random
import statistics
import time

import numpy as np
from PIL import Image
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.contest import TINY
from tests.unit.training.made_up_shards import write_tar
import weightshare as ws
from weightshare.training.data import Augment, augmentation, listed, load_data

RESULTS = "loading"
IMAGES, SHARDS, BATCH, ROUNDS, STEPS = (48, 2, 8, 1, 1) if TINY else (6_400, 8, 128, 3, 1)
LEAST = 0 if TINY else 1
WORKERS = min(8, os.cpu_count() or 1)
NETWORKS = {
    "resnet20": lambda: ws.models.resnet20((16, 32, 64)),
    "convmixer": lambda: ws.models.convmixer(64, 8, 4, 3, classes=10),
}
LOADERS = ("memory", "folder", "shards", "packed")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The same images as files of a folder, as shards, and as packed JPEG: smooth ones, as photographs are."""
    home = tmp_path_factory.mktemp("images")
    drawn = np.random.default_rng(0)
    contents, labels = [], np.arange(IMAGES + BATCH) % 10
    for row in range(IMAGES + BATCH):
        small = Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = home / "folder" / ("train" if row < IMAGES else "val") / str(labels[row]) / f"{row:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)
        contents.append(path.read_bytes())
    for shard in range(SHARDS + 1):
        rows = range(shard * IMAGES // SHARDS, min((shard + 1) * IMAGES // SHARDS, IMAGES + BATCH))
        pairs = [((f"{row:05}.jpg", contents[row]), (f"{row:05}.cls", str(labels[row]).encode())) for row in rows]
        name = f"train-{shard:04}.tar" if shard < SHARDS else "val-0000.tar"
        write_tar(home / "shards" / name, [member for pair in pairs for member in pair])
    offset = np.cumsum([0, *map(len, contents)])
    blob = np.frombuffer(b"".join(contents), np.uint8)
    np.savez(home / "packed.npz", jpeg=blob, offset=offset, label=labels, is_train=np.arange(len(labels)) < IMAGES)
    return home


def ours(loader, home):
    """A function that goes through all training images once, in another order each time."""
    if loader == "packed":
        return lambda: load_data(str(home / "packed.npz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listed, "IN_MEMORY", 0 if loader != "memory" else listed.IN_MEMORY)
        data = load_data(str(home / ("folder" if loader == "memory" else loader)))
    vary = augmentation(Augment(crop=4, flip=True), data.train.shape, data.classes)

    def run():
        count = 0
        for images, labels in data.train.batches(torch.randperm(IMAGES).split(BATCH)):
            images, labels = vary(images, labels)
            count += len(data.train.normalised(images))
        assert count == IMAGES

    return run


def training(network):
    """A function that makes a few steps."""
    torch.manual_seed(0)
    model = NETWORKS[network]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10

    def run():
        for _ in range(STEPS):
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def varied(image):
    """Crop, flip and normalise one Pillow image, as is usual."""
    wide = Image.new("RGB", (40, 40))
    wide.paste(image, (4, 4))
    left, top = random.randrange(9), random.randrange(9)
    image = wide.crop((left, top, left + 32, top + 32))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255) - 0.5) / 0.25


class OneByOne(Dataset):
    """Images in memory, or files, each opened, varied and made a tensor by itself."""

    def __init__(self, folder, memory):
        paths = sorted((folder / "train").rglob("*.jpg"))
        self.labels = [int(path.parent.name) for path in paths]
        self.images = [np.array(Image.open(path)) for path in paths] if memory else paths

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        image = self.images[row]
        image = Image.open(image).convert("RGB") if isinstance(image, Path) else Image.fromarray(image)
        return varied(image), self.labels[row]


def through(loader):
    def run():
        assert sum(len(images) for images, _ in loader) == IMAGES

    return run


def webdataset_loader(folder):
    import webdataset

    urls = str(folder / f"train-{{0000..{SHARDS - 1:04}}}.tar")
    pipeline = webdataset.WebDataset(urls, shardshuffle=SHARDS, empty_check=False).shuffle(1000).decode("pil")
    pipeline = pipeline.to_tuple("jpg", "cls").map_tuple(varied, lambda label: label).batched(BATCH)
    return webdataset.WebLoader(pipeline, batch_size=None, num_workers=WORKERS)


@pytest.fixture
def compare(measured):
    """Images per second of two functions, in turn."""

    def run(ours, rival, rival_images=IMAGES):
        ratios, rates = [], []
        for _ in range(ROUNDS + 1):
            taken = []
            for does, images in ((ours, IMAGES), (rival, rival_images)):
                start = time.perf_counter()
                does()
                taken.append(images / (time.perf_counter() - start))
            ratios.append(taken[0] / taken[1])
            rates.append(taken)
        ratio = statistics.median(ratios[1:])
        both = [round(statistics.median(column)) for column in zip(*rates[1:], strict=True)]
        measured(ratio=round(ratio, 3), ours_images_per_second=both[0], rival_images_per_second=both[1])
        return ratio

    return run


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("loader", LOADERS)
def test_over_training(loader, network, home, compare):
    assert compare(ours(loader, home), training(network), STEPS * BATCH) > LEAST


@pytest.mark.parametrize("loader", ["memory", "folder"])
def test_over_one_by_one(loader, home, compare):
    rival = DataLoader(OneByOne(home / "folder", loader == "memory"), BATCH, shuffle=True, num_workers=WORKERS)
    assert compare(ours(loader, home), through(rival)) > LEAST


@pytest.mark.skipif(find_spec("webdataset") is None, reason="needs the package webdataset")
def test_over_webdataset(home, compare):
    assert compare(ours("shards", home), through(webdataset_loader(home / "shards"))) > LEAST
