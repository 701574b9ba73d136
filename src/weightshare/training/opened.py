"""A model to be looked at, by what it is called on the command line: a name, a folder, or a run that was trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import ConfigError
from weightshare.models.by_name import build
from weightshare.training.data import load_data
from weightshare.training.run import CONFIG, some_images, trained


def opened(
    name: str,
    options: Mapping[str, Any],
    data: str | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    meta: bool = False,
) -> tuple[nn.Module, list[Tensor] | None]:
    """Build or load a model, and some images for it.

    Args:
        name: A run directory, or as `models.build` takes it; a folder that is none is one of transformers.
        options: Of its constructor.
        data: A data set for it, whose channels and classes the model is built for; a run has its own.
        data_dir: Where data sets lie.
        image_size: Of a folder's images.
        meta: Whether it is built without numbers, which takes no memory.

    Returns:
        The model, and batches of training images or `None`. Random weights are those of seed 0.

    Raises:
        SharingError: If there is no such model or data set.
    """
    folder = Path(name)
    if (folder / CONFIG).is_file():
        model, seen = trained(folder)
        return model, some_images(seen)
    if folder.is_dir():
        name = f"transformers:{name}"
    given, batches = dict[str, Any](), None
    if data is not None:
        loaded = load_data(data, data_dir, image_size)
        given = {"in_channels": loaded.channels, "classes": loaded.classes, "size": loaded.size}
        batches = some_images(loaded)
    with torch.random.fork_rng(devices=[]), torch.device("meta" if meta else "cpu"):
        torch.manual_seed(0)
        return build(name, **given | dict(options)), batches


def input_of(text: str | None) -> Tensor | None:
    """Random numbers of a shape such as `3x224x224`, for one example."""
    if text is None:
        return None
    sizes = text.lower().replace("×", "x").split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise ConfigError(f"--input {text!r}: need the shape of one example, such as 3x224x224.")
    return torch.randn(1, *map(int, sizes), generator=torch.Generator().manual_seed(0))
