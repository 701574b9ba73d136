"""An input for a model that nobody gave one for, and a way to run a model that leaves no trace on it.

Models say what they take in few ways: timm keeps an `input_size`, transformers a main input and sizes in a
configuration, and of others the first layer with weights tells the size of its input. What is guessed is tried, and
only what runs is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightshare._table import shape_text
from weightshare.errors import SpecError
from weightshare.space.local import LocallyConnected
from weightshare.space.transposed import LocallyConnectedTranspose
from weightshare.surgery.copies import remember
from weightshare.surgery.watch import run

SIDES = (224, 32, 28, 64, 8)
"""Sides of images that are tried where a model does not say its own."""
TOKENS = 8
"""Length of a sequence."""
MOST_LAYERS = 3
"""Of the layers with matrices or kernels so many are taken for the first one, one after the other."""
SIDE_NAMES = ("image_size", "img_size", "side")

Make = Callable[[int], Any]
"""Makes an input for so many examples."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Leave a model as it was found: what its modules hold, numbers of buffers, gradients' mode, random generators."""
    restore = remember(model)
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        restore()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                if not buffer.is_meta and buffer._version:
                    buffer.copy_(value)


def example_for(model: nn.Module) -> tuple[Make, str] | None:
    """Find an input that a model runs on.

    Args:
        model: Any module, run once for each guess; see `untouched`.

    Returns:
        What makes an input of random numbers for so many examples, and what it is in words; `None` if no guess runs.

    Example:
        >>> make, said = example_for(nn.Sequential(nn.Linear(7, 3)))
        >>> make(5).shape, said
        (torch.Size([5, 7]), 'random numbers, 7')
    """
    for make, said in _guesses(model):
        with suppress(SpecError):
            run(model, make(1))
            return make, said
    return None


def _guesses(model: nn.Module) -> Iterator[tuple[Make, str]]:
    sizes = [getattr(model, name, None) or {} for name in ("pretrained_cfg", "default_cfg")]
    for size in (cfg.get("input_size") for cfg in sizes if isinstance(cfg, dict)):
        if size:
            yield _numbers(model, tuple(size))
    yield from _of_transformers(model)
    holders = [one for one in model.modules() if any(p is not None and p.ndim > 1 for p in one._parameters.values())]
    for layer in holders[:MOST_LAYERS]:
        yield from _of_layer(model, layer)


def _of_layer(model: nn.Module, layer: nn.Module) -> Iterator[tuple[Make, str]]:
    """What a model takes whose first layer this is."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        axes = len(layer.kernel_size)
        said = [getattr(model, name, None) for name in SIDE_NAMES]
        for side in dict.fromkeys([*(one for one in said if isinstance(one, int)), *SIDES]):
            yield _numbers(model, (layer.in_channels, *[side] * axes))
    elif isinstance(layer, LocallyConnected | LocallyConnectedTranspose):
        yield _numbers(model, (layer.in_channels, *layer.input_size))
    elif isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        yield _tokens(model, layer.num_embeddings)
    elif isinstance(layer, nn.RNNBase):
        yield _numbers(model, (TOKENS, layer.input_size))
    elif isinstance(layer, nn.MultiheadAttention):
        yield _numbers(model, (TOKENS, layer.embed_dim))
    else:  # the last axis of its weight is what a Linear layer takes, and most of others
        width = next(p.shape[-1] for p in layer._parameters.values() if p is not None and p.ndim > 1)
        for axes in ((), (TOKENS,)):
            yield _numbers(model, (*axes, width))


def _of_transformers(model: Any) -> Iterator[tuple[Make, str]]:
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    if config is None or main is None:
        return
    if main == "pixel_values":
        side = getattr(config, "image_size", 224)
        sides = (side, side) if isinstance(side, int) else tuple(side)
        make, said = _numbers(model, (getattr(config, "num_channels", 3), *sides))
        yield lambda count: {main: make(count)}, said
    elif main == "input_ids":
        make, said = _tokens(model, config.get_text_config().vocab_size)
        yield lambda count: {main: make(count)}, said
        yield lambda count: {main: make(count), "decoder_input_ids": make(count)}, said


def _numbers(model: nn.Module, shape: tuple[int, ...]) -> tuple[Make, str]:
    like = next(model.parameters())
    dtype = like.dtype if like.is_floating_point() or like.is_complex() else torch.float32

    def make(count: int) -> Tensor:
        drawn = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), device="cpu")
        return drawn.to(like.device, dtype)

    return make, f"random numbers, {shape_text(shape)}"


def _tokens(model: nn.Module, vocabulary: int) -> tuple[Make, str]:
    device = next(model.parameters()).device

    def make(count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(vocabulary, (count, TOKENS), generator=generator, device="cpu").to(device)

    return make, f"{TOKENS} random tokens of {vocabulary:,}"
