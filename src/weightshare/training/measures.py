"""How far a model shares at the end of an epoch, along each axis: what a row of a run's history has besides losses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from weightshare.depth.lsm import layer_similarity, mean_similarity, mixtures
from weightshare.hooks import Handle
from weightshare.space.layer import LocalLayer
from weightshare.space.measure import space_sharing
from weightshare.surgery.shards import is_unit, settle_
from weightshare.training.attached import shared
from weightshare.training.snapshot import NOISE, SIMILARITY


def measured(model: nn.Module, hooks: Sequence[Handle]) -> dict[str, float]:
    """What can be said of this model and of what is attached to its optimizer; every process of a run calls it.

    Args:
        model: Bare; of a sharded one each unit is gathered for this.
        hooks: Handles of the regularisers, among others.

    Returns:
        Fractions of the regularised weights and their penalty, noise over signal in local layers, mean similarity of
        layers that mix templates: those that there are.
    """
    return {**shared(hooks), **_shared_in_space(model), **_alike(model)}


def _shared_in_space(model: nn.Module) -> dict[str, float]:
    """How far local layers are from sharing: noise over signal, which is 0 where they do, averaged over layers."""
    with _unsharded(model):
        rows = [space_sharing(layer).noise for layer in model.modules() if isinstance(layer, LocalLayer)]
    if not rows:
        return {}
    return {key: sum(noise) / len(rows) for key, noise in zip(NOISE, zip(*rows, strict=True), strict=True)}


def _alike(model: nn.Module) -> dict[str, float]:
    """How far layers that mix templates are one: the mean of the layer similarity matrix over pairs."""
    return {SIMILARITY[0]: mean_similarity(layer_similarity(model))} if mixtures(model) else {}


@contextmanager
def _unsharded(model: nn.Module) -> Iterator[None]:
    """Have the whole parameters of a sharded model in their places, for what is decoded from them."""
    for module in model.modules():
        if is_unit(module):
            unit: Any = module
            unit.unshard()
    try:
        yield
    finally:
        settle_(model)
