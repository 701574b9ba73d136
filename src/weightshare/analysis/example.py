"""An input for a model that nobody gave one for, and a way to run a model that leaves no trace on it.

Models say what they take in few ways: timm keeps an `input_size`, transformers a main input and sizes in a
configuration, and of others the first layer with weights tells the size of its input. What is guessed is tried, and
only what runs is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
KNOWN = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention)
"""Layers that say what they take, whatever makes their weights."""
SIDE_NAMES = ("image_size", "img_size", "side")


@dataclass(frozen=True)
class Guess:
    """An input that nobody gave.

    Args:
        make: Makes one of random numbers for so many examples.
        said: What it is, in words.
        shape: Of one example, where it is one tensor of numbers.
        own: Whether the model says itself that it takes this size.
    """

    make: Callable[[int], Any]
    said: str
    shape: tuple[int, ...] = ()
    own: bool = False


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


def example_for(model: nn.Module) -> tuple[Guess | None, list[tuple[str, SpecError]]]:
    """Find an input that a model runs on.

    Args:
        model: Any module, run once for each guess; see `untouched`.

    Returns:
        The first guess that runs, or `None`; and those that did not run, in words, with what the model said to each.

    Example:
        >>> guess, failed = example_for(nn.Sequential(nn.Linear(7, 3)))
        >>> guess.make(5).shape, guess.said, failed
        (torch.Size([5, 7]), 'random numbers, 7', [])
    """
    failed = []
    for guess in _guesses(model):
        try:
            run(model, guess.make(1))
        except SpecError as error:
            failed.append((guess.said, error))
        else:
            return guess, failed
    return None, failed


def _guesses(model: nn.Module) -> Iterator[Guess]:
    sizes = [getattr(model, name, None) or {} for name in ("pretrained_cfg", "default_cfg")]
    for size in (cfg.get("input_size") for cfg in sizes if isinstance(cfg, dict)):
        if size:
            yield _numbers(model, tuple(size), own=True)
    yield from _of_transformers(model)
    holders = [
        one
        for one in model.modules()
        if isinstance(one, KNOWN) or any(p is not None and p.ndim > 1 for p in one._parameters.values())
    ]
    for layer in holders[:MOST_LAYERS]:
        yield from _of_layer(model, layer)


def _of_layer(model: nn.Module, layer: nn.Module) -> Iterator[Guess]:
    """What a model takes whose first layer this is."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        axes = len(layer.kernel_size)
        said = [one for name in SIDE_NAMES if isinstance(one := getattr(model, name, None), int)]
        for side in dict.fromkeys([*said, *SIDES]):
            yield _numbers(model, (layer.in_channels, *[side] * axes), own=side in said)
    elif isinstance(layer, LocallyConnected | LocallyConnectedTranspose):
        yield _numbers(model, (layer.in_channels, *layer.input_size), own=True)
    elif isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        yield _tokens(model, layer.num_embeddings)
    elif isinstance(layer, nn.RNNBase):
        yield _numbers(model, (TOKENS, layer.input_size))
    elif isinstance(layer, nn.MultiheadAttention):
        yield _numbers(model, (TOKENS, layer.embed_dim))
    else:  # the last axis of its weight is what most others take
        matrices = (p.shape[-1] for p in layer._parameters.values() if p is not None and p.ndim > 1)
        width = layer.in_features if isinstance(layer, nn.Linear) else next(matrices)
        for axes in ((), (TOKENS,)):
            yield _numbers(model, (*axes, width))


def _of_transformers(model: Any) -> Iterator[Guess]:
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    if config is None or main is None:
        return
    if main == "pixel_values":
        side = getattr(config, "image_size", 224)
        sides = (side, side) if isinstance(side, int) else tuple(side)
        image = _numbers(model, (getattr(config, "num_channels", 3), *sides), own=True)
        yield replace(image, make=lambda count: {main: image.make(count)})
    elif main == "input_ids":
        tokens = _tokens(model, config.get_text_config().vocab_size)
        yield replace(tokens, make=lambda count: {main: tokens.make(count)})
        yield replace(tokens, make=lambda count: {main: tokens.make(count), "decoder_input_ids": tokens.make(count)})


def _numbers(model: nn.Module, shape: tuple[int, ...], own: bool = False) -> Guess:
    like = next(model.parameters())
    dtype = like.dtype if like.is_floating_point() or like.is_complex() else torch.float32

    def make(count: int) -> Tensor:
        drawn = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), device="cpu")
        return drawn.to(like.device, dtype)

    return Guess(make, f"random numbers, {shape_text(shape)}", shape, own)


def _tokens(model: nn.Module, vocabulary: int) -> Guess:
    device = next(model.parameters()).device

    def make(count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(vocabulary, (count, TOKENS), generator=generator, device="cpu").to(device)

    return Guess(make, f"{TOKENS} random tokens of {vocabulary:,}")
