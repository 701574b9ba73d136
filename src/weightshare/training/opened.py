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


def input_of(text: str | None, model: nn.Module) -> Tensor | list[Tensor] | dict[str, Tensor] | None:
    """Random numbers for one example of a model, on its device and of its dtype.

    Args:
        text: The shape, such as `3x224x224`; several with commas for positional arguments, `7,5`; with names for
            keyword arguments, `image=3x32x32,ids=8:int`, where `:int` makes whole numbers, 0 and 1. Nothing for `None`.
        model: That is to run on it.

    Raises:
        ConfigError: If a shape is none, or only some have names.
    """
    if text is None:
        return None
    like = next((p for p in model.parameters() if p.is_floating_point() or p.is_complex()), torch.zeros(()))
    pairs = [part.rpartition("=")[::2] for part in text.split(",")]
    tensors = [_of_shape(text, shape, like) for _, shape in pairs]
    names = [name.strip() for name, _ in pairs]
    if all(names) and len({*names}) == len(names):
        return dict(zip(names, tensors, strict=True))
    if any(names):
        raise ConfigError(f"--input {text!r}: name each shape once, or none, as in image=3x32x32,ids=8:int.")
    return tensors[0] if len(tensors) == 1 else tensors


def _of_shape(text: str, shape: str, like: Tensor) -> Tensor:
    sizes, colon, kind = shape.strip().lower().replace("×", "x").partition(":")
    lengths = sizes.split("x")
    if not all(length.isdecimal() and int(length) for length in lengths) or (colon and kind != "int"):
        raise ConfigError(
            f"--input {text!r}: need the shape of one example, such as 3x224x224, or 8:int for 8 whole numbers; of "
            "several inputs all shapes, such as 3x32x32,8:int or image=3x32x32,ids=8:int."
        )
    generator = torch.Generator().manual_seed(0)
    full = (1, *map(int, lengths))
    if kind:
        return torch.randint(2, full, generator=generator, device="cpu").to(like.device)
    return torch.randn(full, generator=generator, device="cpu").to(like.device, like.dtype)
