"""Data sets in one `.npz`, as arrays and as packed files."""

from io import BytesIO

import numpy as np
from PIL import Image
import torch

from tests.unit.training.made_up import pictures

COUNT, HEIGHT, WIDTH = 11, 5, 7
IS_TRAIN = np.arange(COUNT) % 3 != 2
IMAGES, LABELS = pictures(COUNT, (3, HEIGHT, WIDTH), 4, seed=1)
LABELS[0] = 3
NHWC = IMAGES.transpose(0, 2, 3, 1)
GOOD = {"images": NHWC, "labels": LABELS, "is_train": IS_TRAIN}


def save(path, **entries):
    np.savez(path, **entries)
    return str(path)


def check_same(data, images=IMAGES, labels=LABELS, is_train=IS_TRAIN):
    for split, rows in ((data.train, is_train), (data.test, ~is_train)):
        got, got_labels = next(split.batches([torch.arange(len(split))]))
        torch.testing.assert_close(got, torch.from_numpy(images[rows]).float() / 255, rtol=0, atol=1e-7)
        assert got_labels.tolist() == labels[rows].tolist()


def encoded(image, format="PNG"):
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format)
    return buffer.getvalue()


def jpegs(images=NHWC, **changes):
    """The packed layout; its files may be of any format that Pillow knows, and PNG loses nothing."""
    contents = [encoded(image) for image in images]
    offset = np.cumsum([0] + [len(content) for content in contents])
    blob = np.frombuffer(b"".join(contents), np.uint8)
    return {"jpeg": blob, "offset": offset, "label": LABELS.astype(np.int16), "is_train": IS_TRAIN} | changes
