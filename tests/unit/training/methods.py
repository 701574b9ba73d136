"""Every method on one small network without batch norm and dropout, as `fit` trains it: what other tests go through."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import weightshare as ws
from weightshare.depth.transform import LoRA
from weightshare.models import convmixer
from weightshare.training.data import Data, Prepare, load_data
from weightshare.training.distil import Distil
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.loop import History, fit
from weightshare.training.recipe import Recipe
from weightshare.training.regularise import Regularise

if TYPE_CHECKING:
    from lightning_fabric import Fabric

POINTWISE, DEPTHWISE = "blocks.*.pointwise", "blocks.*.depthwise"
RECIPE = Recipe(epochs=2, batch_size=49, lr=0.2, warmup=0.0, optimizer="sgd", momentum=0.9, weight_decay=0.01)
"""A batch that two processes cannot halve; SGD, since AdamW makes much of gradients that are rounding alone."""


@functools.cache
def digits() -> Data:
    """A part of the digits, 4 steps an epoch."""
    return Prepare(fraction=0.14, validation=0.05)(load_data("digits"))


def network() -> nn.Module:
    """A ConvMixer whose norms know one image at a time."""
    torch.manual_seed(1)
    model = convmixer(8, 4, 2, 3, classes=10, in_channels=1)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.GroupNorm(2, module.num_features))
    return model


def grouped(**_: object) -> nn.Module:
    """The same for a configuration, which says what data it is for."""
    return network()


@dataclass(frozen=True)
class Method:
    """How a network is changed, and what its recipe has besides."""

    change: Callable[[nn.Module], object] = lambda model: None
    recipe: Recipe = RECIPE


def shares(spec: ws.sharing.Spec, where: str = POINTWISE, local: bool = False, **recipe: object) -> Method:
    def change(model: nn.Module) -> None:
        if local:
            localised(model)
        ws.share_(model, spec, where)

    return Method(change, replace(RECIPE, **recipe))


def localised(model: nn.Module) -> None:
    torch.manual_seed(2)
    Localise(where=DEPTHWISE).apply_(model, digits().example)


def regularised(**settings: object) -> Method:
    where = "patches" if settings.get("granularity") == "filter" else "head"
    return Method(recipe=replace(RECIPE, regularise=[Regularise(where=f"{where}.weight", **settings)]))


def sleeping(**settings: object) -> Method:
    return Method(localised, replace(RECIPE, sleep=[SleepPhase(every=3, **settings)]))


METHODS: dict[str, Method] = {
    "plain": Method(),
    "adamw": Method(recipe=replace(RECIPE, optimizer="adamw", momentum=0.0, lr=0.01)),
    "adamw, fused": Method(recipe=replace(RECIPE, optimizer="adamw", momentum=0.0, lr=0.01, fused=True)),
    "tie, mean": shares(ws.Tie(rate=2, fuse=ws.mean)),
    "tie, mean gradient": shares(ws.Tie(rate=2, fuse=ws.mean), lr_scale="mean"),
    "tie, own LoRA": shares(ws.Tie(rate=2, fuse=ws.mean, own=LoRA(1))),
    "trained through": shares(ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted))),
    "templates": shares(ws.Templates(2)),
    "templates, similarity": shares(
        ws.Templates(2), regularise=[Regularise(kind="layer_similarity", strength=0.1, warmup=0.5)]
    ),
    "lattice": shares(ws.Lattice(), DEPTHWISE, local=True),
    "low rank": shares(ws.LowRank(2), DEPTHWISE, local=True),
    "codebook": shares(ws.Codebook(5)),
    "sleep": sleeping(),
    "sleep, half": sleeping(strength=0.5),
    "sleep, hebbian": sleeping(mode="hebbian", iterations=20, noise=0.1),
    "proximal": regularised(strength=1e-3),
    "proximal, l1 and rewind": regularised(strength=1e-3, l1=1e-3, rewind=0.9),
    "proximal, every third step": regularised(strength=1e-3, every=3),
    "proximal, rows": regularised(strength=1e-2, granularity="row"),
    "proximal, filters": regularised(strength=1e-2, granularity="filter"),
    "subgradient": regularised(kind="subgradient", strength=1e-3),
    "beta-lasso": regularised(kind="beta_lasso", strength=1e-3),
    "distilled": Method(
        lambda model: ws.share_(model, ws.Tie(rate=2), POINTWISE), replace(RECIPE, distil=Distil("teacher", hidden=0.5))
    ),
}


def trained(name: str, fabric: "Fabric", folder: Path | None = None, **options: object) -> tuple[nn.Module, History]:
    """Train the network by a method; the model as it then is, and its history."""
    method = METHODS[name]
    model = network()
    method.change(model)
    teacher = network() if method.recipe.distil else None
    return model, fit(model, digits(), method.recipe, 3, folder, fabric, teacher=teacher, **options)
