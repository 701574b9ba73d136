"""Beyond the four papers: all four methods on one task, and what their neighbours do.

Numbers of neighbours' papers stand beside ours where FIELD.md has them; protocols are ours where `protocol` says so.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from weightshare.experiments.jobs import Calculation, Job, Scale, Training
from weightshare.experiments.printed import Printed
from weightshare.experiments.studies import filter_clusters, four_methods, low_rank
from weightshare.experiments.studies.four_methods_picture import picture as trade_off
from weightshare.experiments.table import Metric, Table, single
from weightshare.training.data import Augment, Prepare
from weightshare.training.distil import Distil
from weightshare.training.localise import Localise
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Regularise
from weightshare.training.run import MODEL, read_history
from weightshare.training.share import Share

PAPER = "beyond"
DIGITS: dict[str, Any] = {"data": "digits", "prepare.fraction": 0.2, "train.epochs": 1}
"""What every `smoke` changes."""
FIFTH: dict[str, Any] = {"prepare.fraction": 0.2}

FOUR: Mapping[Scale, dict[str, Any]] = {"smoke": DIGITS, "small": {**FIFTH, "train.epochs": 10}, "paper": {}}
FOUR_CHANNELS: Mapping[Scale, int] = {"smoke": 4, "small": 16, "paper": four_methods.CHANNELS}


def four(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the four methods' table."""
    deltas = dict(FOUR[scale])
    if scale != "paper":
        deltas["model_args"] = four_methods.settings(row, 0, four_methods.NOWHERE, FOUR_CHANNELS[scale]).model_args
        if four_methods.ARMS[row].retrained:
            deltas["train.epochs"] = max(1, deltas["train.epochs"] // 4)
    return Training(partial(four_methods.settings, row), row, deltas=deltas, measure=partial(four_methods.stored, row))


def four_needs(row: str) -> list[str]:
    """The row that a row starts from."""
    start = four_methods.ARMS[row].start
    return [] if start is None else [start]


FIRST = "1.weight"
"""The first layer of S-FC, and what makes it large."""
LASSO: dict[str, tuple[str, str, dict[str, Any]]] = {
    "s-conv": ("S-Conv: a convolution", "s-conv", {}),
    "s-local": ("S-Local: its locally connected twin", "s-conv", {"localise": [Localise("0", eps=0.0)]}),
    "s-fc": ("S-FC: its fully connected twin", "s-fc", {}),
    "l1": ("S-FC with ℓ1 (soft threshold)", "s-fc", {"regularise": [Regularise(l1=1e-5, where=FIRST)]}),
    "beta-lasso": (
        "S-FC with β-lasso",
        "s-fc",
        {"regularise": [Regularise("beta_lasso", strength=1e-5, beta=50, where=FIRST)]},
    ),
}
"""For each row what it is, the network, and what is set besides."""
LASSO_DELTAS: Mapping[Scale, dict[str, Any]] = {
    "smoke": DIGITS,
    "small": {**FIFTH, "prepare.pool": 2, "train.epochs": 60, "train.batch_size": 128},
    "paper": {},
}
LASSO_CHANNELS: Mapping[Scale, int] = {"smoke": 2, "small": 8, "paper": 64}


def lasso(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the β-lasso table: Shakerinava's protocol for the same networks."""
    _, network, options = LASSO[row]

    def settings(seed: int, runs: Path) -> RunConfig:
        recipe = Recipe(
            *(400, 512, 0.1, 0.0),
            warmup=0.0,
            clip=None,
            optimizer="sgd",
            augment=Augment(crop=4, flip=True, cutout=8),
            regularise=options.get("regularise", []),
        )
        return RunConfig(
            f"{network}:{LASSO_CHANNELS['paper']}",
            data="cifar10",
            localise=options.get("localise", []),
            train=recipe,
            precision="bf16-mixed",
        )

    deltas = {**LASSO_DELTAS[scale]}
    if scale != "paper":
        deltas |= {"model": f"{network}:{LASSO_CHANNELS[scale]}", "precision": "32-true"}
    return Training(settings, row, deltas=deltas, measure=lasso_measured)


def lasso_measured(config: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy, and how many weights of the first layer are 0."""
    found = {"accuracy": 100 * summary["accuracy"]}
    last = read_history(config.out)[-1]
    return found if "zero_share" not in last else {**found, "zeros": 100 * last["zero_share"]}


BLOCKS = ["blocks.*.attn.*.weight", "blocks.*.attn.*.bias", "blocks.*.mlp.*.weight", "blocks.*.mlp.*.bias"]
"""Of a transformer what every two blocks share; norms stay their own."""
MATRICES = ["blocks.*.attn.*.weight", "blocks.*.mlp.*.weight"]
VIT: dict[str, tuple[str, Share | None, bool]] = {
    "plain": ("nothing shared", None, False),
    "plain-distilled": ("nothing shared, taught by the row above", None, True),
    "shallower": ("half as many blocks", None, False),
    "tied": ("every two blocks tied", Share(2, where=BLOCKS), False),
    "tied-distilled": ("the same, taught", Share(2, where=BLOCKS), True),
    "scaled": ("each layer scales its output channels", Share(2, scale="channel", where=MATRICES), False),
    "scaled-distilled": ("the same, taught", Share(2, scale="channel", where=MATRICES), True),
    "lora": ("each layer adds a matrix of rank 4", Share(2, lora=4, where=MATRICES), False),
    "lora-distilled": ("the same, taught", Share(2, lora=4, where=MATRICES), True),
}
"""For each row what it is, what is shared, and whether the unshared network teaches it."""
DEIT_TINY = "Lin 2022, supplement, table 1: "
DEIT = Recipe(
    *(300, 256, 2.5e-4, 0.05),
    warmup=5 / 300,
    label_smoothing=0.1,
    clip=None,
    augment=Augment(flip=True, rand_augment=[2, 9], rand_augment_std=0.5, erase=0.25, mixup=0.8, cutmix=1.0),
)
VIT_DELTAS: Mapping[Scale, dict[str, Any]] = {
    "smoke": {
        "data": "digits",
        "image_size": None,
        "prepare.fraction": 0.2,
        "prepare.cut": None,
        "prepare.margin": 0,
        "prepare.normalise": "data",
        "train.epochs": 1,
        "train.augment": {},
        "precision": "32-true",
        "model_args": {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 4, "num_heads": 2},
    },
    "small": {
        "data": "cifar10",
        "image_size": None,
        "prepare.fraction": 0.2,
        "prepare.cut": None,
        "prepare.margin": 0,
        "prepare.normalise": "data",
        "precision": "32-true",
        "train.lr": 2e-3,
        "train.warmup": 0.1,
        "train.epochs": 12,
        "train.batch_size": 128,
        "train.augment": {"crop": 4, "flip": True},
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 6, "num_heads": 3},
    },
    "paper": {},
}


def vit(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the table of small vision transformers."""
    _, share, taught = VIT[row]

    def settings(seed: int, runs: Path) -> RunConfig:
        teacher = str(runs / f"plain-seed{seed}" / MODEL)
        distil = Distil(teacher, labels=0.0, logits=1.0, hidden=1.0) if taught else None
        return RunConfig(
            "timm:vit_tiny_patch16_224",
            {"depth": 6} if row == "shallower" else {},
            data="imagenet",
            image_size=256,
            prepare=Prepare(cut=224, margin=None, normalise="imagenet"),
            share=[] if share is None else [share],
            train=replace(DEIT, distil=distil),
            precision="bf16-mixed",
        )

    deltas = dict(VIT_DELTAS[scale])
    if row == "shallower" and deltas:
        deltas["model_args"] = {**deltas["model_args"], "depth": deltas["model_args"]["depth"] // 2}
    return Training(settings, row, deltas=deltas, measure=vit_measured)


def vit_measured(config: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy, and stored numbers in millions."""
    return {"accuracy": 100 * summary["accuracy"], "params": summary["stored"] / 1e6}


DIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "convolution": ("convolutions", {"positions": "one"}),
    **{f"rank-{rank}": (f"kernels of rank {rank}", {"positions": rank}) for rank in (1, 2, 3, 4)},
    "local": ("locally connected", {"positions": "own"}),
    "wider": ("convolutions of twice the width, which store about as much as rank 4", {"positions": "one", "wide": 2}),
}
"""For each row what it is, and what the network is given."""
DIAL_DELTAS: Mapping[Scale, dict[str, Any]] = {"smoke": DIGITS, "small": {**FIFTH, "train.epochs": 12}, "paper": {}}
DIAL_CHANNELS: Mapping[Scale, int] = {"smoke": 4, "small": 24, "paper": 64}
DIAL_RECIPE = Recipe(200, 128, 3e-3, 0.05, augment=Augment(crop=4, flip=True))


def dial(row: str, column: str, scale: Scale) -> Training:
    """The training of a row of the table of ranks."""

    def arguments(channels: int) -> dict[str, Any]:
        options = dict(DIAL[row][1])
        return {"channels": channels * options.pop("wide", 1), **options}

    def settings(seed: int, runs: Path) -> RunConfig:
        name = f"{low_rank.__name__}:{low_rank.network.__name__}"
        return RunConfig(name, arguments(DIAL_CHANNELS["paper"]), data="cifar10", train=DIAL_RECIPE)

    deltas = {**DIAL_DELTAS[scale]}
    if scale != "paper":
        deltas["model_args"] = arguments(DIAL_CHANNELS[scale])
    return Training(settings, row, deltas=deltas, measure=dial_measured)


def dial_measured(config: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy and stored numbers."""
    return {"accuracy": 100 * summary["accuracy"], "stored": summary["stored"]}


STRENGTHS = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0]
CLUSTER_DELTAS: Mapping[Scale, dict[str, Any]] = {
    "smoke": {**DIGITS, "model": "convmixer:8/2/2/3"},
    "small": {**FIFTH, "train.epochs": 8, "model": "convmixer:48/4/4/5"},
    "paper": {},
}


def clusters(row: str, column: str, scale: Scale) -> Job:
    """The training of the network whose filters are clustered, or the clustering."""
    if row == filter_clusters.BASE:

        def settings(seed: int, runs: Path) -> RunConfig:
            return RunConfig(filter_clusters.NETWORK, data="cifar10", train=four_methods.RECIPE)

        return Training(settings, row, deltas=CLUSTER_DELTAS[scale])
    paper = {"row": row, "strengths": STRENGTHS, "images": 2048}
    made = {**paper, "strengths": [1.0, 3.0], "images": 256} if scale == "smoke" else paper
    return Calculation(filter_clusters.path, made, paper, folder=True)


TABLES: tuple[Table, ...] = (
    Table(
        name="beyond/four-methods",
        title="All four methods on one task, at equal stored numbers",
        source="ours",
        rows={row: four_methods.titled(row) for row in four_methods.ARMS},
        columns=single(
            accuracy=Metric("test accuracy"),
            stored=Metric("stored numbers", "", "low", 0),
            file=Metric("file", "KiB", "low", 1),
            macs=Metric("multiply-adds", "M", "low", 2),
        ),
        job=four,
        needs=four_needs,
        picture=trade_off,
        protocol={
            "smoke": "Digits, one epoch, 4 channels.",
            "small": "16 channels instead of 64, 10 epochs instead of 100, 2 of retraining instead of 25, the first "
            "fifth of the training images.",
            "paper": "A protocol of ours: CIFAR-10, 64 channels at 4×4 positions, AdamW, 100 epochs, 25 of retraining.",
        },
        note="Every row stores its share within 3 %, what no row shares included. A fused network, one of values and "
        "`plain-again` have been trained before, as the row that they start from. Labels count as their bits over 32.",
    ),
    Table(
        name="beyond/beta-lasso",
        title="β-lasso: does a fully connected layer find local connections by itself?",
        source="Neyshabur 2020, Towards learning convolutions from scratch",
        rows={row: made[0] for row, made in LASSO.items()},
        columns=single(
            accuracy=Metric("test accuracy"),
            zeros=Metric("zeros of the first layer", "%", "high", 1),
        ),
        job=lasso,
        printed={"beta-lasso": {"accuracy": Printed(85.19, "abstract, arXiv; NeurIPS prints 84.50")}},
        protocol={
            "smoke": "Digits, one epoch, 2 channels.",
            "small": "Images pooled to 16×16, the first fifth of the training ones, 8 channels instead of 64, 60 "
            "epochs instead of 400, batches of 128 instead of 512, float32.",
            "paper": "The protocol of Shakerinava 2023 for these networks, with crops, flips and cutout instead of "
            "AutoAugment; λ = 1e-5 is ours, and it acts on the first layer alone.",
        },
    ),
    Table(
        name="beyond/minivit",
        title="A vision transformer whose blocks share in pairs: transforms of their own, and a teacher",
        source="Zhang 2022, MiniViT",
        rows={row: made[0] for row, made in VIT.items()},
        columns=single(accuracy=Metric("top-1"), params=Metric("stored numbers", "M", "low", 3)),
        job=vit,
        needs=lambda row: ["plain"] if VIT[row][2] else [],
        printed={
            row: {"accuracy": Printed(top1, f"{DEIT_TINY}{name}"), "params": Printed(params, f"{DEIT_TINY}{name}")}
            for row, name, params, top1 in (
                ("plain", "DeiT-Ti", 5.72, 72.55),
                ("shallower", "DeiT-Ti of depth 6", 3.05, 63.11),
                ("tied", "WS-DeiT-Ti, share rate 2", 3.05, 68.07),
            )
        }
        | {
            "scaled-distilled": {
                "accuracy": Printed(73.0, "README of MiniViT: Mini-DeiT-Ti, ImageNet"),
                "params": Printed(3.0, "README of MiniViT"),
            },
        },
        protocol={
            "smoke": "Digits, one epoch, two pairs of blocks 12 wide, nothing varied.",
            "small": "The first fifth of CIFAR-10 instead of ImageNet: six blocks 48 wide on patches of 8 pixels, 10 "
            "epochs in batches of 128, crops and flips, float32.",
            "paper": "DeiT's recipe without repeated images and stochastic depth, in batches of 256. The teacher is "
            "the unshared network, not a larger one; transforms are scales or low ranks of weights, not of attention; "
            "no relative positions.",
        },
        note="MiniViT transforms attention maps and adds a depthwise convolution before the MLP; here what a pair of "
        "blocks shares is scaled for each output channel, or has a matrix of rank 4 added.",
    ),
    Table(
        name="beyond/lrlc",
        title="Low-rank local connectivity: from a convolution to a locally connected layer",
        source="Elsayed 2020, Revisiting spatial invariance",
        rows={row: made[0] for row, made in DIAL.items()},
        columns=single(accuracy=Metric("test accuracy"), stored=Metric("stored numbers", "", "low", 0)),
        job=dial,
        protocol={
            "smoke": "Digits, one epoch, 4 channels.",
            "small": "24 channels instead of 64, 12 epochs instead of 200, the first fifth of the training images.",
            "paper": "A protocol of ours: CIFAR-10, three layers of 64 channels, AdamW, 200 epochs.",
        },
    ),
    Table(
        name="beyond/convex-clustering",
        title="Convex clustering of trained filters: how many can become one, and at what price",
        source="Shakerinava 2023, open questions; Chi & Lange 2015",
        rows={filter_clusters.BASE: "as trained", **filter_clusters.ROWS},
        columns=single(
            accuracy=Metric("test accuracy"),
            within=Metric("fewest filters within a point of accuracy", "%", "low", 1),
            half=Metric("accuracy nearest to half of the filters"),
            **{"half-filters": Metric("filters there", "%", "", 1)},
        ),
        job=clusters,
        needs=lambda row: [] if row == filter_clusters.BASE else [filter_clusters.BASE],
        picture=filter_clusters.picture,
        protocol={
            "smoke": "Digits, one epoch, ConvMixer 8/2/2/3, two strengths.",
            "small": "ConvMixer 48/4/4/5 instead of 256/8/2/5, 8 epochs instead of 100, the first fifth of the "
            "training images.",
            "paper": "A protocol of ours: CIFAR-10, ConvMixer 256/8/2/5, AdamW, 100 epochs.",
        },
    ),
)
