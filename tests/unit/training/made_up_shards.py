"""WebDataset shards."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from tests.unit.training.made_up import pictures

HEIGHT, WIDTH = 5, 7
CLASSES = 3
COUNTS = {"train": (4, 3, 6), "val": (5,)}
"""Images of each shard."""


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


def write_tar(path, members, **settings):
    """An archive of pairs of name and content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **settings) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def samples(part, number, ending="png", label="cls"):
    """Members of one shard; and its images, channels first, and labels."""
    images, labels = pictures(COUNTS[part][number], (HEIGHT, WIDTH, 3), CLASSES, 10 * len(part) + number)
    labels[:CLASSES] = range(CLASSES)
    members = []
    for row, (image, value) in enumerate(zip(images, labels.tolist(), strict=True)):
        told = f"{value}\n" if label == "cls" else json.dumps({"label": value, "caption": "made up"})
        members += [
            (f"{part}{number}/{row:03}.{ending}", encoded(image)),
            (f"{part}{number}/{row:03}.{label}", told.encode()),
        ]
    return members, images.transpose(0, 3, 1, 2), labels


def fill_shards(root, layout="{part}-{number:04}.tar", **settings):
    """Write shards, and give back images and labels of each part in the order in which they should come."""
    expected = {}
    for part, counts in COUNTS.items():
        parts = []
        for number in range(len(counts)):
            members, *arrays = samples(part, number, **settings)
            write_tar(root / layout.format(part=part, number=number), members)
            parts.append(arrays)
        expected[part] = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    return expected
