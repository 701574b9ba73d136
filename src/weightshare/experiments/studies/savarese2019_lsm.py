"""The layer similarity matrix of a shared wide ResNet: in the end, through its training, and what folding makes of it.

Source: Savarese 2019, "Folding learned networks into explicitly recurrent forms": SWRN 40-8-8 on CIFAR-10, and
"Evolution of sharing patterns". The poster does not tell the strength of its regulariser, nor how near to 1 is near.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import correlation, fmean
from typing import Any

import torch

from weightshare.depth.fold import plan_loops
from weightshare.depth.lsm import mean_similarity, mixtures
from weightshare.depth.measure import Similarity
from weightshare.depth.record import Evolution
from weightshare.experiments.jobs import Scale, Training
from weightshare.experiments.studies.savarese2019_cifar import CORES, CURVES, DIGITS, PROTOCOL
from weightshare.experiments.studies.savarese2019_pictures import KINDS, STAGE
from weightshare.experiments.table import Metric
from weightshare.files.evolution import load_evolution
from weightshare.training.keeper import EVOLUTION
from weightshare.training.loop import evaluate
from weightshare.training.recipe import RunConfig
from weightshare.training.regularise import Regularise
from weightshare.training.run import trained

ROWS: dict[str, tuple[str, float]] = {
    "swrn-40-8-8": ("SWRN 40-8-8", 0.0),
    "swrn-40-8-8-lsm0.1": ("SWRN 40-8-8, its matrix regularised", 0.1),
}
"""By row, its name and the strength of what makes layers alike."""
DELTAS: Mapping[Scale, Mapping[str, Any]] = {
    "smoke": {**DIGITS, "model_args.depth": 22, "model_args.width": 1, "model_args.templates": 3},
    "small": {**CORES, "prepare.fraction": 0.4, "train.epochs": 6, "model_args.width": 1},
    "paper": {},
}
THRESHOLDS = (0.99, 0.9)
"""Least `|cos|` of layers that become one: those that are one, and a looser one."""
MOMENTS = (0.0, 0.02, 0.1, 0.5, 1.0)
"""Fractions of the training at which matrices are kept."""
LOOKED_AT = 256
"""Test images on which the change of outputs is measured."""

FOLDED: Mapping[str, Metric] = {
    "similarity": Metric("mean of the layer similarity matrix", "", "", 3),
    "error": Metric("error", better="low"),
    "params": Metric("parameters", "million", "low", 3),
    "layers": Metric("layers that mix templates", "", "", 0),
    **{
        f"{name}-{threshold}": replace(metric, title=f"{metric.title} at |cos| ≥ {threshold}")
        for threshold in THRESHOLDS
        for name, metric in {
            "left": Metric("layers left", "", "low", 1),
            "params-folded": Metric("parameters then", "million", "low", 3),
            "error-folded": Metric("error then", better="low"),
            "change": Metric("relative change of outputs", better="low"),
        }.items()
    },
}
EVOLVED: Mapping[str, Metric] = {
    **{f"similarity-{100 * at:g}": Metric(f"mean |cos| after {100 * at:g} %", "", "", 3) for at in MOMENTS},
    **{f"pattern-{100 * at:g}": Metric(f"likeness of the matrix to the last, {100 * at:g} %", "", "", 2)
       for at in MOMENTS[:-1]},
}  # fmt: skip
"""Likeness is the correlation over pairs of layers: 1 where the pattern is there already."""


def alike(row: str, column: str, scale: Scale) -> Training:
    """The training of a row."""
    deltas = dict(DELTAS[scale])
    if scale == "smoke" and ROWS[row][1]:  # in five steps
        deltas["train.regularise"] = [asdict(Regularise("layer_similarity", 30.0))]
    return Training(partial(settings, row), row, column, deltas, folded, CURVES, pictured)


def settings(row: str, seed: int, runs: Path) -> RunConfig:
    """The training of a row at the poster's sizes."""
    strength = ROWS[row][1]
    pull = [Regularise("layer_similarity", strength)] if strength else []
    return RunConfig(
        "weightshare.models:swrn",
        model_args={"depth": 40, "width": 8, "templates": 8},
        data="cifar10",
        train=replace(PROTOCOL, regularise=pull),
        precision="bf16-mixed",
        checkpoint_minutes=2.0,
    )


def folded(settings: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """What a finished run is like: its error, what folding leaves and costs, how its matrices came about."""
    model, data = trained(settings.out)
    images, _ = data.test[:LOOKED_AT]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {"error": 100 * (1 - summary["accuracy"]), "params": summary["stored"] / 1e6}
    for threshold in THRESHOLDS:
        planned = plan_loops(model, threshold, batches=[data.test.normalised(images)])
        found["layers"] = sum(group.layers for group in planned.groups)
        found[f"left-{threshold}"] = found["layers"] - planned.removed
        found[f"params-folded-{threshold}"] = planned.stored_after / 1e6
        found[f"change-{threshold}"] = 100 * (planned.output_error or 0.0)
        right = summary["accuracy"]
        if planned.removed:
            right = evaluate(planned.fold(model).to(device), data.test.to(device))[1]
        found[f"error-folded-{threshold}"] = 100 * (1 - right)
    return found | evolved(load_evolution(Path(settings.out) / EVOLUTION))


def evolved(evolution: Evolution) -> dict[str, float]:
    """How alike layers are at each moment, and how like the last matrix that one is: means over pairs and groups."""
    each = {at: evolution.similarity(evolution.nearest(at)) for at in MOMENTS}
    found = {f"similarity-{100 * at:g}": mean_similarity(one) for at, one in each.items()}
    end = list(pairs(each[1.0]).values())
    for at in MOMENTS[:-1]:
        then = list(pairs(each[at]).values())
        found[f"pattern-{100 * at:g}"] = fmean(_like(*both) for both in zip(then, end, strict=True))
    return found | {"similarity": found["similarity-100"]}


def matrices(evolution: Evolution) -> dict[str, list[float | None]]:
    """Curves: the mean over the recorded steps, and at each moment the pairs of layers of each group."""
    means = [mean_similarity(evolution.similarity(moment)) for moment in range(len(evolution.steps))]
    found: dict[str, list[float | None]] = {"recorded": list(map(float, evolution.steps))}
    found["mean"] = [round(value, 4) for value in means]
    for at in MOMENTS:
        moment = evolution.nearest(at)
        for group, (_, values) in enumerate(pairs(evolution.similarity(moment)).items()):
            found[f"{STAGE}{group + 1}@{evolution.steps[moment]}"] = [round(value, 4) for value in values]
    return found


def pictured(settings: RunConfig) -> dict[str, list[float | None]]:
    """Curves of a finished run: how its matrices came about, and what folding makes of its layers."""
    return {**matrices(load_evolution(Path(settings.out) / EVOLUTION)), **kinds(Path(settings.out))}


def kinds(run: Path) -> dict[str, list[float | None]]:
    """For each group of a finished run which of its layers each layer becomes, with the first threshold."""
    model, _ = trained(run)
    found = {}
    for number, (group, one) in enumerate(
        zip(plan_loops(model, THRESHOLDS[0]).groups, mixtures(model).values(), strict=True)
    ):
        first = {path: kind.items[0] for kind in group.kinds for path in kind.items}
        found[f"{KINDS}{number + 1}"] = [float(one.layers.index(first.get(path, path))) for path in one.layers]
    return found


def pairs(found: Mapping[str, Similarity]) -> dict[str, list[float]]:
    """The similarity of each pair of layers, for each group: row by row below the diagonal."""
    lines = {name: one.values.tolist() for name, one in found.items()}
    return {name: [line[j] for i, line in enumerate(matrix) for j in range(i)] for name, matrix in lines.items()}


def _like(one: list[float], other: list[float]) -> float:
    """The correlation; 0 where one of both is the same for all pairs up to rounding."""
    flat = any(max(values) - min(values) < 1e-6 for values in (one, other))
    return 0.0 if flat else correlation(one, other)
