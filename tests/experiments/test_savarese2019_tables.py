"""Savarese 2019's tables and figures: all run at `smoke`, are drawn, and each scale is what it says."""

from functools import partial
import math
from pathlib import Path

import pytest
import torch

import weightshare
from weightshare.depth.templates import Templates
from weightshare.experiments import savarese2019 as tables
from weightshare.experiments.jobs import Place, Scale, Training
from weightshare.experiments.papers import kept, table_named
from weightshare.experiments.printed.savarese2019 import TABLES
from weightshare.experiments.reproduce import Request, reproduce
from weightshare.experiments.studies.savarese2019_cifar import BESIDE, CIFAR, SIZE
from weightshare.experiments.studies.savarese2019_imagenet import misses
from weightshare.experiments.studies.savarese2019_lsm import THRESHOLDS
from weightshare.experiments.studies.savarese2019_pictures import draw_strips, square
from weightshare.experiments.studies.shortest_paths import Row, Schedule, Task, built
from weightshare.experiments.studies.shortest_paths_table import TITLES, measures
from weightshare.experiments.view import values
from weightshare.models import wrn
from weightshare.training.data import load_data
from weightshare.training.environment import environment
from weightshare.training.recipe import RunConfig
from weightshare.training.schedule import learning_rate
from weightshare.verbs import plan

CLEAN = {**environment(), "commit": "0" * 40, "dirty": False}
FOLDED, PATHS = "figure-lsm", "figure-shortest-paths"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Results of these tests count, whatever the tree is like that they are run in; pages of runs are tested apart."""
    monkeypatch.setattr("weightshare.experiments.reproduce.environment", lambda: CLEAN)
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: CLEAN)
    monkeypatch.setattr("weightshare.training.run.write_page", lambda *given: None)


def named(key):
    return table_named(f"savarese2019/{key}")


def made(tmp_path, key, rows=None, columns=None):
    """What counts of a table at `smoke` once it was made."""
    out = {"results": tmp_path / "results", "out": tmp_path / "runs"}
    reproduce(Request(f"savarese2019/{key}", "smoke", rows, columns, workers=1, **out), echo=lambda _: None)
    return found(tmp_path, key)


def found(tmp_path, key):
    held = kept(tmp_path / "results", named(key), "smoke", weightshare.__version__)
    assert not held.apart
    return held.found


def shown(key, held):
    """Our numbers that a page would show, by row and metric."""
    return {(one.row, one.metric): one.ours for one in values(named(key), held) if one.ours is not None}


def config(key, row, column) -> RunConfig:
    job = named(key).job(row, column, "paper")
    assert isinstance(job, Training)
    return job.resolved(3, Place(Path("runs")))


def test_there_are_the_posters_tables_and_figures():
    assert [table.key for table in tables.TABLES] == [
        *("cifar", "imagenet", "cutout", "figure-lsm", "figure-evolution"),
        *("figure-shortest-paths", "figure-evolution-paths", "figure-marks"),
    ]
    for key, printed in TABLES.items():
        assert set(named(key).rows) == set(printed)
        assert {metric for row in printed.values() for metric in row} == set(named(key).metrics)
        others = set(printed) - {row for row, _ in named(key).cells}
        assert all("wrn" not in row for row in others)
        assert len(others) == {"cifar": 3, "imagenet": 2, "cutout": 8}[key]


def test_the_table_of_cifar(tmp_path):
    held = made(tmp_path, "cifar", ["wrn-28-10-plain", "swrn-28-14-2"], [SIZE, "cifar10"])
    numbers = shown("cifar", held)
    assert 0 < numbers["swrn-28-14-2", "cifar10/error"] <= 100
    for row in ("wrn-28-10-plain", "swrn-28-14-2"):
        stored = held[row, "cifar10"][0].numbers["stored"]
        assert numbers[row, "params"] == pytest.approx(stored / 1e6, rel=2e-3)  # digits have one channel of three
    curves = held["swrn-28-14-2", "cifar10"][0].curves
    assert len(curves["layer_similarity"]) == len(curves["test_accuracy"]) == 1


def test_the_table_beside_architecture_search(tmp_path):
    numbers = shown("cutout", made(tmp_path, "cutout", ["wrn-28-10", "swrn-28-6-2"]))
    for row in ("wrn-28-10", "swrn-28-6-2"):
        assert 0 < numbers[row, "error"] <= 100
        assert 0 < numbers[row, "gpu_days"] < 1e-2
    assert numbers["swrn-28-6-2", "params"] < numbers["wrn-28-10", "params"]


def test_the_table_of_imagenet(tmp_path):
    numbers = shown("imagenet", made(tmp_path, "imagenet", ["wrn-50-2", "swrn-50-2"]))
    for row in ("wrn-50-2", "swrn-50-2"):
        assert 0 <= numbers[row, "imagenet/top5-error"] < numbers[row, "imagenet/top1-error"] <= 100


def test_layers_that_become_alike_are_folded(tmp_path):
    held = made(tmp_path, FOLDED)
    numbers = shown(FOLDED, held)
    free, driven = named(FOLDED).rows
    assert numbers[free, "left-0.99"] == numbers[free, "layers"] == 12
    assert numbers[free, "change-0.99"] == 0
    assert numbers[free, "error-folded-0.9"] == numbers[free, "error"]
    assert numbers[driven, "left-0.9"] <= numbers[driven, "left-0.99"] < 12
    assert numbers[driven, "params-folded-0.99"] < numbers[driven, "params"]
    assert numbers[driven, "similarity"] > numbers[free, "similarity"]
    curves = held[driven, ""][0].curves
    left = sum(len({*curves[f"kinds{stage}"]}) for stage in (1, 2, 3))
    assert left == numbers[driven, f"left-{THRESHOLDS[0]}"]
    assert len(drawn(FOLDED, held).axes) == 2 * 3 + 1

    evolved = found(tmp_path, "figure-evolution")
    numbers = shown("figure-evolution", evolved)
    assert numbers[driven, "similarity-0"] == numbers[free, "similarity-0"]
    assert numbers[driven, "similarity-100"] == pytest.approx(curves["mean"][-1], abs=1e-4)
    assert numbers[free, "pattern-0"] == pytest.approx(1, abs=0.05)
    picture = drawn("figure-evolution", evolved)
    assert [axes.get_title() for axes in picture.axes[:4]] == ["step 0", "step 1", "step 2", "step 5"]


def test_shortest_paths(tmp_path):
    rows = ["plain", "templates-4", "templates-4-lsm0.01", "templates-4-fresh"]
    held = made(tmp_path, PATHS, rows)
    numbers = shown(PATHS, held)
    assert ("plain", "similarity") not in numbers
    assert 0 < numbers["templates-4", "similarity"] < 1
    for row in rows:
        assert all(0 <= numbers[row, metric] <= 100 for metric in ("adaptation", "phases", "trained", "beyond"))
    one = held["templates-4", ""][0]
    assert [*one.curves["distances"]] == [1, 2, 3, 4, 5, 6]
    assert one.curves["trained"] == [1, 4]
    last = [iou for iou, step in zip(one.curves["iou"], one.curves["step"], strict=True) if step == 16]
    assert numbers["templates-4", "phase4"] == pytest.approx(100 * (last[-1] or 0), abs=0.01)
    ends = ("in the end, as trained", "in the end, larger grids")
    assert [axes.get_title() for axes in drawn(PATHS, held).axes] == [
        *("the same grids in each epoch", *ends),
        *("new grids in each step", *ends),
    ]

    evolved = found(tmp_path, "figure-evolution-paths")
    assert {row for row, _ in evolved} == {"templates-4", "templates-4-lsm0.01"}
    assert len(drawn("figure-evolution-paths", evolved).axes) == 2 * 4 + 1
    marked = drawn("figure-marks", found(tmp_path, "figure-marks"))
    assert len(marked.axes) == 4 * (1 + len(rows))
    truth = one.curves["truth@4"]
    assert len(truth) == len(one.curves["marks@4"]) == 7 * 7
    assert truth.count(3) == 2
    assert truth.count(2) >= 3  # four steps lead over three pixels at least


def drawn(key, held):
    """The picture of a figure, drawn."""
    draw = named(key).picture
    assert draw is not None
    picture = draw(held)
    picture.draw_without_rendering()
    return picture


@pytest.mark.slow
@pytest.mark.parametrize("key", ["cifar", "cutout", "imagenet", FOLDED, PATHS])
def test_all_of_it_runs(tmp_path, key):
    held = made(tmp_path, key)
    assert set(held) == set(named(key).cells)
    assert all(one.metrics for outcomes in held.values() for one in outcomes.values())


@pytest.mark.parametrize(("key", "networks"), [("cifar", CIFAR), ("cutout", BESIDE)])
def test_parameters_are_those_that_the_poster_prints(key, networks):
    for row in networks:
        job = named(key).job(row, SIZE, "paper")
        assert job.changed == {}
        ours = job.work([0, 1], Place(Path("runs")))[1].metrics["params"]
        printed = TABLES[key][row]["params"].number
        digits = 10 if key == "cutout" else 1
        assert printed in (math.floor(digits * ours) / digits, round(digits * ours) / digits)


def test_parameters_on_imagenet_are_those_that_the_poster_prints():
    for row in ("wrn-50-2", "swrn-50-2"):
        assert (
            round(named("imagenet").job(row, SIZE, "paper").work([0], Place(Path("runs")))[0].metrics["params"]) == 69
        )


def test_the_wide_network_stores_what_the_plain_one_does():
    counts = {row: named("cifar").job(row, SIZE, "small") for row in ("wrn-28-10", "swrn-28-10-2", "swrn-28-14-2")}
    stored = {row: job.work([0], Place(Path("runs")))[0].metrics["params"] for row, job in counts.items()}
    assert stored == {"wrn-28-10": 0.369498, "swrn-28-10-2": 0.175998, "swrn-28-14-2": 0.39219}


@pytest.mark.parametrize("row", CIFAR)
@pytest.mark.parametrize("column", ["cifar10", "cifar100"])
def test_the_posters_training(row, column):
    made, recipe = config("cifar", row, column), config("cifar", row, column).train
    assert (made.data, made.seed, made.precision) == (column, 3, "bf16-mixed")
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (200, 128, 0.1, 5e-4)
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov) == ("sgd", 0.9, True)
    assert (recipe.augment.crop, recipe.augment.flip, recipe.augment.cutout) == (4, True, 0)
    sizes = row.removesuffix("-plain").split("-")[1:]
    assert (made.model_args["depth"], made.model_args["width"]) == (int(sizes[0]), int(sizes[1]))
    assert made.model_args.get("templates") == (int(sizes[2]) if len(sizes) == 3 else None)
    assert made.model.endswith(row.partition("-")[0])
    assert made.model_args.get("dropout") == (None if row.endswith("plain") else 0.3)


def test_the_other_trainings_of_the_poster():
    for row, network in BESIDE.items():
        made = config("cutout", row, "cifar10")
        assert (made.train.augment.cutout, made.model_args.get("dropout")) == (16, None)
        assert (made.model_args["width"], made.train.epochs) == (network.width, 200)
    for row, pull in (("swrn-40-8-8", []), ("swrn-40-8-8-lsm0.1", [0.1])):
        made = config(FOLDED, row, "")
        assert made.model_args == {"depth": 40, "width": 8, "templates": 8}
        assert [one.strength for one in made.train.regularise] == pull
    made = config("imagenet", "swrn-50-2", "imagenet")
    assert (made.model, made.model_args, made.data) == ("weightshare.models:swrn50", {"width": 2}, "imagenet")
    assert (made.train.epochs, made.train.batch_size, made.prepare.cut, made.image_size) == (90, 256, 224, 256)


def test_the_learning_rate_falls_as_it_should():
    rates = partial(learning_rate, config("cifar", "wrn-28-10", "cifar10").train, total=200 * 390)
    assert [rates(epoch * 390) for epoch in range(200)] == pytest.approx(
        [0.1] * 60 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 40
    )
    rates = partial(learning_rate, config("imagenet", "wrn-50-2", "imagenet").train, total=90 * 100)
    assert [rates(epoch * 100) for epoch in range(90)] == pytest.approx(
        [0.1] * 30 + [0.01] * 30 + [0.001] * 20 + [0.0001] * 10
    )


def test_small_says_what_it_changes():
    job = named("cifar").job("swrn-28-14-2", "cifar10", "small")
    assert job.changed == {
        "prepare.pool": 2,
        "prepare.fraction": 0.3,
        "model_args.width": 1.5,
        "model_args.dropout": 0.0,
        "train.epochs": 5,
        "train.batch_size": 64,
        "train.lr": 0.05,
        "train.augment.crop": 2,
        "precision": "32-true",
    }
    changed = named(PATHS).job("templates-4", "", "small").changed
    assert (changed["depth"], changed["size"], changed["grids"], changed["width"]) == (32, 16, 192, 16)
    assert not {"templates", "lr", "similarity", "batch", "obstacles"} & set(changed)
    for table in tables.TABLES:
        for row, column in table.cells if table.like is None else ():
            assert table.job(row, column, "paper").changed == {}
            assert table.job(row, column, "small").changed


def test_phases_are_50_epochs():
    scales: tuple[Scale, ...] = ("small", "paper")
    for scale in scales:
        for row in TITLES:
            made = named(PATHS).job(row, "", scale).config
            assert made["grids"] * 50 == (0 if row.endswith("-fresh") else made["steps"] * made["batch"])
            assert made["depth"] == (100 if scale == "paper" else 32)
    assert named(PATHS).job("plain", "", "paper").config["size"] == 32


def test_measures_of_a_run():
    task = Task(((1, 2), (3, 4)), size=7, longest=6, larger=9, held_out=5)
    curve = [(0, 0, 0.0), (4, 0, 0.5), (4, 1, 0.2), (6, 1, 0.4), (8, 1, 0.6)]
    run = {
        "stored": 1500,
        "curve": [{"step": step, "phase": phase, "iou": iou} for step, phase, iou in curve],
        "distances": [{"distance": distance, "iou": 0.1 * distance} for distance in range(1, 7)],
        "larger": [{"distance": distance, "iou": 0.05 * distance} for distance in (2, 4, 6)],
    }
    found = {"params": 1.5, "adaptation": 20, "phases": 50, "phase1": 50, "phase2": 60}
    assert measures(run, task) == pytest.approx(found | {"trained": 25, "beyond": 55, "larger": 30})


def test_the_first_guesses():
    data = load_data("digits")

    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.arange(10.0).flip(0).expand(len(x), 10)  # guesses 0, then 1, ...

    labels = torch.cat([labels for _, labels in data.test.batches(torch.arange(len(data.test)).split(100))])
    assert misses(Constant(), data.test, 1) == pytest.approx((labels != 0).float().mean().item())
    assert misses(Constant(), data.test, 5) == pytest.approx((labels > 4).float().mean().item())


def test_matrices_from_pairs():
    one = square([0.1, 0.2, 0.3])
    torch.testing.assert_close(one.values, torch.tensor([[1, 0.1, 0.2], [0.1, 1, 0.3], [0.2, 0.3, 1]]))
    picture = draw_strips({"a": {"x": one, "y": one}, "b": {"x": one}}, {"a": [[0, 0, 2], [0, 1, 2]], "b": [[0, 0, 0]]})
    assert [axes.get_xlabel() for axes in picture.axes[:3]] == [
        "3 layers, 2 left",
        "3 layers, 3 left",
        "3 layers, 1 left",
    ]


def test_counts_are_those_of_networks_that_are_built():
    net = wrn(16, 1)
    made = plan(net, Templates(2, within="model"), net.repeated)
    job = named("cifar").job("swrn-28-10-2", SIZE, "smoke")
    assert job.work([0], Place(Path("runs")))[0].metrics["params"] == made.stored_after / 1e6
    row = {"templates": 4, "width": 16, "depth": 32}
    assert sum(parameter.numel() for parameter in built(Row(**row), 0).parameters()) < 13_000
    assert Schedule().steps * Schedule().batch == 50 * 192
