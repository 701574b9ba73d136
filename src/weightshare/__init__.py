"""Weight sharing for any `nn.Module`: change which connections read the same stored number.

import weightshare as ws

plan = ws.plan(model, ws.Tie(rate=2), where="blocks.*.mlp")
print(plan)
plan.apply_(model)
...                                  # train as ever
ws.save(ws.fold(model), "small.safetensors")
"""

from typing import TYPE_CHECKING

from weightshare.analysis.inspecting import inspect
from weightshare.analysis.report import report
from weightshare.depth.fuse import channel_weighted, first, mean, scalar_weighted, through, weighted_mean
from weightshare.depth.suggest import suggest
from weightshare.depth.templates import Templates
from weightshare.depth.tie import Tie
from weightshare.depth.topology import random, sequential, strided, uniform
from weightshare.errors import SharingError
from weightshare.files.checkpoint import load, save, tensors
from weightshare.optimizer import check, param_groups
from weightshare.planning import Plan
from weightshare.space.lattice import Lattice
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from weightshare.space.lowrank import LowRank
from weightshare.space.plasticity import Hebbian
from weightshare.space.sleep import Sleep
from weightshare.values.binned import prox_pairwise_binned
from weightshare.values.codebook import Codebook
from weightshare.values.pairwise import pairwise_penalty
from weightshare.values.prox import prox_pairwise
from weightshare.values.proximal import Proximal
from weightshare.verbs import fold, localize_, plan, retie_, share_, unshare_

if TYPE_CHECKING:
    from weightshare import models

__version__ = "0.1.0"

__all__ = [
    "Codebook",
    "Hebbian",
    "Lattice",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LocallyConnected3d",
    "LowRank",
    "Plan",
    "Proximal",
    "SharingError",
    "Sleep",
    "Templates",
    "Tie",
    "channel_weighted",
    "check",
    "first",
    "fold",
    "inspect",
    "load",
    "localize_",
    "mean",
    "models",
    "pairwise_penalty",
    "param_groups",
    "plan",
    "prox_pairwise",
    "prox_pairwise_binned",
    "random",
    "report",
    "retie_",
    "save",
    "scalar_weighted",
    "sequential",
    "share_",
    "strided",
    "suggest",
    "tensors",
    "through",
    "uniform",
    "unshare_",
    "weighted_mean",
]


def __getattr__(name: str) -> object:
    """Load `weightshare.models` on first use: it is for experiments, not for sharing."""
    if name == "models":
        from importlib import import_module

        return import_module("weightshare.models")
    raise AttributeError(f"module 'weightshare' has no attribute {name!r}")
