"""Lin 2022, SPIN: the tables and figures of its supplement."""

from collections.abc import Mapping
from typing import Any

from weightshare.experiments.jobs import Calculation, Job, Scale
from weightshare.experiments.printed.lin2022 import TABLES as PRINTED
from weightshare.experiments.studies.lin2022_convmixer import Arm, size_of, training
from weightshare.experiments.studies.search_space import DEPTH, STAGES, picture, staged
from weightshare.experiments.table import Metric, Table, single

NETWORK = "768/32/14/3"
TRAINED = {"top1": Metric("top-1")}
SIZE = {"params": Metric("stored numbers", "M", "low"), "flops": Metric("multiply-adds", "G", "low")}
COLUMNS = {"": TRAINED, "size": SIZE}
"""What is trained, and what is counted, of the paper's own network at every scale."""
ONE_SEED: Mapping[Scale, int] = {"smoke": 1, "small": 3, "paper": 1}
PROTOCOL: Mapping[Scale, str] = {
    "smoke": "Digits, one epoch, 8/4/2/3; counts are of the paper's network.",
    "small": "CIFAR-10, the first 2,500 training images of each class, 64/8/4/3, 6 epochs in batches of 128, one cosine, "
    "crops and flips alone, no smoothed labels, no dropout, float32. Counts are of the paper's network.",
    "paper": "RandAugment is kornia's; erased rectangles are black; AdamW's ε is 1e-8; one process of 256 images.",
}

FUSION: dict[str, tuple[str, Arm]] = {
    "unshared": ("ConvMixer 768/32/14/3, unshared", Arm()),
    "tied-2": ("tied from scratch at rate 2", Arm(2)),
    "random-first-2": ("the first of random weights", Arm(2, like="tied-2")),
    "random-mean-2": ("the mean of random weights", Arm(2, fuse="mean")),
    "first-2": ("the first of trained weights", Arm(2, start="unshared")),
    "fused-2": ("the mean of trained weights", Arm(2, fuse="mean", start="unshared")),
}


def fusion(row: str, column: str, scale: Scale) -> Job:
    """The job of a cell of table 3."""
    arm = FUSION[row][1]
    if column == "size":
        return counted(NETWORK, arm)
    return training(NETWORK, arm, row, column, scale)


def counted(size: str, arm: Arm) -> Calculation:
    """How much a network stores and computes, at every scale that of the paper."""
    arguments: dict[str, Any] = {"size": size, "rate": arm.rate, "where": arm.where}
    return Calculation(size_of, arguments, arguments, together=True)


TOPOLOGIES = {
    f"{count}-{slots}": Metric(f"topologies, P = {slots}, {name}", "log10", "")
    for slots in (8, 16, 32)
    for count, name in (("paper", "by the paper's formula"), ("exact", "exact"))
}


def topologies(row: str, column: str, scale: Scale) -> Calculation:
    """The job of a curve of figure 1."""
    arguments = {"stage": int(row.removeprefix("stage-")), "depth": DEPTH}
    return Calculation(staged, arguments, arguments)


TABLES = (
    Table(
        name="lin2022/table3",
        title="Weight fusion: does a start from trained weights help, and from random ones?",
        source="supplement, table 3",
        rows={row: title for row, (title, _) in FUSION.items()},
        columns=COLUMNS,
        job=fusion,
        printed=PRINTED["table3"],
        protocol=PROTOCOL,
        seeds=ONE_SEED,
        needs=lambda row: [name for name in (FUSION[row][1].start, FUSION[row][1].like) if name],
        note="Choosing the first of random weights is what tying from scratch does here, so these two rows are one "
        "run. A fused network has been trained twice as long in all, as in the paper.",
    ),
    Table(
        name="lin2022/figure1",
        title="How many topologies a network of 32 layers has, by the depth of its stages",
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
)
