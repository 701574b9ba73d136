"""SPIN's vision transformers as jobs: DeiT's own training on ImageNet, and what smaller scales change of it.

All linear layers of the blocks share, weights and biases; norms stay each block's own. That gives the paper's counts.

Source: Lin 2022, supplement B and C; Touvron 2021 (DeiT), table 9, whose settings it follows. Differs: see
`lin2022_imagenet` for what varies images. DeiT's sampler has each image three times in a batch and a third of all in an
epoch; ours has all of them in an epoch, so 100 epochs are its 300. Batches have 255 images, which three divides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from weightshare.experiments.jobs import Calculation, Outcome, Scale, Training, folder_of
from weightshare.experiments.studies.lin2022_convmixer import FROM_SCRATCH, top1
from weightshare.models.by_name import build
from weightshare.surgery.count import count, macs
from weightshare.training.data import Augment, Prepare
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.run import MODEL
from weightshare.training.share import FusionName, Share
from weightshare.verbs import plan

LINEAR = ["blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"]
NAMES = {"ti": "timm:deit_tiny_patch16_224", "s": "timm:deit_small_patch16_224"}
REPEATS = 3
RECIPE = Recipe(
    epochs=300 // REPEATS,
    batch_size=255,
    lr=5e-4 * 256 / 512,
    weight_decay=0.05,
    warmup=5 / 300,
    label_smoothing=0.1,
    clip=None,
    augment=Augment(
        flip=True, rand_augment=[2, 27], rand_augment_std=1.5, erase=0.25, mixup=0.8, cutmix=1.0, repeats=REPEATS
    ),
)
SCHEDULE: Mapping[Scale, dict[str, Any]] = {
    "smoke": {"train.epochs": 1, "train.batch_size": 64, "train.augment": {}, "prepare.fraction": 0.2},
    "small": {
        "train.epochs": 2,
        "train.batch_size": 64,
        "train.augment": {"crop": 4, "flip": True},
        "prepare.fraction": 0.4,
    },
    "paper": {},
}
SIZES: Mapping[Scale, dict[str, dict[str, int]]] = {
    "smoke": {
        "ti": {"img_size": 8, "patch_size": 4, "embed_dim": 8, "num_heads": 2},
        "s": {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_heads": 4},
    },
    "small": {
        "ti": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2},
        "s": {"img_size": 32, "patch_size": 8, "embed_dim": 64, "num_heads": 4},
    },
    "paper": {"ti": {}, "s": {}},
}
DROP_PATH = 0.1


@dataclass(frozen=True)
class Vision:
    """A transformer of table 1.

    Args:
        size: Which DeiT.
        depth: Its blocks.
        rate: Share rate, or nothing.
        fuse: What a slot starts from.
        start: The row whose trained weights it starts from.
    """

    size: Literal["ti", "s"]
    depth: int = 12
    rate: int | None = None
    fuse: FusionName = "first"
    start: str | None = None

    @property
    def share(self) -> list[Share]:
        """What shares. Scalars that weigh a mean are learnt, so all that is fused is trained through."""
        through = self.fuse == "scalar_weighted"
        return [Share(self.rate, fuse=self.fuse, through=through, where=LINEAR)] if self.rate else []


def training(made: Vision, row: str, scale: Scale) -> Training:
    """The training of a transformer.

    Args:
        made: Which.
        row: Of the table.
        scale: Of the cell.
    """
    options = {"depth": made.depth, "drop_path_rate": DROP_PATH}

    def settings(seed: int, runs: Path) -> RunConfig:
        return RunConfig(
            NAMES[made.size],
            model_args=options,
            data="imagenet",
            image_size=256,
            prepare=Prepare(cut=224, margin=None, normalise="imagenet"),
            init=None if made.start is None else str(folder_of(runs, made.start, "", seed) / MODEL),
            share=made.share,
            train=RECIPE,
            precision="16-mixed",
        )

    deltas: dict[str, Any] = {}
    if scale != "paper":
        network = {"model_args": {"depth": made.depth, **SIZES[scale][made.size]}}
        deltas = {**FROM_SCRATCH[scale], "train.lr": 1e-3, "train.clip": 1.0, **network, **SCHEDULE[scale]}
    return Training(settings, row, deltas=deltas, measure=top1)


def counted(made: Vision) -> Calculation:
    """How much a transformer stores and computes, at every scale that of the paper."""
    arguments = {"size": made.size, "depth": made.depth, "rate": made.rate}
    return Calculation(size_of, arguments, arguments, together=True)


def size_of(seeds: Sequence[int], size: str, depth: int, rate: int | None = None) -> dict[int, Outcome]:
    """Stored numbers in millions and multiply-adds in billions of a DeiT on ImageNet; nothing is allocated."""
    with torch.device("meta"):
        model, image = build(NAMES[size], depth=depth), torch.empty(1, 3, 224, 224)
    stored = plan(model, Share(rate, where=LINEAR).spec, LINEAR).stored_after if rate else count(model).stored
    outcome = Outcome({"params": stored / 1e6, "flops": macs(model, image) / 1e9}, {"stored": stored})
    return dict.fromkeys(seeds, outcome)
