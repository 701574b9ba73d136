"""Folders of images."""

import numpy as np
from PIL import Image
import torch

from tests.unit.training.made_up import pictures

HEIGHT, WIDTH = 5, 7
COUNTS = {"train": {"ant": 3, "bee": 5, "cow": 2}, "test": {"ant": 2, "cow": 3}}


def fill(root, counts=COUNTS, mode="RGB", ending="png", size=(HEIGHT, WIDTH)):
    """Write images, and give them back in the order in which they should come: `(n, in, h, w)` of each part."""
    expected = {}
    for part, classes in counts.items():
        arrays = []
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for row, image in enumerate(pictures(count, (*size, 3), 2, len(part) + len(arrays))[0]):
                picture = Image.fromarray(image).convert(mode)
                picture.save(root / part / name / f"{row}.{ending}")
                arrays.append(np.asarray(picture.convert("RGB")))
        expected[part] = np.stack(arrays).transpose(0, 3, 1, 2)
    return expected


def bytes_of(split):
    images = torch.cat([images for images, _ in split.batches([torch.arange(len(split))])])
    return (images * 255).round().to(torch.uint8).numpy()
