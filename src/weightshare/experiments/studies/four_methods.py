"""All four methods on one task at equal stored numbers: networks, ways to share, and what a trained one really stores.

The network is isotropic and locally connected: eight equal residual blocks, each with a 3×3 kernel of its own at each
of 4×4 positions. So every axis can act on the same weights: layers are alike (depth), positions are alike (space), and
each weight has thousands of numbers (values). A share of `1/r` is reached by each method in its own way:

| | a half | a quarter | a sixteenth |
|---|---|---|---|
| nothing shared | 3/4 of the width, or 4 blocks | half the width, or 2 blocks | a quarter of the width |
| depth, hard | 4 slots | 2 slots | 2 slots of convolutions of twice the width |
| depth, soft | 4 templates | 2 templates | 2 templates of 256 values, or of convolutions of twice the width |
| positions | 8 classes, rank 8 | 4 classes, rank 4, a convolution of twice the width | a convolution, rank 1 |
| values | | 256 values | 4 values |

**Stored numbers** are bytes of all parameters on file divided by four, those of a float32: a codebook counts its
values, and its labels their packed bits over 32. Batch norm's running statistics are not counted.

Source: ours; Pogodin 2021, Lin 2022, Savarese 2019, Shakerinava 2023 and Elsayed 2020 for the methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
import torch
from torch import Tensor, nn

from weightshare.errors import SpecError
from weightshare.files.checkpoint import load, save, tensors
from weightshare.files.sizes import sizes
from weightshare.models.by_name import build
from weightshare.space.convert import plan_local
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer
from weightshare.space.lowrank import LowRank
from weightshare.surgery.count import macs
from weightshare.training.data import Augment, Prepare, load_data
from weightshare.training.localise import SleepPhase
from weightshare.training.loop import evaluate
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Cluster, Regularise
from weightshare.training.run import MODEL
from weightshare.training.share import Share
from weightshare.verbs import fold, share_

NETWORK = f"{__name__}:network"
SIDE, DEPTH = 4, 8
"""Positions along each axis, and blocks of the plain network."""
WEIGHTS = "blocks.*.conv.weight"
FINAL = "stored.safetensors"


class Block(nn.Module):
    """`x + conv(relu(norm(x)))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        return x + self.conv(self.norm(x).relu())


class Isotropic(nn.Module):
    """A stem that halves images to `4×4` positions, equal blocks, and a linear classifier of the mean."""

    def __init__(self, channels: int, depth: int, classes: int, in_channels: int, side: int) -> None:
        super().__init__()
        stride = side // (2 * SIDE)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 2 * stride - 1, stride, padding=stride - 1), nn.MaxPool2d(2)
        )
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(depth)))
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.norm(self.blocks(self.stem(x))).relu().mean((-2, -1)))


def network(
    channels: int,
    depth: int = DEPTH,
    positions: Literal["own", "all"] | list[int] | int = "own",
    classes: int = 10,
    in_channels: int = 3,
    size: tuple[int, int] = (32, 32),
) -> Isotropic:
    """Build the network.

    Args:
        channels: Of every block.
        depth: Blocks.
        positions: Whose kernels are stored: each position its `own`; one for `all`, a convolution; one for each class
            of positions of a period, `[2, 2]`; or mixtures of so many templates.
        classes: Outputs.
        in_channels: Of the images.
        size: Height and width of the images: 8 pixels, or a multiple.

    Raises:
        SpecError: If images have another size.
    """
    if size[0] != size[1] or size[0] % (2 * SIDE):
        raise SpecError(f"The network needs square images of a multiple of {2 * SIDE} pixels, got {tuple(size)}.")
    model = Isotropic(channels, depth, classes, in_channels, size[0])
    if positions == "all":
        for block in model.blocks:
            nn.init.kaiming_normal_(block.get_submodule("conv").get_parameter("weight"), mode="fan_out")
        return model
    plan_local(model, torch.zeros(1, in_channels, *size), "blocks.*.conv", 0, 0.0).apply_(model)
    for module in [one for one in model.modules() if isinstance(one, LocalLayer)]:
        _draw_(module, positions)
    if isinstance(positions, list):
        share_(model, Lattice((positions[0], positions[1])), WEIGHTS)
    elif isinstance(positions, int):
        share_(model, LowRank(positions), WEIGHTS)
    return model


def _draw_(layer: LocalLayer, positions: Literal["own", "all"] | list[int] | int) -> None:
    """Draw kernels that `positions` keeps as they are, each number with the variance of Kaiming's."""
    weight = layer.weight.detach()
    kernels = weight.flatten(0, 1)
    deviation = (2 / (9 * weight.shape[-1])) ** 0.5
    if isinstance(positions, list):
        labels = Lattice((positions[0], positions[1])).assignment(layer).labels
        mixed = nn.functional.one_hot(labels).to(weight.dtype)
    elif isinstance(positions, int):
        mixed = nn.functional.normalize(torch.randn(len(kernels), positions), dim=1)
    else:
        mixed = torch.eye(len(kernels))
    slots = torch.randn(mixed.shape[1], kernels[0].numel()) * deviation
    kernels.copy_((mixed @ slots).view_as(kernels))


@dataclass(frozen=True)
class Arm:
    """One way to share.

    Args:
        title: What it is, in words.
        share: Of the plain network's stored numbers: 1, 1/2, 1/4 or 1/16.
        family: Of the axis, for the picture.
        width: Channels, of those of the plain network.
        depth: Blocks; nothing for as many as come nearest to that share.
        positions: See `network`.
        tie: What layers share.
        codebook: What reads codebooks.
        sleep: When positions are pulled together.
        regularise: What drives values together.
        start: The row whose trained weights it starts from.
        finish: What is done to the trained network: kernels of a period's classes become one, or those of all
            positions, which leaves a convolution.
        retrained: Whether its schedule is a quarter as long, with a quarter of the learning rate.
        less: Channels that are left out besides, since a wider stem stores more.
    """

    title: str
    share: float
    family: str
    width: float = 1.0
    depth: int | None = DEPTH
    positions: Literal["own", "all"] | list[int] | int = "own"
    tie: list[Share] = field(default_factory=list)
    codebook: list[Cluster] = field(default_factory=list)
    sleep: list[SleepPhase] = field(default_factory=list)
    regularise: list[Regularise] = field(default_factory=list)
    start: str | None = None
    finish: Literal["", "classes", "convolution"] = ""
    retrained: bool = False
    less: int = 0


STRENGTH = 0.1
"""Of the regulariser in the row that values start from: it pulls the outermost weights by a tenth of `lr` in a step, of
which AdamW's own is at most about `lr`. Few weights merge there, since every step of AdamW tears them apart; 64 with a
rewinding of 0.9995 made one cluster of five sixths of all weights, and cost 6 points on 2,500 images."""


def _tied(rate: int, fuse: Literal["first", "mean"] = "first") -> list[Share]:
    return [Share(rate, fuse=fuse, where=WEIGHTS)]


def _mixed(templates: int) -> list[Share]:
    return [Share(templates=templates, where=WEIGHTS)]


def _asleep(period: int) -> list[SleepPhase]:
    return [SleepPhase(every=10, period=period)]


def _values(clusters: int, where: str = WEIGHTS) -> list[Cluster]:
    return [Cluster(clusters, where=where)]


ARMS: dict[str, Arm] = {
    "plain": Arm("nothing shared", 1, "nothing"),
    "plain-again": Arm("nothing shared, trained twice as long", 1, "nothing", start="plain"),
    "regularised": Arm(
        "nothing shared, values drawn together by R", 1, "nothing",
        regularise=[Regularise(strength=STRENGTH, where=WEIGHTS)],
    ),
    "narrower-2": Arm("narrower", 1 / 2, "nothing", 3 / 4, None),
    "shallower-2": Arm("fewer layers", 1 / 2, "nothing", depth=4),
    "tied-2": Arm("pairs of layers tied", 1 / 2, "depth, hard", tie=_tied(2)),
    "fused-2": Arm("pairs of trained layers fused", 1 / 2, "depth, hard", tie=_tied(2, "mean"), start="plain"),
    "templates-2": Arm("4 templates", 1 / 2, "depth, soft", tie=_mixed(4)),
    "classes-2": Arm("8 classes of positions", 1 / 2, "positions", positions=[4, 2]),
    "rank-2": Arm("kernels of rank 8", 1 / 2, "positions", positions=8),
    "narrower-4": Arm("narrower", 1 / 4, "nothing", 1 / 2, None),
    "shallower-4": Arm("fewer layers", 1 / 4, "nothing", depth=2),
    "tied-4": Arm("4 layers tied", 1 / 4, "depth, hard", tie=_tied(4)),
    "fused-4": Arm("4 trained layers fused", 1 / 4, "depth, hard", tie=_tied(4, "mean"), start="plain"),
    "templates-4": Arm("2 templates", 1 / 4, "depth, soft", tie=_mixed(2)),
    "classes-4": Arm("4 classes of positions", 1 / 4, "positions", positions=[2, 2]),
    "sleep-4": Arm("sleep, then 4 classes of positions", 1 / 4, "positions", sleep=_asleep(2), finish="classes"),
    "rank-4": Arm("kernels of rank 4", 1 / 4, "positions", positions=4),
    "codebook-4": Arm("256 values", 1 / 4, "values", codebook=_values(256), start="plain", retrained=True),
    "proximal-4": Arm(
        "R, then 256 values", 1 / 4, "values", codebook=_values(256), start="regularised", retrained=True
    ),
    "convolution-4": Arm("convolutions of twice the width", 1 / 4, "positions", 2, positions="all", less=1),
    "narrower-16": Arm("narrower", 1 / 16, "nothing", 1 / 4, None),
    "convolution-16": Arm("a convolution from the start", 1 / 16, "positions", positions="all"),
    "sleep-16": Arm("sleep, then a convolution", 1 / 16, "positions", sleep=_asleep(1), finish="convolution"),
    "rank-16": Arm("kernels of rank 1", 1 / 16, "positions", positions=1),
    "codebook-16": Arm("4 values", 1 / 16, "values", codebook=_values(4), start="plain", retrained=True),
    "proximal-16": Arm("R, then 4 values", 1 / 16, "values", codebook=_values(4), start="regularised", retrained=True),
    "tied-convolution-16": Arm(
        "4 convolutions of twice the width tied", 1 / 16, "two axes", 2, positions="all", tie=_tied(4), less=2
    ),
    "templates-convolution-16": Arm(
        "convolutions of twice the width, 2 templates", 1 / 16, "two axes", 2, positions="all", tie=_mixed(2), less=2
    ),
    "templates-values-16": Arm(
        "2 templates of 256 values", 1 / 16, "two axes", codebook=_values(256, "*templates"), start="templates-4",
        retrained=True,
    ),
}  # fmt: skip
"""By the name of a row: the way to share, and the share of the stored numbers as `-1/share`. A row comes after the one
that it starts from."""

SHARES = {1.0: "all", 1 / 2: "a half", 1 / 4: "a quarter", 1 / 16: "a sixteenth"}
NOWHERE = Path("runs")
CHANNELS = 64
RECIPE = Recipe(epochs=100, batch_size=128, lr=3e-3, weight_decay=0.05, augment=Augment(crop=4, flip=True))
PREPARE = Prepare()


def titled(row: str) -> str:
    """What a row is, and how much it stores."""
    arm = ARMS[row]
    return f"{SHARES[arm.share]}: {arm.title}"


def budget(share: float, channels: int) -> float:
    """How many numbers a row of a share may store: of stem, norms and head, which no row shares, and of the blocks."""
    return share * DEPTH * _weights(channels) + (147 + 1 + 2 * (DEPTH + 1) + 10) * channels + 10


def _weights(channels: int) -> int:
    """Of a block that shares nothing."""
    return SIDE**2 * 9 * channels**2


def settings(row: str, seed: int, runs: Path, channels: int = CHANNELS) -> RunConfig:
    """The configuration of a row.

    Args:
        row: One of `ARMS`.
        seed: Of the run, which names the run that it starts from.
        runs: Where runs lie.
        channels: Of the plain network.
    """
    arm = ARMS[row]
    width = round(arm.width * channels) - arm.less
    depth = arm.depth or round((budget(arm.share, channels) - budget(0, width)) / _weights(width))
    quarter: dict[str, Any] = {"epochs": RECIPE.epochs // 4, "lr": RECIPE.lr / 4} if arm.retrained else {}
    return RunConfig(
        NETWORK,
        model_args={"channels": width, "depth": depth, "positions": arm.positions},
        data="cifar10",
        prepare=PREPARE,
        init=None if arm.start is None else str(runs / f"{arm.start}-seed{seed}" / MODEL),
        share=arm.tie,
        codebook=arm.codebook,
        train=Recipe(**{**vars(RECIPE), "sleep": arm.sleep, "regularise": arm.regularise, **quarter}),
    )


def stored(row: str, config: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """What a row's trained network is worth, and what it stores once the row's last step is done.

    Args:
        row: One of `ARMS`.
        config: Of the run.
        summary: Of the run.

    Returns:
        `accuracy` in percent, `stored` numbers, `file` in KiB, and `macs` in millions of an image, without what makes
        weights of what is stored.
    """
    folder, finish = Path(config.out), ARMS[row].finish
    data = load_data(config.data, config.data_dir) if finish else None
    model = _trained(config)
    accuracy = summary["accuracy"]
    if data is not None:
        if finish == "classes":
            (phase,) = config.train.sleep
            share_(model, Lattice(phase.period), WEIGHTS)
        else:
            model = fold(model, tolerance=float("inf"))
        accuracy = evaluate(model, config.prepare(data).test)[1]
    path = folder / FINAL
    written = save(model, path)
    return {
        "accuracy": 100 * accuracy,
        "stored": stored_numbers(model, path),
        "file": written / 1024,
        "macs": _macs(config, model) / 1e6,
    }


def stored_numbers(model: nn.Module, path: Path) -> float:
    """Bytes of a model's parameters on file, over those of a float32.

    Args:
        model: Saved there.
        path: A file of `weightshare.save`.
    """
    buffers = {name for name, _ in model.named_buffers()}
    return sum(size.stored for size in sizes(path) if size.name not in buffers) / 4


def _trained(config: RunConfig) -> nn.Module:
    """The network of a finished run. Its file tells the shape of the data, which need not be read for it."""
    path = Path(config.out) / MODEL
    held = tensors(path)
    (in_channels, *size), classes = _image(held["stem.0.weight"]), len(held["head.weight"])
    return load(path, build(config.model, in_channels, classes, size, **config.model_args))


def _image(stem: Tensor) -> tuple[int, int, int]:
    """The shape of an image, by the kernel that first sees it."""
    side = (stem.shape[-1] + 1) // 2 * 2 * SIDE
    return stem.shape[1], side, side


def _macs(config: RunConfig, model: nn.Module) -> int:
    image = _image(model.get_parameter("stem.0.weight"))
    plain = network(**{**config.model_args, "positions": "own"}, in_channels=image[0], size=image[1:])
    return macs(plain, torch.zeros(1, *image))
