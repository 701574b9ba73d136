"""What came out of tied ResNets: a result for each network and arm, measured on two test sets, and the tables.

A difference counts where it is above two standard errors. Its error is `sqrt(Σ p(1-p)/n + s²/k)` over both sides: of
`n` test images and of `k` seeds with deviation `s`. Both sides see the same images, which makes the true error smaller.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from weightshare._table import render
from weightshare.depth.fuse import first, least_squares, mean, permuted_mean
from weightshare.depth.tie import Tie
from weightshare.depth.transform import LoRA, Scale
from weightshare.experiments.studies.lin2022_resnets import (
    PAPER,
    PRECISION,
    RATES,
    RATES_TABLE,
    START_TABLE,
    TABLE,
    WHERE,
    config,
    rate_config,
    reestimate_,
    start_file,
)
from weightshare.experiments.studies.results import Result
from weightshare.files.atomic import read_json, write_json
from weightshare.files.checkpoint import save
from weightshare.models.trained import trained_resnet
from weightshare.training.data import Data, load_data
from weightshare.training.environment import environment
from weightshare.training.loop import evaluate
from weightshare.training.recipe import RunConfig
from weightshare.training.run import ENVIRONMENT, run, trained
from weightshare.verbs import fold, plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MEASURED = "measured.json"
SPECS: dict[str, Tie | None] = {
    "unshared": None,
    "mean": Tie(rate=2, fuse=mean),
    "first": Tie(rate=2, fuse=first),
    "permuted-mean": Tie(rate=2, fuse=permuted_mean),
    "least-squares": Tie(rate=2, fuse=least_squares),
    "mean-scale": Tie(rate=2, fuse=mean, own=Scale("channel", start="fit")),
    "mean-lora4": Tie(rate=2, fuse=mean, own=LoRA(4)),
    "mean-lora8": Tie(rate=2, fuse=mean, own=LoRA(8)),
}
"""What is measured without training: the trained network as it is, and how it may be fused. What is trained through
starts from the same numbers: `through(mean)` would be a second row of `mean`."""
BATCHES, BATCH = 8, 64
"""Of training images, for what reads activations."""
TITLES = {"fused": "fused, trained on", "scratch": "tied from scratch", "random": "fused from random"}
STARTS = {"unshared": "trained, unshared", "mean": "fused"}
COLUMNS = ("network", "weights", "stored", "exact (%)", "JPEG (%)", "fused less this, exact", "JPEG", "counts")
START_COLUMNS = ("network", "fusion", "stored", "exact (%)", "norms again (%)", "JPEG (%)", "norms again (%)")
CHECK = "Fused from random less tied from scratch, which must not help:"
NOTES = (
    "See studies.lin2022_resnets. JPEG: test images as JPEG files of quality 75, which nobody trained on. Trained "
    "from a copy of the tree, so the commit is not recorded; seconds are of cores that did other things too."
)


class Sets:
    """The exact images and the test images as JPEG files, read when first asked for, as the networks see them."""

    def __init__(self, exact: str, jpeg: str) -> None:
        self.paths = {"exact": exact, "jpeg": jpeg}
        self._read: dict[str, Data] = {}

    def __getitem__(self, name: str) -> Data:
        if name not in self._read:
            prepare = config("resnet20", "fused", 0, "", "").prepare
            self._read[name] = prepare(load_data(self.paths[name]))
        return self._read[name]

    def measure(self, model: nn.Module, on: Sequence[str] = ("exact", "jpeg")) -> dict[str, float]:
        """Accuracy on test sets, both if none is named, and how many images they have."""
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        numbers = {name: evaluate(model, self[name].test, _fabric())[1] for name in on}
        return numbers | {f"{name}_images": float(len(self[name].test)) for name in on}


def starts(
    weights: Mapping[str, Mapping[str, Tensor]],
    sets: Sets,
    out: str | Path,
    results: str | Path,
    specs: Mapping[str, Tie | None] = SPECS,
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Measure trained networks before and right after fusion, where the result is missing; write files to start from.

    Args:
        weights: For each network its state dict; see `trained_resnet`.
        sets: The images.
        out: Where files to start from are put.
        results: Folder of results.
        specs: What to measure, by name; `None` is the network as it is. JPEG files are for those of the other table.
        echo: Gets the table as text.

    Returns:
        A result for each network and spec.
    """
    written = []
    for network, state in weights.items():
        if not start_file(network, out).is_file():
            save(trained_resnet(state), start_file(network, out))
        for name, spec in specs.items():
            path = Path(results) / PAPER / START_TABLE / f"{network}-{name}.json"
            if not path.is_file():
                _start(network, name, spec, trained_resnet(state), sets).write(results)
            written.append(Result.read(path))
    echo(start_table(written))
    return written


def _start(network: str, name: str, spec: Tie | None, model: nn.Module, sets: Sets) -> Result:
    before = time.perf_counter()
    if spec is not None:
        learnt_from = sets["exact"].train
        batches = [learnt_from[at : at + BATCH][0] for at in range(0, BATCHES * BATCH, BATCH)]
        plan(model, spec, WHERE).apply_(model, batches=batches if spec.reads_batches else None)
    stored = sum(parameter.numel() for parameter in model.parameters())
    model = fold(model)  # what layers add of their own is written out once, not in each batch
    on = tuple(sets.paths) if name in STARTS else ("exact",)
    numbers = sets.measure(model, on) | {"stored": stored}
    reestimate_(model, sets["exact"])
    numbers |= {f"{key}_again": value for key, value in sets.measure(model, on).items() if key in on}
    return Result(
        paper=PAPER,
        table=START_TABLE,
        run=f"{network}-{name}",
        metric="test_accuracy",
        values=[numbers["exact"]],
        seeds=[0],
        config={"network": network, "spec": repr(spec), "where": WHERE, "precision": PRECISION},
        environment=environment(),
        seconds=[time.perf_counter() - before],
        numbers=numbers,
        notes=f"{NOTES} Nothing is trained; 'again': running statistics of batch norms measured on training images.",
    )


def train(
    rows: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    sets: Sets,
    out: str | Path,
    results: str | Path,
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Train what is missing, measure it on both test sets, write results.

    Args:
        rows: For each network its arms.
        seeds: Of each arm.
        sets: The images; the exact ones are trained on.
        out: Where the run directories are; what is finished there is not repeated.
        results: Folder of results, those of `starts` among them.
        echo: Gets the table as text.

    Returns:
        A result for each network and arm.
    """
    written = []
    for network, arms in rows.items():
        for arm in arms:
            configs = [config(network, arm, seed, out, sets.paths["exact"]) for seed in seeds]
            summaries = [run(settings, label=Path(settings.out).name) for settings in configs]
            measured = [_measured(settings, sets) for settings in configs]
            numbers = measured[0] | {"stored": summaries[0]["stored"], "stored_before": summaries[0]["stored_before"]}
            for seed, one in zip(seeds, measured, strict=True):
                numbers[f"jpeg_seed{seed}"] = one["jpeg"]
            del numbers["exact"]
            numbers["jpeg"] = sum(one["jpeg"] for one in measured) / len(measured)
            made = _result(TABLE, f"{network}-{arm}", [one["exact"] for one in measured], configs, summaries, numbers)
            made.write(results)
            written.append(made)
    started = [path for network in rows for name in STARTS if (path := _path(results, network, name)).is_file()]
    echo(table([Result.read(path) for path in started], written))
    return written


def rates(sets: Sets, out: str | Path, results: str | Path) -> list[Result]:
    """Try the learning rates, where that is missing: accuracy on training images that were held out."""
    written = []
    for arm, tried in RATES.items():
        for lr in tried:
            settings = rate_config(arm, lr, out, sets.paths["exact"])
            summary = run(settings, label=Path(settings.out).name)
            made = _result(RATES_TABLE, f"{arm}-{lr:g}", [summary["accuracy"]], [settings], [summary], {})
            made.write(results)
            written.append(made)
    return written


def table(started: Sequence[Result], results: Sequence[Result]) -> str:
    """Both test sets, in percent with standard errors, and what fusing a trained network is worth, in points."""
    by_network: dict[str, list[tuple[str, Result]]] = {}
    for result in started:
        network, _, name = result.run.partition("-")
        by_network.setdefault(network, []).append((STARTS[name], result))
        if name == "mean":
            numbers = {**result.numbers, "jpeg": result.numbers["jpeg_again"]}
            again = Result(**{**vars(result), "values": [result.numbers["exact_again"]], "numbers": numbers})
            by_network[network].append((f"{STARTS[name]}, norms again", again))
    for result in results:
        network, _, arm = result.run.partition("-")
        by_network.setdefault(network, []).append((TITLES[arm], result))
    lines: list[tuple[object, ...]] = []
    checks: list[str] = []
    for network, rows in by_network.items():
        named = dict(rows)
        fused, scratch, random = (named.get(TITLES[arm]) for arm in ("fused", "scratch", "random"))
        lines += [_line(network, title, result, fused) for title, result in rows]
        if scratch is not None and random is not None:
            (exact, jpeg), counts = _less(random, scratch)
            checks.append(f"{network}: exact {exact}, JPEG {jpeg}; counts: {counts}")
    text = render(COLUMNS, lines, numbers=COLUMNS[2:7])
    return "\n".join([text, *(["", CHECK, *checks] if checks else [])])


def _line(network: str, title: str, result: Result, fused: Result | None) -> tuple[object, ...]:
    sides = [_accuracy(result, name) for name in ("exact", "jpeg")]
    shown = [f"{100 * value:.2f} ± {100 * error:.2f}" for value, error in sides]
    differences, counts = (["", ""], "") if fused is None or fused is result else _less(fused, result)
    return (network, title, int(result.numbers["stored"]), *shown, *differences, counts)


def _less(high: Result, low: Result) -> tuple[list[str], str]:
    """The difference of two rows on both test sets, in points with standard errors, and whether each counts."""
    sides = [(_accuracy(high, name), _accuracy(low, name)) for name in ("exact", "jpeg")]
    found = [(one - other, (a**2 + b**2) ** 0.5) for (one, a), (other, b) in sides]
    counts = ", ".join("yes" if abs(value) > 2 * error else "no" for value, error in found)
    return [f"{100 * value:+.2f} ± {100 * error:.2f}" for value, error in found], counts


def _accuracy(result: Result, name: str) -> tuple[float, float]:
    """Mean over seeds on one test set, and its standard error: of the images, and of the seeds."""
    values = list(result.values)
    if name == "jpeg":
        seeds = [f"jpeg_seed{seed}" for seed in result.seeds]
        values = [result.numbers[key] for key in seeds if key in result.numbers] or [result.numbers["jpeg"]]
    level = sum(values) / len(values)
    of_images = level * (1 - level) / result.numbers[f"{name}_images"]
    of_seeds = sum((value - level) ** 2 for value in values) / max(1, len(values) - 1) / len(values)
    return level, (of_images + of_seeds) ** 0.5


def start_table(results: Sequence[Result]) -> str:
    """Accuracy right after fusion, in percent: with the running statistics of before, and measured again."""
    rows = []
    for result in results:
        network, _, name = result.run.partition("-")
        found = [result.numbers.get(key) for key in ("exact", "exact_again", "jpeg", "jpeg_again")]
        shown = ["" if value is None else f"{100 * value:.2f}" for value in found]
        rows.append((network, name, int(result.numbers["stored"]), *shown))
    return render(START_COLUMNS, rows, numbers=START_COLUMNS[2:])


def _path(results: str | Path, network: str, name: str) -> Path:
    return Path(results) / PAPER / START_TABLE / f"{network}-{name}.json"


def _measured(settings: RunConfig, sets: Sets) -> dict[str, float]:
    """Of a finished run, kept beside it."""
    path = Path(settings.out) / MEASURED
    if not path.is_file():
        write_json(path, sets.measure(trained(settings.out)[0]))
    return read_json(path)


def _result(
    name: str,
    row: str,
    values: Sequence[float],
    configs: Sequence[RunConfig],
    summaries: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, float],
) -> Result:
    kept = {key: value for key, value in summaries[0]["config"].items() if key not in ("seed", "out", "data_dir")}
    for key in ("data", "init"):  # a file is where it is on this machine; what it holds is its name
        kept[key] = kept[key] and Path(kept[key]).stem
    return Result(
        paper=PAPER,
        table=name,
        run=row,
        metric="test_accuracy",
        values=list(values),
        seeds=[settings.seed for settings in configs],
        config=kept,
        environment=read_json(Path(configs[0].out) / ENVIRONMENT),
        seconds=[summary["training_seconds"] for summary in summaries],
        numbers=numbers,
        notes=NOTES,
    )


def _fabric() -> "Fabric":
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1, precision=PRECISION)
