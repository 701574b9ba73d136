"""Lin 2022, SPIN: the tables and figures of its supplement.

Every network that the paper trains is trained on ImageNet. Counts are made of the paper's own networks at every scale,
so they stand beside the paper's; accuracies of smaller scales are those of smaller networks on smaller pictures.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from weightshare.analysis.pictures import COLOURS, INK, quiet
from weightshare.experiments.jobs import Calculation, Job, Scale, Training
from weightshare.experiments.printed.lin2022 import TABLES as PRINTED
from weightshare.experiments.studies.lin2022_convmixer import Arm, size_of, top1, training
from weightshare.experiments.studies.lin2022_deit import Vision
from weightshare.experiments.studies.lin2022_deit import counted as counted_vision
from weightshare.experiments.studies.lin2022_deit import training as vision_training
from weightshare.experiments.studies.lin2022_layers import heat_maps, measured, rows_of
from weightshare.experiments.studies.search_space import DEPTH, STAGES, picture, staged
from weightshare.experiments.table import Found, Metric, Table, single

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK = "768/32/14/3"
TOP1 = Metric("top-1")
SIZE = {"params": Metric("stored numbers", "M", "low"), "flops": Metric("multiply-adds", "G", "low")}
COLUMNS = {"": {"top1": TOP1}, "size": SIZE}
"""What is trained, and what is counted, of the paper's own network at every scale."""
SEEDS: Mapping[Scale, int] = {"smoke": 1, "small": 3, "paper": 1}
"""The paper prints one run."""
COUNTS = "Counts are of the paper's network."
SMALL = (
    "CIFAR-10, the first 1,000 training images of each class, {network}, {epochs} epochs in batches of 128, one "
    "cosine, crops and flips alone, no smoothed labels, no dropout, float32."
)
DRAWN = "RandAugment is kornia's; squares are cut at one scale; erased rectangles are black;"
PAPER = f"{DRAWN} AdamW's ε is 1e-8; one process of 256 images."
SMOKE = "Digits, one epoch, {network}."
CONVMIXER: Mapping[Scale, str] = {
    "smoke": f"{SMOKE.format(network='8/8/2/3')} {COUNTS}",
    "small": f"{SMALL.format(network='64/8/4/3', epochs=5)} {COUNTS}",
    "paper": PAPER,
}


def counted(size: str, arm: Arm) -> Calculation:
    """How much a ConvMixer stores and computes, at every scale that of the paper."""
    arguments: dict[str, Any] = {"size": size, "rate": arm.rate, "where": arm.where}
    return Calculation(size_of, arguments, arguments, together=True)


# Table 1: vision transformers.

VISION: dict[str, Vision] = {
    row: made
    for size in ("ti", "s")
    for row, made in {
        f"deit-{size}": Vision(size),
        f"deit-{size}-depth6": Vision(size, 6),
        f"deit-{size}-depth4": Vision(size, 4),
        **{f"ws-deit-{size}-{rate}": Vision(size, rate=rate) for rate in (2, 3)},
        **{f"ws-deit-{size}-{rate}-mean": Vision(size, 12, rate, "mean", f"deit-{size}") for rate in (2, 3)},
        **{
            f"ws-deit-{size}-{rate}-scalar": Vision(size, 12, rate, "scalar_weighted", f"deit-{size}")
            for rate in (2, 3)
            if size == "ti"
        },
    }.items()
}


def vision_title(made: Vision) -> str:
    """What a row of table 1 is."""
    name = f"DeiT-{made.size.capitalize()}"
    if made.rate is None:
        return f"{name}, {made.depth} blocks"
    fused = {"first": "from scratch", "mean": "mean of trained weights"}.get(made.fuse, "scalar weighted mean of them")
    return f"{name}, tied at rate {made.rate}, {fused}"


def vision(row: str, column: str, scale: Scale) -> Job:
    """The job of a cell of table 1."""
    made = VISION[row]
    return counted_vision(made) if column == "size" else vision_training(made, row, scale)


# Tables 2 and 3: what is shared, and what it starts from.

WEIGHTS = ["blocks.*.depthwise.weight", "blocks.*.pointwise.weight"]
PARTS: dict[str, tuple[str, Arm]] = {
    "unshared": ("ConvMixer 768/32/14/3, unshared", Arm()),
    "shared-bn-bias-dw-pw": ("all of a block is shared", Arm(2, where="blocks.*")),
    "shared-bias-dw-pw": ("all but batch norm", Arm(2, where=["blocks.*.depthwise", "blocks.*.pointwise"])),
    "shared-dw-pw": ("weights of both convolutions", Arm(2, where=WEIGHTS)),
    "shared-pw": ("pointwise convolutions", Arm(2)),
}
FUSION: dict[str, tuple[str, Arm]] = {
    "unshared": ("ConvMixer 768/32/14/3, unshared", Arm()),
    "tied-2": ("tied from scratch at rate 2", Arm(2)),
    "random-first-2": ("the first of random weights", Arm(2, like="tied-2")),
    "random-mean-2": ("the mean of random weights", Arm(2, fuse="mean")),
    "first-2": ("the first of trained weights", Arm(2, start="unshared")),
    "fused-2": ("the mean of trained weights", Arm(2, fuse="mean", start="unshared")),
}


def convmixer(arms: Mapping[str, tuple[str, Arm]], row: str, column: str, scale: Scale) -> Job:
    """The job of a cell of table 2 or 3."""
    arm = arms[row][1]
    return counted(NETWORK, arm) if column == "size" else training(NETWORK, arm, row, column, scale)


# Figure 1: the search space.

TOPOLOGIES = {
    f"{count}-{slots}": Metric(f"topologies, P = {slots}, {name}", "log10", "")
    for slots in (8, 16, 32)
    for count, name in (("paper", "by the paper's formula"), ("exact", "exact"))
}


def topologies(row: str, column: str, scale: Scale) -> Calculation:
    """The job of a curve of figure 1."""
    arguments = {"stage": int(row.removeprefix("stage-")), "depth": DEPTH}
    return Calculation(staged, arguments, arguments)


# Figure 2: label noise.

NOISES = ("0", "0.2", "0.4", "0.6")
NOISY: dict[str, tuple[str, Arm]] = {
    "unshared": ("ConvMixer 768/32/14/3, unshared", Arm()),
    "unshared-again": ("the unshared one, trained on", Arm(start="unshared")),
    "fused-2": ("tied at rate 2, the mean of trained weights", Arm(2, fuse="mean", start="unshared")),
}
SHORT_NOISE: Mapping[Scale, dict[str, Any]] = {"small": {"train.epochs": 8}}


def noisy(row: str, column: str, scale: Scale) -> Training:
    """The job of a point of figure 2; the trained weights that a row starts from have seen the same wrong labels."""
    measure = partial(top1, name=f"{column}/top1")
    return training(NETWORK, NOISY[row][1], row, column, scale, float(column), SHORT_NOISE, measure=measure)


def noise_picture(found: Found) -> "Figure":
    """Accuracy over label noise, a line for each network and a band from the least to the greatest seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for row, colour in zip(NOISY, COLOURS, strict=False):
        seeds = {noise: found[row, noise].values() for noise in NOISES if (row, noise) in found}
        values = {
            float(noise): held
            for noise, ones in seeds.items()
            if (held := [one.metrics[f"{noise}/top1"] for one in ones if one.metrics])
        }
        axes.plot([*values], [sum(one) / len(one) for one in values.values()], color=colour, label=row, marker=".")
        least, greatest = ([pick(one) for one in values.values()] for pick in (min, max))
        axes.fill_between([*values], least, greatest, color=colour, alpha=0.18, lw=0)
    axes.set(xlabel="label noise", ylabel="test accuracy (%)", xticks=[*map(float, NOISES)])
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    quiet(axes)
    return figure


# Figures 3 and 4: which layers are alike.

RATES = {f"rate-{rate}": rate for rate in (2, 4, 8)}
ALIKE = {
    "same": Metric("CKA with the same block", "", "", 3),
    "others": Metric("CKA with other blocks", "", "", 3),
}
PANELS = {"a": "512/16/14/9", "b": "768/32/14/3", "c": "1536/20/7/3"}
SHORT_PANELS: Mapping[Scale, dict[str, Any]] = {"small": {"train.epochs": 2}}


def vanilla(row: str, column: str, scale: Scale) -> Training:
    """The job of a panel of figure 3."""
    if row == "unshared":
        return training(NETWORK, Arm(), row, column, scale)
    return training(NETWORK, Arm(RATES[row]), row, column, scale, measure=measured, pictured=rows_of)


def fused(row: str, column: str, scale: Scale) -> Training:
    """The job of a panel of figure 4; a column is a network."""
    if row == "unshared":
        measure = partial(top1, name=f"{column}/top1")
        return training(PANELS[column], Arm(), row, column, scale, shorter=SHORT_PANELS, measure=measure)
    arm = Arm(RATES[row], fuse="mean", start="unshared")
    options: dict[str, Any] = {"measure": partial(measured, column=column), "pictured": rows_of}
    return training(PANELS[column], arm, row, column, scale, shorter=SHORT_PANELS, **options)


def after_unshared(row: str) -> list[str]:
    """The row that all others start from, or are compared with."""
    return [] if row == "unshared" else ["unshared"]


TABLES = (
    Table(
        name="lin2022/table1",
        title="Vision transformers: does a shared network beat a shallower one of its size?",
        source="supplement, table 1",
        rows={row: vision_title(made) for row, made in VISION.items()},
        columns=COLUMNS,
        job=vision,
        printed=PRINTED["table1"],
        protocol={
            "smoke": f"{SMOKE.format(network='widths 8 and 16')} {COUNTS}",
            "small": "CIFAR-10, the first 2,000 training images of each class, widths 32 and 64 in heads of 16, "
            "patches of 8 pixels, 2 epochs in batches of 64 at a learning rate of 0.001, gradients clipped at 1, crops "
            f"and flips alone, no smoothed labels, no block left out at random, float32. {COUNTS}",
            "paper": f"{DRAWN} one process of 255 images. Three copies of each image are in a batch, in 100 epochs; "
            "DeiT's sampler spreads them over 300.",
        },
        seeds=SEEDS,
        needs=lambda row: [start] if (start := VISION[row].start) else [],
        note="The caption says that all models come from DeiT-Ti; seven rows are DeiT-S. The scalars of the weighted "
        "mean are learnt, and so is all that is fused, until it is written out. A fused network has been trained twice "
        "as long in all.",
    ),
    Table(
        name="lin2022/table2",
        title="Which parts of a ConvMixer's blocks can be shared?",
        source="supplement, table 2",
        rows={row: title for row, (title, _) in PARTS.items()},
        columns=COLUMNS,
        job=partial(convmixer, PARTS),
        printed=PRINTED["table2"],
        protocol=CONVMIXER,
        seeds=SEEDS,
        note="Sharing batch norm shares its scale and shift; its running statistics stay each layer's own. Pointwise "
        "convolutions share their biases, too, in the last row: that is the paper's 11.02.",
    ),
    Table(
        name="lin2022/table3",
        title="Weight fusion: does a start from trained weights help, and from random ones?",
        source="supplement, table 3",
        rows={row: title for row, (title, _) in FUSION.items()},
        columns=COLUMNS,
        job=partial(convmixer, FUSION),
        printed=PRINTED["table3"],
        protocol=CONVMIXER,
        seeds=SEEDS,
        needs=lambda row: [name for name in (FUSION[row][1].start, FUSION[row][1].like) if name],
        note="Choosing the first of random weights is what tying from scratch does here, so these two rows are one "
        "run. A fused network has been trained twice as long in all, as in the paper.",
    ),
    Table(
        name="lin2022/figure1",
        title=f"How many topologies a network of {DEPTH} layers has, by the depth of its stages",
        source="supplement, figure 1 and equation 1",
        rows={f"stage-{stage}": f"stages of {stage} layer{'s' * (stage > 1)}" for stage in STAGES},
        columns=single(**TOPOLOGIES),
        job=topologies,
        protocol=dict.fromkeys(("smoke", "small", "paper"), "All is counted."),
        seeds={"smoke": 1, "small": 1, "paper": 1},
        picture=picture,
        note="Equation 1 as printed is 0 for every network; Ω_S(0, ·, P ≥ 0) is read as 1. The paper's formula counts "
        "maps that use exactly P weights too often; the exact numbers stand beside it.",
    ),
    Table(
        name="lin2022/figure2",
        title="Label noise: who learns wrong labels by heart?",
        source="supplement, figure 2",
        rows={row: title for row, (title, _) in NOISY.items()},
        columns={noise: {f"{noise}/top1": Metric(f"top-1, label noise {noise}")} for noise in NOISES},
        job=noisy,
        protocol={
            "smoke": SMOKE.format(network="8/8/2/3"),
            "small": SMALL.format(network="64/8/4/3", epochs=8),
            "paper": PAPER,
        },
        seeds=SEEDS,
        needs=after_unshared,
        picture=noise_picture,
        note="The figure's numbers are not printed, nor which noises it has. A fused network has been trained twice as "
        "long in all; the unshared one trained on, which the paper does not have, has been so, too.",
    ),
    Table(
        name="lin2022/figure3",
        title="Layers tied from scratch beside those of the unshared network",
        source="supplement, figure 3",
        rows={"unshared": "ConvMixer 768/32/14/3", **{row: f"tied at rate {rate}" for row, rate in RATES.items()}},
        columns=single(top1=TOP1, **ALIKE),
        job=vanilla,
        printed=PRINTED["fig3"],
        protocol={**CONVMIXER, "small": f"{SMALL.format(network='64/8/4/3', epochs=5)} At rate 8 one layer is left."},
        seeds=SEEDS,
        needs=after_unshared,
        picture=partial(heat_maps, titles={(row, ""): f"tied at rate {rate}" for row, rate in RATES.items()}),
    ),
    Table(
        name="lin2022/figure4",
        title="Layers fused from the unshared network's beside them",
        source="supplement, figure 4",
        rows={"unshared": "unshared", **{row: f"fused at rate {rate}" for row, rate in RATES.items()}},
        columns={
            panel: {
                f"{panel}/top1": Metric(f"top-1, panel {panel}"),
                **{f"{panel}/{name}": Metric(f"{one.title}, panel {panel}", "", "", 3) for name, one in ALIKE.items()},
            }
            for panel in PANELS
        },
        job=fused,
        printed={
            row: {f"{panel}/top1": PRINTED[f"fig4{panel}"][row]["top1"] for panel in PANELS}
            for row in ("unshared", *RATES)
        },
        protocol={
            "smoke": SMOKE.format(network="6/8/2/5, 8/8/2/3, 10/8/2/3"),
            "small": f"{SMALL.format(network='48/8/4/5, 64/8/4/3, 96/8/4/3', epochs=2)} At rate 8 one layer is left.",
            "paper": PAPER,
        },
        seeds=SEEDS,
        needs=after_unshared,
        picture=partial(
            heat_maps,
            titles={(row, panel): f"({panel}) fused at rate {rate}" for panel in PANELS for row, rate in RATES.items()},
        ),
        note=f"Panels a, b and c are {', '.join(PANELS.values())}, or smaller networks that stand for them.",
    ),
)
