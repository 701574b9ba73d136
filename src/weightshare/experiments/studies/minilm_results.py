"""What came out of MiniLM: stored numbers, and cosines to the original before and after distillation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cached_property
import math
from pathlib import Path
import statistics
import time
from typing import Any

from torch import Tensor, nn

from weightshare._table import render
from weightshare.errors import TrainingError
from weightshare.experiments.studies.docstrings import sentences, versions
from weightshare.experiments.studies.minilm import (
    EQUAL,
    LEARN_FROM,
    MEASURE_ON,
    PACKAGE,
    PAPER,
    ROWS,
    STARTS,
    TABLE,
    Encode,
    Lesson,
    Row,
    Schedule,
    agreement,
    batches,
    distil,
    embedded,
    lessons,
    planned,
)
from weightshare.experiments.studies.results import Result
from weightshare.files.atomic import read_json, write_json, write_text
from weightshare.training.environment import environment
from weightshare.training.workplace import at_work

COLUMNS = ("network", "stored", "cosine before", "after", "ranks before", "after", "seeds", "minutes")
NOTES = (
    "Cosine of embeddings to the original's, mean over held-out sentences, and of seeds; ± is the standard error over "
    "seeds, which draw the order of the batches. Ranks: Spearman's correlation of the similarities of all pairs of "
    "sentences. Trained from a copy of the tree, so the commit is not recorded."
)


@dataclass(frozen=True)
class Bench:
    """What all rows are made of and measured with.

    Args:
        teacher: The original, in evaluation mode.
        encode: From sentences to tokens.
        schedule: Of the distillation.
        held_out: How many sentences are measured on.
        fitted: How many batches a fusion that reads activations gets.
        learn_from: Packages whose docstrings are learnt from.
        measure_on: Those whose docstrings are measured on.
    """

    teacher: nn.Module
    encode: Encode
    schedule: Schedule = field(default_factory=Schedule)
    held_out: int = 512
    fitted: int = 16
    learn_from: Sequence[str] = LEARN_FROM
    measure_on: Sequence[str] = MEASURE_ON

    @cached_property
    def held_out_ids(self) -> list[Tensor]:
        return batches(sentences(self.measure_on, self.held_out), self.encode)

    @cached_property
    def training_ids(self) -> list[Tensor]:
        """One batch for each step; no sentence that is measured on."""
        skip = frozenset(sentences(self.measure_on, self.held_out))
        most = 8 * 16 * self.schedule.steps  # many more than fill the batches
        return batches(sentences(self.learn_from, most, skip), self.encode, self.schedule.steps)

    @cached_property
    def wanted(self) -> Tensor:
        """What the original gives on what is measured on."""
        return embedded(self.teacher, self.held_out_ids)

    @cached_property
    def material(self) -> list[Lesson]:
        return lessons(self.teacher, self.training_ids, self.schedule.precision)

    def shared(self, row: Row) -> tuple[nn.Module, int]:
        """A copy of the original, shared; and its stored numbers."""
        student = deepcopy(self.teacher)
        made = planned(student, row)
        made.apply_(student, self.training_ids[: self.fitted] if made.spec.reads_batches else None)
        return student, made.stored_after

    def measured(self, student: nn.Module) -> dict[str, float]:
        """Mean cosine, its standard error over sentences, and the rank correlation."""
        cosines, ranks = agreement(embedded(student, self.held_out_ids), self.wanted)
        error = cosines.std().item() / math.sqrt(len(cosines))
        return {"cosine": cosines.mean().item(), "cosine_error": error, "ranks": ranks}

    def config(self) -> dict[str, Any]:
        """What results depend on."""
        return {
            **asdict(self.schedule),
            "held_out": self.held_out,
            "fitted": self.fitted,
            "weights": versions([PACKAGE]),
            "learn_from": versions(self.learn_from),
            "measure_on": versions(self.measure_on),
        }


def start(bench: Bench, name: str, out: str | Path) -> dict[str, Any]:
    """Share and measure one of `STARTS`; what is there already is read.

    Returns:
        `stored`, `cosine`, `cosine_error`, `ranks`, and the plan's spec.
    """

    def make() -> dict[str, Any]:
        student, stored = bench.shared(STARTS[name])
        return {
            "stored": stored,
            "spec": repr(planned(deepcopy(bench.teacher), STARTS[name]).spec),
            **bench.measured(student),
        }

    return _kept(bench, Path(out) / f"{name}-start", make)


def train(bench: Bench, name: str, seed: int, out: str | Path) -> dict[str, Any]:
    """Share, distil and measure one of `ROWS`; what is there already is read.

    Returns:
        `stored`, `cosine`, `cosine_error`, `ranks`, `losses` of the steps, `seconds`, and the environment.

    Raises:
        TrainingError: If another process is at work on this very run, or the folder holds one of another configuration.
    """

    def make() -> dict[str, Any]:
        material = bench.material
        student, stored = bench.shared(ROWS[name])
        began = time.perf_counter()
        losses = distil(student, material, bench.schedule, seed)
        seconds = time.perf_counter() - began
        measured = bench.measured(student)
        return {"stored": stored, **measured, "losses": losses, "seconds": seconds, "environment": environment()}

    return _kept(bench, Path(out) / f"{name}-seed{seed}", make)


def collected(
    bench: Bench,
    out: str | Path,
    results: str | Path,
    rows: Mapping[str, Sequence[int]],
    starts: Iterable[str] = (),
    echo: Callable[[str], None] = print,
) -> list[Result]:
    """Make what is missing of the table, and write results, comparisons and the table as text.

    Args:
        bench: What rows are made of.
        out: Where single runs are kept.
        results: Folder of results.
        rows: For each row its seeds.
        starts: Rows that are measured before distillation alone.
        echo: Gets the table.

    Returns:
        One result for each row.
    """
    written = []
    for name, seeds in rows.items():
        before = start(bench, name, out)
        runs = [train(bench, name, seed, out) for seed in seeds]
        numbers = {f"{key}_before": before[key] for key in ("cosine", "cosine_error", "ranks")}
        numbers |= {key: statistics.fmean(run[key] for run in runs) for key in ("cosine_error", "ranks")}
        numbers |= {"stored": before["stored"], "stored_unshared": _stored(bench.teacher)}
        result = Result(
            paper=PAPER,
            table=TABLE,
            run=name,
            metric="cosine_to_original",
            values=[run["cosine"] for run in runs],
            seeds=list(seeds),
            config={"spec": before["spec"], **bench.config()},
            environment=runs[0]["environment"],
            seconds=[run["seconds"] for run in runs],
            numbers=numbers,
            notes=NOTES,
        )
        result.write(results)
        written.append(result)
    folder = Path(results) / PAPER / TABLE
    losses = {name: [_thinned(train(bench, name, seed, out)["losses"]) for seed in rows[name]] for name in rows}
    write_json(folder / "losses.json", losses)
    untrained = {name: start(bench, name, out) for name in starts}
    write_json(folder / "starts.json", untrained)
    differences = compared(written)
    write_json(folder / "differences.json", differences)
    text = "\n\n".join(
        part for part in (table(written), starts_table(untrained), differences_table(differences)) if part
    )
    write_text(folder / "table.txt", f"{text}\n")
    echo(text)
    return written


def compared(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Rows of equal stored numbers, low rank less plain tying: for each seed, with the standard error of their mean."""
    by_name = {result.run: result for result in results}
    found = {}
    for name, other in EQUAL.items():
        if name in by_name and other in by_name:
            one, two = by_name[name], by_name[other]
            pairs = dict(zip(two.seeds, two.values, strict=True))
            apart = [value - pairs[seed] for seed, value in zip(one.seeds, one.values, strict=True) if seed in pairs]
            found[f"{name} - {other}"] = {
                "differences": apart,
                "mean": statistics.fmean(apart),
                "error": _error(apart),
                "stored": [one.numbers["stored"], two.numbers["stored"]],
                "before": one.numbers["cosine_before"] - two.numbers["cosine_before"],
            }
    return found


def table(results: Sequence[Result]) -> str:
    """The results as a text table."""
    return render(COLUMNS, [_row(result) for result in results], numbers=COLUMNS[1:])


def starts_table(starts: Mapping[str, Mapping[str, Any]]) -> str:
    """What was measured before distillation alone; nothing for no rows."""
    columns = ("before distillation", "stored", "cosine", "± over sentences", "ranks")
    rows = [
        (name, one["stored"], f"{one['cosine']:.4f}", f"{one['cosine_error']:.4f}", f"{one['ranks']:.4f}")
        for name, one in starts.items()
    ]
    return render(columns, rows, numbers=columns[1:]) if rows else ""


def differences_table(differences: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparisons at equal stored numbers; nothing for none."""
    columns = ("at equal stored numbers", "cosine", "standard error", "seeds", "in errors")
    rows = [
        (name, f"{one['mean']:+.4f}", f"{one['error']:.4f}", len(one["differences"]), _ratio(one["mean"], one["error"]))
        for name, one in differences.items()
    ]
    return render(columns, rows, numbers=columns[1:]) if rows else ""


def _row(result: Result) -> tuple[Any, ...]:
    numbers = result.numbers
    return (
        result.run,
        int(numbers["stored"]),
        f"{numbers['cosine_before']:.4f}",
        f"{result.mean:.4f} ± {_error(result.values):.4f}",
        f"{numbers['ranks_before']:.3f}",
        f"{numbers['ranks']:.3f}",
        len(result.seeds),
        f"{sum(result.seconds) / len(result.seconds) / 60:.1f}",
    )


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean; NaN from one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _ratio(mean: float, error: float) -> str:
    return f"{mean / error:+.1f}" if error > 0 else ""


def _thinned(losses: Sequence[float], every: int = 10) -> list[float]:
    """Means of ten steps each."""
    return [round(statistics.fmean(losses[at : at + every]), 6) for at in range(0, len(losses), every)]


def _stored(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _kept(bench: Bench, folder: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, or else what is made now and kept there."""
    path, config = folder / "run.json", bench.config()
    with at_work(folder):
        if path.is_file():
            held = read_json(path)
            if held["config"] != config:
                raise TrainingError(
                    f"'{folder}' holds a run of {held['config']}, need {config}. Choose another folder."
                )
            return held["made"]
        made = make()
        write_json(path, {"config": config, "made": made})
    return made
