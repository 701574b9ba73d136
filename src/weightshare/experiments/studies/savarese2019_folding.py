"""Folding learned networks on digits: train layers that mix templates, make loops of them, train on.

A soft-shared wide ResNet and a ConvMixer, each with one template a layer and trained without the regulariser of the
layer similarity matrix, with some of it, and with much. Each is folded as `plan_loops` says, measured, and trained for
five more epochs; beside it the network that was not folded is trained on as long. The one without the regulariser is
also folded as far as the one with much, by a threshold that is as low as that takes.

Source: Savarese 2019, "Folding learned networks into explicitly recurrent forms": SWRN-40-8-8 on CIFAR-10.
Differs: small networks and the 1,797 digits of scikit-learn, so that two cores train all of it in minutes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
import statistics
import time
from typing import TYPE_CHECKING, Any

from torch import nn

from weightshare._table import render
from weightshare.analysis.loops import draw_loops
from weightshare.analysis.lsm import draw_evolution
from weightshare.depth.fold import LoopPlan, plan_loops
from weightshare.depth.lsm import layer_similarity, mean_similarity
from weightshare.experiments.studies.results import Result, save_png
from weightshare.files.atomic import read_json, write_json, write_text
from weightshare.files.evolution import load_evolution
from weightshare.training.data import Data
from weightshare.training.keeper import EVOLUTION
from weightshare.training.loop import evaluate, fit
from weightshare.training.recipe import Recipe, RunConfig, Share
from weightshare.training.regularise import Regularise
from weightshare.training.run import ENVIRONMENT, run, trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER, TABLE = "savarese2019", "folding"
NETWORKS: dict[str, tuple[str, list[Share]]] = {
    "swrn": ("swrn:28/1/6", []),
    "convmixer": ("convmixer:32/8/2/3", [Share(templates=8, where=["blocks.*.pointwise", "blocks.*.depthwise"])]),
}
"""For each network its name, and what it shares beside what it was built with: one template a layer in both."""
STRENGTHS = {"swrn": (0.0, 0.03, 0.3), "convmixer": (0.0, 0.7, 2.0)}
"""Of the regulariser: none, some, much; chosen with seed 0."""
ARMS = ("without", "some", "much")
FORCED = "forced"
THRESHOLD = 0.99
RECIPE = Recipe(epochs=30, batch_size=64, lr=0.01)
AFTER = Recipe(epochs=5, batch_size=64, lr=0.001, warmup=0.0)
STAGES = ("accuracy", "folded", "folded_after", "unfolded_after")
NOTES = (
    "Values: of the folded network after five more epochs; all stages of each seed are in folds.json. "
    "Small networks on digits, instead of SWRN-40-8-8 on CIFAR-10; the poster gives no accuracy of a folded network."
)


@dataclass(frozen=True)
class Fold:
    """What came out of folding one network.

    Args:
        network: A key of `NETWORKS`.
        arm: One of `ARMS`, or `FORCED`.
        strength: Of the regulariser.
        seed: Of all that was drawn.
        threshold: Least `|cos|` of layers that became one.
        similarity: Mean of the layer similarity matrix over pairs, before.
        layers: Which mix templates, over all groups.
        left: Of these once folded.
        stored_before: Numbers before.
        stored_after: Numbers after.
        output_error: Change of the outputs on the test images, relative.
        loops: For each chain of blocks its path and its loops.
        accuracy: On the test images, before.
        folded: After folding.
        folded_after: And five more epochs.
        unfolded_after: Of the network that was not folded, after as many.
        seconds: Of all training.
    """

    network: str
    arm: str
    strength: float
    seed: int
    threshold: float
    similarity: float
    layers: int
    left: int
    stored_before: int
    stored_after: int
    output_error: float
    loops: list[list[str]]
    accuracy: float
    folded: float
    folded_after: float
    unfolded_after: float
    seconds: float


def folding(
    out: str | Path,
    results: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    networks: Sequence[str] = tuple(NETWORKS),
    recipe: Recipe = RECIPE,
    after: Recipe = AFTER,
    echo: Callable[[str], None] = print,
) -> list[Fold]:
    """Train, fold and train on what is missing, and write results, a table and pictures.

    Args:
        out: Where the run directories are; what is finished there is not repeated.
        results: Folder of results.
        seeds: One training of each network and arm for each.
        networks: Keys of `NETWORKS`.
        recipe: Of every first training; the regulariser comes from `STRENGTHS`.
        after: Of all that goes on.
        echo: Gets plans and the table as text.

    Returns:
        One for each network, arm and seed.
    """
    folds: list[Fold] = []
    folder = Path(results) / PAPER / TABLE
    for network in networks:
        for seed in seeds:
            found = [fold_one(out, network, arm, seed, recipe, after, echo=echo) for arm in range(len(ARMS))]
            removed = found[-1].layers - found[-1].left
            found.append(fold_one(out, network, 0, seed, recipe, after, removed, echo))
            folds += found
        for arm in (*ARMS, FORCED):
            rows = [fold for fold in folds if (fold.network, fold.arm) == (network, arm)]
            _result(rows, config(out, network, _trained_as(arm), seeds[0], recipe)).write(results)
    write_json(folder / "folds.json", [asdict(fold) for fold in folds])
    for network in networks:
        for arm, name in enumerate(ARMS):
            first = config(out, network, arm, seeds[0], recipe)
            save_png(draw_evolution(load_evolution(Path(first.out) / EVOLUTION)), folder / f"lsm-{network}-{name}.png")
            picture = loop_picture({seed: config(out, network, arm, seed, recipe) for seed in seeds})
            if picture is not None:
                save_png(picture, folder / f"loops-{network}-{name}.png")
    text = table(folds)
    write_text(folder / "table.txt", f"{text}\n")
    echo(text)
    return folds


def fold_one(
    out: str | Path,
    network: str,
    arm: int,
    seed: int,
    recipe: Recipe = RECIPE,
    after: Recipe = AFTER,
    removed: int | None = None,
    echo: Callable[[str], None] = print,
) -> Fold:
    """Train a network, fold it, and train both on; or, with `removed`, fold it as far as to lose so many layers."""
    from lightning_fabric import Fabric

    made = config(out, network, arm, seed, recipe)
    name = ARMS[arm] if removed is None else FORCED
    path = Path(out) / f"{Path(made.out).name}-{name}.json"
    if path.is_file():
        return Fold(**read_json(path))
    started = run(made)["training_seconds"]
    model, data = trained(made.out)
    planned = plan(model, data, THRESHOLD) if removed is None else as_far(model, data, removed)
    echo(f"{Path(made.out).name}, {name}:\n{planned}\n")
    folded = planned.fold(model)
    accuracies = [evaluate(one, data.test)[1] for one in (model, folded)]
    similarity = mean_similarity(layer_similarity(model))
    begun = time.perf_counter()
    cpu = Fabric(accelerator="cpu", devices=1)
    histories = [
        fit(one, data, after, seed, Path(made.out) / kind, cpu, label=f"{Path(made.out).name}, {kind}")
        for kind, one in ((f"folded-{name}", folded), ("unfolded", model))
    ]
    fold = Fold(
        *(network, name, STRENGTHS[network][arm], seed, planned.threshold, similarity),
        layers=sum(group.layers for group in planned.groups),
        left=sum(group.distinct for group in planned.groups),
        stored_before=planned.stored_before,
        stored_after=planned.stored_after,
        output_error=planned.output_error or 0.0,
        loops=[[chain.path, str(chain)] for chain in planned.chains if chain.looped],
        accuracy=accuracies[0],
        folded=accuracies[1],
        folded_after=histories[0][-1]["test_accuracy"],
        unfolded_after=histories[1][-1]["test_accuracy"],
        seconds=started + time.perf_counter() - begun,
    )
    write_json(path, asdict(fold))
    return fold


def config(out: str | Path, network: str, arm: int, seed: int, recipe: Recipe = RECIPE) -> RunConfig:
    """The configuration of one training: `arm` is a place in `ARMS`."""
    name, share = NETWORKS[network]
    strength = STRENGTHS[network][arm]
    pull = [Regularise("layer_similarity", strength=strength)] if strength else []
    folder = str(Path(out) / f"{network}-{ARMS[arm]}-seed{seed}")
    return RunConfig(name, share=share, train=replace(recipe, regularise=pull), seed=seed, device="cpu", out=folder)


def plan(model: nn.Module, data: Data, threshold: float) -> LoopPlan:
    """How to fold a network, with the change of its outputs on the test images."""
    images, _ = data.test[: len(data.test)]
    return plan_loops(model, threshold, batches=[data.test.normalised(images)])


def as_far(model: nn.Module, data: Data, removed: int) -> LoopPlan:
    """The plan of the highest threshold by which at least so many layers go, by bisection over the pairs' `|cos|`."""
    pairs = {value for one in layer_similarity(model).values() for value in one.values.flatten().tolist()}
    rising = sorted({0.0, *(value for value in pairs if value == value)})
    low, high = 0, len(rising) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if plan_loops(model, rising[middle]).removed >= removed:
            low = middle
        else:
            high = middle - 1
    return plan(model, data, rising[low])


def loop_picture(runs: Mapping[int, RunConfig]) -> "Figure | None":
    """The loops of finished runs, by seed, or nothing where there are none."""
    looped = []
    for seed, made in runs.items():
        model, _ = trained(made.out)
        found = [chain for chain in plan_loops(model, THRESHOLD).chains if chain.looped]
        looped += [replace(chain, path=f"{chain.path}, seed {seed}") for chain in found]
    return draw_loops(looped) if looped else None


def table(folds: Sequence[Fold]) -> str:
    """Means over seeds as text; accuracies in percent, with the least and the greatest number of the layers left."""
    groups: dict[tuple[str, str], list[Fold]] = {}
    for fold in folds:
        groups.setdefault((fold.network, fold.arm), []).append(fold)
    columns = ("network", "strength", "LSM", "|cos| ≥", "layers", "left", "numbers", "left ", "trained", "folded")
    columns += ("+ 5 epochs", "unfolded")
    rows = []
    for (network, arm), found in groups.items():
        left = [fold.left for fold in found]
        strength = arm if arm == FORCED else f"{found[0].strength:g}"
        rows.append(
            (
                *(network, strength, f"{_of(found, 'similarity'):.3f}", f"{_of(found, 'threshold'):.2g}"),
                *(found[0].layers, str(left[0]) if len({*left}) == 1 else f"{min(left)}–{max(left)}"),
                *(found[0].stored_before, round(_of(found, "stored_after"))),
                *(f"{100 * _of(found, stage):.2f}" for stage in STAGES),
            )
        )
    return render(columns, rows, numbers=columns[2:])


def _result(rows: Sequence[Fold], made: RunConfig) -> Result:
    """Of an arm: the accuracy of what was folded and trained on, for each seed, and means of all else."""
    machine = read_json(Path(made.out) / ENVIRONMENT)
    ours: Mapping[str, Any] = asdict(made)
    numbers = ("strength", "threshold", "similarity", "layers", "left", "stored_before", "stored_after", "output_error")
    numbers += STAGES
    return Result(
        paper=PAPER,
        table=TABLE,
        run=f"{rows[0].network}-{rows[0].arm}",
        metric="test_accuracy",
        values=[fold.folded_after for fold in rows],
        seeds=[fold.seed for fold in rows],
        config={key: value for key, value in ours.items() if key not in ("seed", "out", "data_dir")},
        environment=machine,
        seconds=[fold.seconds for fold in rows],
        numbers={name: _of(rows, name) for name in numbers},
        notes=NOTES,
    )


def _of(rows: Sequence[Fold], name: str) -> float:
    return statistics.fmean(getattr(fold, name) for fold in rows)


def _trained_as(arm: str) -> int:
    """The place in `ARMS` of the training that an arm folds."""
    return 0 if arm == FORCED else ARMS.index(arm)
