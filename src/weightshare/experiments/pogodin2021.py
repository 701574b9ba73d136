"""Pogodin 2021, dynamic weight sharing over positions: its tables and figures.

| row | network |
|---|---|
| `conv` | convolutional |
| `lc` | every convolution locally connected |
| `lc-reps4`, `lc-reps8`, `lc-reps16` | so, and each image several times in a batch, cropped by itself |
| `lc-ws1`, `lc-ws10`, `lc-ws100` | so, and weights shared in a sleep phase every 1, 10 or 100 batches |
| `first-conv`, `first-conv-ws1`, ... | as `lc`, `lc-ws1`, ..., with a convolutional first layer: ImageNet alone |
"""

from weightshare.experiments.jobs import Scale, Training
from weightshare.experiments.printed import pogodin2021 as printed
from weightshare.experiments.studies.pogodin2021_scales import training
from weightshare.experiments.table import Metric, Table, no_job

PAPER = "pogodin2021"

KINDS = {
    "conv": "convolutions",
    "lc": "locally connected",
    "lc-reps4": "so, each image 4 times in a batch",
    "lc-reps8": "so, 8 times",
    "lc-reps16": "so, 16 times",
    "lc-ws1": "locally connected, sleep after every batch",
    "lc-ws10": "so, after every 10 batches",
    "lc-ws100": "so, after every 100 batches",
    "first-conv": "locally connected but for the first layer",
    "first-conv-ws1": "so, sleep after every batch",
    "first-conv-ws10": "so, after every 10 batches",
    "first-conv-ws100": "so, after every 100 batches",
}
SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "TinyImageNet", "imagenet": "ImageNet"}

REDUCED = (
    "A third of the blocks; images of half the side, so half the padding; the first fiftieth of each class's images, "
    "112 passes (7 epochs of 16) in batches of 64, as many steps with repeats as without; higher learning rates; "
    "float32."
)
TRAININGS = {
    "smoke": "Digits, one epoch of a fifth of them, a block a stage of 2, 3 and 5 channels.",
    "small": REDUCED,
    "paper": "No weight decay of norms and biases. Text and tables leave open what else is not decayed.",
}


def accuracies(*names: str) -> dict[str, dict[str, Metric]]:
    """Columns of accuracies, for data sets by name, each beside its difference to the convolutional network."""
    columns: dict[str, dict[str, Metric]] = {}
    for name in names:
        columns[name] = {}
        for top in ("top1",) if name == "cifar10" else ("top1", "top5"):
            title = f"{SETS[name]} top-{top[-1]}"
            columns[name] |= {f"{name}/{top}": Metric(title), f"{name}/{top}-diff": Metric(f"{title}, less conv")}
    return columns


SMALL_SETS = ("cifar10", "cifar100", "tiny-imagenet")


def _rows(table: str) -> dict[str, str]:
    return {row: KINDS[row] for row in printed.TABLES[table]}


def _padded(number: int, padding: int) -> Table:
    def job(row: str, column: str, scale: Scale) -> Training:
        return training(row, column, padding, scale)

    key = f"table{number}"
    return Table(
        name=f"{PAPER}/{key}",
        title=f"Convolutions, local layers, data translation and sleep: images padded by {padding}",
        source=f"table {number}",
        rows=_rows(key),
        columns=accuracies(*SMALL_SETS),
        job=job,
        printed=printed.TABLES[key],
        protocol=TRAININGS,
        against="conv",
    )


PADDED = tuple(_padded(number, padding) for number, padding in ((3, 0), (4, 4), (5, 8)))

MAIN = Table(
    name=f"{PAPER}/table1",
    title="Convolutions, local layers, data translation and sleep (the main text's part of table 4)",
    source="table 1",
    rows=_rows("table1"),
    columns=accuracies(*SMALL_SETS),
    job=no_job,
    printed=printed.TABLES["table1"],
    protocol=TRAININGS,
    like=f"{PAPER}/table4",
    against="conv",
)

TABLES: tuple[Table, ...] = (MAIN, *PADDED)
