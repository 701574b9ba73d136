"""Pogodin 2021, dynamic weight sharing over positions: its tables and figures.

| row | network |
|---|---|
| `conv` | convolutional |
| `lc` | every convolution locally connected |
| `lc-reps4`, `lc-reps8`, `lc-reps16` | so, and each image several times in a batch, cropped by itself |
| `lc-ws1`, `lc-ws10`, `lc-ws100` | so, and weights shared in a sleep phase every 1, 10 or 100 batches |
| `first-conv`, `first-conv-ws1`, ... | as `lc`, `lc-ws1`, ..., with a convolutional first layer: ImageNet alone |
"""

from functools import partial

from weightshare.experiments.jobs import Calculation, Outcome, Scale, Training
from weightshare.experiments.printed import pogodin2021 as printed
from weightshare.experiments.studies import sleep_theory
from weightshare.experiments.studies.divergence import RATES, draw_divergence
from weightshare.experiments.studies.pogodin2021_scales import divergence, training
from weightshare.experiments.studies.pogodin2021_search import GridSearch, search
from weightshare.experiments.studies.sleep_theory_picture import draw_sleep
from weightshare.experiments.table import Metric, Outcomes, Table, no_job, single

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
    "A third of the blocks; images of half the side, so half the padding; the first 8 % of each class's images, 32 "
    "passes in batches of 64, as many steps with repeats as without; higher learning rates; float32."
)
NO_DECAY = "Norms and biases are not decayed, of which the text says nothing."
TRAININGS: dict[Scale, str] = {
    "smoke": "Digits, one epoch of a fifth of them, a block a stage of 2, 3 and 5 channels.",
    "small": REDUCED,
    "paper": NO_DECAY,
}
SEARCHES: dict[Scale, str] = {
    "smoke": f"{TRAININGS['smoke']} The first and the last point of the grid.",
    "small": "As tables 3 to 5 at this scale, but of 4 % of each class's images, 16 passes, measured on the next 4 %.",
    "paper": f"{NO_DECAY} One run of each point.",
}
IMAGENET: dict[Scale, str] = {
    "smoke": f"{TRAININGS['smoke']} Four stages.",
    "small": "A block a stage instead of two; squares of 56 pixels from images brought to 64; 2 % of each class's "
    "images, 2 epochs in batches of 64; higher learning rates; float32. Not timed: ImageNet was not at hand.",
    "paper": f"{NO_DECAY} Squares are cut from places between pixels, too; the first layer has stride 2.",
}


def accuracies(*names: str, spread: bool = False) -> dict[str, dict[str, Metric]]:
    """Columns of accuracies for data sets by name: each beside its difference to that of `conv`, or their spread."""
    columns: dict[str, dict[str, Metric]] = {}
    for name in names:
        tops = ("top1",) if name == "cifar10" else ("top1", "top5")
        titles = {f"{name}/{top}": f"{SETS[name]} top-{top[-1]}" for top in tops}
        columns[name] = {key: Metric(title, better="" if spread else "high") for key, title in titles.items()}
        if not spread:
            columns[name] |= {f"{key}-diff": Metric(f"{title}, less conv") for key, title in titles.items()}
    return columns


SMALL_SETS = ("cifar10", "cifar100", "tiny-imagenet")


def spreads(outcomes: Outcomes) -> Outcomes:
    """The highest less the lowest of each metric over runs, as one run; nothing of a single run."""
    runs = list(outcomes.values())
    if any(one.numbers.get("diverged") for one in runs):
        return {0: Outcome({}, {"diverged": 1})}
    values = {name: [one.metrics[name] for one in runs] for name in runs[0].metrics}
    return {0: Outcome({name: max(of) - min(of) for name, of in values.items()})} if len(runs) > 1 else {}


def _rows(table: str) -> dict[str, str]:
    return {row: KINDS[row] for row in printed.TABLES[table]}


def _padded(number: int, padding: int) -> Table:
    """Table 3, 4 or 5."""
    key = f"table{number}"

    def job(row: str, column: str, scale: Scale) -> Training:
        return training(row, column, padding, scale)

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


def _spread(number: int, padding: int) -> Table:
    """Table 6, 7 or 8: of table 3, 4 or 5."""
    key = f"table{number}"
    return Table(
        name=f"{PAPER}/{key}",
        title=f"The highest less the lowest accuracy over runs: images padded by {padding}",
        source=f"table {number}",
        rows=_rows(key),
        columns=accuracies(*SMALL_SETS, spread=True),
        job=no_job,
        printed=printed.TABLES[key],
        protocol=TRAININGS,
        like=f"{PAPER}/table{number - 3}",
        derived=spreads,
        note="The fewer runs there are, the smaller the spread: the paper has five.",
    )


def _rates(number: int, padding: int) -> Table:
    """Table 9, 10 or 11."""
    key = f"table{number}"

    def job(row: str, column: str, scale: Scale) -> GridSearch:
        return search(row, column, padding, scale)

    of = {
        name: {
            f"{name}/lr": Metric(f"{SETS[name]} learning rate", "", "", 4),
            f"{name}/weight_decay": Metric(f"{SETS[name]} weight decay", "", "", 4),
        }
        for name in SMALL_SETS
    }
    return Table(
        name=f"{PAPER}/{key}",
        title=f"The learning rates and weight decays that a grid search finds: images padded by {padding}",
        source=f"table {number}",
        rows=_rows(key),
        columns=of,
        job=job,
        printed=printed.TABLES[key],
        protocol=SEARCHES,
        seeds={"smoke": 1, "small": 1, "paper": 1},
    )


def _imagenet(row: str, column: str, scale: Scale) -> Training:
    return training(row, column, None, scale)


def _sleep(key: str, name: str, shows: str, input_mean: float = 0.0) -> Table:
    """Figure 4A, 4B, 5A or 5B."""

    def row_job(row: str, column: str, scale: Scale) -> Calculation:
        return sleep_theory.job(name, row, scale, input_mean)

    drawn = "N(0, 1), as the authors' program draws them" if not input_mean else "N(1, 1), as the text has it"
    return Table(
        name=f"{PAPER}/{key}",
        title=f"How well a sleep shares: −log SNR of the weights, {shows}; inputs are {drawn}",
        source=f"figure {name}, A.5",
        rows={row: f"kernel {k}×{k}, γ = {gamma:g}" for row, (k, gamma) in sleep_theory.ROWS.items()},
        columns=single(
            end=Metric("end", "", ""),
            theory=Metric("theory", "", ""),
            distance=Metric("end less theory", "", ""),
            minimum=Metric("minimum", "", ""),
            **{"minimum-at": Metric("inputs until then", "", "", 0)},
        ),
        job=row_job,
        protocol={
            "smoke": "150 inputs, 11 neurons.",
            "small": "Nothing.",
            "paper": "float64. " + ("Inputs have mean 0; the text says 1, see the other figure." * (not input_mean)),
        },
        seeds={"smoke": 2, "small": sleep_theory.RUNS, "paper": sleep_theory.RUNS},
        picture=partial(draw_sleep, name),
        note="Eq. 24 takes rates as settled: with the circuit, dashed lines have the time in them that rates take."
        if sleep_theory.SLEEPS[name].neural
        else "",
    )


SPLIT = {
    "table1": Table(
        name=f"{PAPER}/table1",
        title="Convolutions, local layers, data translation and sleep: the main text's copy of table 4",
        source="table 1",
        rows=_rows("table1"),
        columns=accuracies(*SMALL_SETS),
        job=no_job,
        printed=printed.TABLES["table1"],
        protocol=TRAININGS,
        like=f"{PAPER}/table4",
        against="conv",
    ),
    "table2": Table(
        name=f"{PAPER}/table2",
        title="Convolutions, local layers and sleep on ImageNet: the main text's part of table 12",
        source="table 2",
        rows=_rows("table2"),
        columns=accuracies("imagenet"),
        job=no_job,
        printed=printed.TABLES["table2"],
        protocol=IMAGENET,
        like=f"{PAPER}/table12",
        against="conv",
    ),
}

TABLES: tuple[Table, ...] = (
    *SPLIT.values(),
    *(_padded(number, padding) for number, padding in ((3, 0), (4, 4), (5, 8))),
    *(_spread(number, padding) for number, padding in ((6, 0), (7, 4), (8, 8))),
    *(_rates(number, padding) for number, padding in ((9, 0), (10, 4), (11, 8))),
    Table(
        name=f"{PAPER}/table12",
        title="Convolutions, local layers and sleep on ImageNet, also with a convolutional first layer",
        source="table 12, B.2",
        rows=_rows("table12"),
        columns=accuracies("imagenet"),
        job=_imagenet,
        printed=printed.TABLES["table12"],
        protocol=IMAGENET,
        seeds={"smoke": 1, "small": 1, "paper": 1},
        against="conv",
    ),
    _sleep("figure4a", "4A", "the Hebbian update"),
    _sleep("figure4b", "4B", "the circuit, α = 10"),
    _sleep("figure5a", "5A", "the update with the bias of finite inhibition, α = 10"),
    _sleep("figure5b", "5B", "the circuit, α = 10, for longer"),
    _sleep("figure4a-mean1", "4A", "the Hebbian update", 1.0),
    _sleep("figure5a-mean1", "5A", "the update with the bias of finite inhibition, α = 10", 1.0),
    Table(
        name=f"{PAPER}/figure6",
        title="How far kernels move apart between two sleeps: −log SNR over the steps of a training with ws(10)",
        source="figure 6",
        rows={row: f"learning rate {rate:g}" for row, rate in RATES.items()},
        columns=single(
            before=Metric("over positions, before a sleep", "", ""),
            after=Metric("over positions, after it", "", ""),
            **{"within-before": Metric("within modules, before it", "", "")},
        ),
        job=divergence,
        protocol={
            "smoke": "Digits, 12 steps in batches of 64, a block a stage of 2, 3 and 5 channels.",
            "small": "A third of the blocks; images of half the side; batches of 64; float32.",
            "paper": "The first 60 steps. The text leaves open which are shown.",
        },
        seeds={"smoke": 1, "small": 3, "paper": 5},
        picture=draw_divergence,
    ),
)
