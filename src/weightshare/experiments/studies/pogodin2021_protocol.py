"""The trainings of Pogodin 2021, tables 1 to 12: convolutions, local layers, data translation and sleep phases.

A row is a network and what regularises it:

| row | network |
|---|---|
| `conv` | convolutional |
| `lc` | every convolution locally connected |
| `lc-reps4`, `lc-reps8`, `lc-reps16` | so, and each image several times in a batch, cropped by itself |
| `lc-ws1`, `lc-ws10`, `lc-ws100` | so, and weights shared in a sleep phase every 1, 10 or 100 batches |
| `first-conv`, `first-conv-ws1`, ... | as `lc`, `lc-ws1`, ..., with a convolutional first layer: ImageNet alone |

Source: Pogodin 2021, section 5 and appendix B. Differs: norms and biases get no weight decay (see
`weightshare.param_groups`), of which the text says nothing. On ImageNet, squares are cut from places between pixels,
too; what follows the first layer is our reading (see `models.resnet`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from weightshare.errors import ConfigError
from weightshare.experiments.printed.pogodin2021 import ACCURACY, IMAGENET, IMAGENET_RATES, RATES, SPREAD
from weightshare.training.data import Augment, Prepare, Split
from weightshare.training.localise import Localise, SleepPhase
from weightshare.training.recipe import Recipe, RunConfig

PAPER = "pogodin2021"
RECIPE = Recipe(epochs=200, batch_size=512, warmup=0.0, clip=None, schedule="step", fused=True)


@dataclass(frozen=True)
class Row:
    """What a row of the tables does to the convolutional network and its data.

    Args:
        localise: Whether convolutions become locally connected.
        keep_first: How many of them, from the input, do not.
        repeats: Copies of each image in a batch.
        sleep_every: Batches between two sleep phases; nothing for none.
    """

    localise: bool = True
    keep_first: int = 0
    repeats: int = 1
    sleep_every: int | None = None


ROWS: dict[str, Row] = {
    "conv": Row(localise=False),
    "lc": Row(),
    **{f"lc-reps{count}": Row(repeats=count) for count in (4, 8, 16)},
    **{f"lc-ws{every}": Row(sleep_every=every) for every in (1, 10, 100)},
    "first-conv": Row(keep_first=1),
    **{f"first-conv-ws{every}": Row(keep_first=1, sleep_every=every) for every in (1, 10, 100)},
}


@dataclass(frozen=True)
class Task:
    """A data set of the paper.

    Args:
        model: Its network, by name.
        data: Its name.
        column: Where its learning rate is in `RATES`; nothing for ImageNet, which has its own.
        accuracies: Where its accuracies are in `ACCURACY`: top-1, and top-5 where it has one.
        image_size: Shorter side that images are brought to, or nothing where they have one size.
        cut: Side of the square that a network sees, where that is not the whole image.
        flip: Whether half of the training images are mirrored.
        batch_size: Images in a step.
        validation: Share of the training images that settings were chosen on.
        tuning_epochs: Of the trainings that settings were chosen by.
        tuning_milestones: Their epochs after which the learning rate falls.
    """

    model: str
    data: str
    column: int | None
    accuracies: tuple[int, ...]
    image_size: int | None = None
    cut: int | None = None
    flip: bool = False
    batch_size: int = 512
    validation: float = 0.1
    tuning_epochs: int = 200
    tuning_milestones: tuple[int, int] = (100, 150)


SMALL, LARGE = "resnet20:16/32/64", "resnet18:32/64/128/256"
TASKS: dict[str, Task] = {
    "cifar10": Task(SMALL, "cifar10", 0, (0,)),
    "cifar100": Task(SMALL, "cifar100", 1, (1, 2)),
    "tiny-imagenet": Task(SMALL, "tiny-imagenet", 2, (3, 4), cut=48, tuning_epochs=50, tuning_milestones=(25, 37)),
    "imagenet": Task(
        LARGE, "imagenet", None, (0, 1), 256, 224, True, 256, 10 / 1281, tuning_epochs=20, tuning_milestones=(10, 15)
    ),
}


@dataclass(frozen=True)
class Cell:
    """One cell of the tables: how it was trained, and what came out, in percent.

    Args:
        lr: Learning rate.
        weight_decay: Weight decay.
        accuracy: Top-1, and top-5 where the paper has it; the mean over five runs, one of ImageNet.
        spread: The highest less the lowest of these runs; nothing for ImageNet.
    """

    lr: float
    weight_decay: float
    accuracy: tuple[float, ...]
    spread: tuple[float, ...]


def cell(row: str, dataset: str, padding: int | None) -> Cell:
    """What the paper prints for a row.

    Args:
        row: See the module.
        dataset: One of `TASKS`.
        padding: 0, 4 or 8 pixels; nothing for ImageNet.

    Raises:
        ConfigError: If the paper has no such cell.

    Example:
        >>> cell("lc-ws10", "cifar100", 4)
        Cell(lr=0.0005, weight_decay=0.01, accuracy=(55.7, 80.9), spread=(1.1, 0.3))
    """
    task = _task(dataset)
    if task.column is None:
        if padding is not None or row not in IMAGENET:
            raise ConfigError(
                f"{dataset} has no row {row!r} with padding={padding}: need nothing, and {_of(IMAGENET)}."
            )
        return Cell(*IMAGENET_RATES[row], IMAGENET[row], ())
    if padding not in RATES:
        raise ConfigError(f"{dataset} has no table of padding={padding}: need one of {_of(RATES)}.")
    if row not in RATES[padding]:
        raise ConfigError(f"{dataset} has no row {row!r} with padding={padding}: need one of {_of(RATES[padding])}.")
    accuracy, spread = (tuple(table[padding][row][at] for at in task.accuracies) for table in (ACCURACY, SPREAD))
    return Cell(*RATES[padding][row][task.column], accuracy, spread)


def config(row: str, dataset: str, padding: int | None, seed: int, out: str | Path) -> RunConfig:
    """The configuration of one training.

    Args:
        row: See the module.
        dataset: One of `TASKS`.
        padding: 0, 4 or 8 pixels; nothing for ImageNet.
        seed: Of the run.
        out: Folder of all runs.

    Raises:
        ConfigError: If the paper has no such cell.

    Example:
        >>> made = config("lc-ws10", "tiny-imagenet", 4, seed=0, out="runs")
        >>> made.out, made.train.lr, made.prepare.cut, made.train.sleep[0].every
        ('runs/tiny-imagenet-pad4-lc-ws10-seed0', 0.001, 48, 10)
    """
    task, printed, shape = _task(dataset), cell(row, dataset, padding), ROWS[row]
    augment = Augment(flip=task.flip, repeats=shape.repeats)
    if task.cut is None and padding:
        augment = replace(augment, crop=padding, pad="mean")
    prepare = Prepare()
    if task.cut is not None:
        prepare = Prepare(cut=task.cut, margin=padding, normalise="imagenet")
    return RunConfig(
        task.model,
        data=task.data,
        prepare=prepare,
        image_size=task.image_size,
        localise=[Localise(keep_first=shape.keep_first)] if shape.localise else [],
        train=replace(
            RECIPE,
            lr=printed.lr,
            weight_decay=printed.weight_decay,
            batch_size=task.batch_size,
            augment=augment,
            channels_last=True,
            sleep=[SleepPhase(shape.sleep_every)] if shape.sleep_every else [],
        ),
        seed=seed,
        precision="16-mixed",
        out=str(Path(out) / f"{dataset}{'' if padding is None else f'-pad{padding}'}-{row}-seed{seed}"),
    )


def tuned(config: RunConfig, dataset: str, lr: float, weight_decay: float) -> RunConfig:
    """The configuration of a training that settings are chosen by: on held-out training images, with fewer epochs.

    Args:
        config: The configuration of the row.
        dataset: One of `TASKS`.
        lr: Of the grid; see `printed.pogodin2021.GRIDS`.
        weight_decay: Likewise.

    Source: Pogodin 2021, sections 5, B.1 and B.2. Differs: the same number of images of each class is held out, the
        last ones of it; the text does not say which.
    """
    task = _task(dataset)
    milestones = [epoch / task.tuning_epochs for epoch in task.tuning_milestones]
    return replace(
        config,
        prepare=replace(config.prepare, validation=task.validation),
        train=replace(config.train, epochs=task.tuning_epochs, milestones=milestones, lr=lr, weight_decay=weight_decay),
        out=f"{config.out}-lr{lr:g}-wd{weight_decay:g}",
    )


def accuracies(model: nn.Module, split: Split, counts: Sequence[int] = (1, 5)) -> tuple[float, ...]:
    """How often the right class is among the first so many, as fractions; the model stays in evaluation mode.

    Args:
        model: On the device of the split.
        split: What it is measured on.
        counts: Of classes, each at most as many as there are: 1 for top-1, 5 for top-5.

    Example:
        >>> from weightshare.training.data import load_data
        >>> accuracies(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), load_data("digits").test, counts=(10,))
        (1.0,)
    """
    model.eval()
    right = torch.zeros(len(counts), dtype=torch.int64)
    with torch.no_grad():
        for images, labels in split.batches(torch.arange(len(split)).split(512)):
            found = model(split.normalised(images)).topk(max(counts)).indices == labels[:, None]
            right += torch.stack([found[:, :count].sum() for count in counts]).cpu()
    return tuple((right / len(split)).tolist())


def _task(dataset: str) -> Task:
    if dataset not in TASKS:
        raise ConfigError(f"There is no data set {dataset!r}: need one of {_of(TASKS)}.")
    return TASKS[dataset]


def _of(known: dict) -> str:
    return ", ".join(map(str, known))
