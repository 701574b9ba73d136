"""The folded model of a run: its file, and a model card beside it that says what the run knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from weightshare.files.card import write_card
from weightshare.files.checkpoint import save
from weightshare.planning import Plan
from weightshare.training.data import Data
from weightshare.training.environment import environment
from weightshare.training.recipe import RunConfig


def save_folded(
    folded: nn.Module,
    path: str | Path,
    config: RunConfig,
    data: Data,
    plans: Sequence[Plan],
    accuracy: float,
    difference: float,
) -> int:
    """Write a folded model and its card.

    Args:
        folded: The folded model, on the CPU.
        path: Of the file.
        config: Of the run.
        data: Of the run.
        plans: What was shared.
        accuracy: Of the folded model on the test images, from 0 to 1.
        difference: Largest change of an output by folding.

    Returns:
        Size of the file in bytes, without the card.

    Raises:
        SharingError: As `weightshare.save`.
    """
    size = save(folded, path)
    given: dict[str, Any] = {"in_channels": data.channels, "classes": data.classes, "size": tuple(data.size)}
    options = "".join(f", {key}={value!r}" for key, value in {**given, **config.model_args}.items())
    recipe, machine = config.train, environment()
    write_card(
        folded,
        path,
        plans,
        title=f"{config.model} on {data.name}, folded",
        build=f"from weightshare.models.by_name import build\n\nmodel = build({config.model!r}{options})",
        example_input=data.example,
        measured={
            f"accuracy on {len(data.test):,} test images": f"{accuracy:.2%}",
            "largest change of an output by folding": f"{difference:.1e}",
        },
        training={
            "model": f"`{config.model}`",
            "data": f"{data.name}, {len(data.train):,} training images, {data.classes} classes",
            "epochs, batch size": f"{recipe.epochs}, {recipe.batch_size}",
            "learning rate, weight decay": f"{recipe.lr:g}, {recipe.weight_decay:g}",
            "seed": str(config.seed),
            "whole configuration": "`config.yaml` of the run",
            "weightshare, torch": f"{machine['packages']['weightshare']}, {machine['packages']['torch']}",
            "commit": str(machine["commit"]),
        },
        data=data.name,
    )
    return size
