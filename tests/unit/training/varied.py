"""Batches for the tests of augmentation."""

import torch
from torch import Tensor

from weightshare.training.data import Augment, augmentation

BATCH, CHANNELS, HEIGHT, WIDTH, CLASSES = 11, 3, 5, 7, 13
SHAPE = (CHANNELS, HEIGHT, WIDTH)


def made(
    augment: Augment, count: int = 7, seed: int = 5, shape: tuple[int, int, int] = SHAPE
) -> list[tuple[Tensor, Tensor]]:
    """Some batches of the same images, made one after the other."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, *shape, generator=generator)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    vary = augmentation(augment, shape, CLASSES)
    torch.manual_seed(seed)
    return [vary(images, labels) for _ in range(count)]
