"""Pogodin 2021's tables and figures: all run at `smoke`, and each scale is what it says."""

from pathlib import Path
from typing import Any

import pytest

import weightshare
from weightshare.errors import ConfigError
from weightshare.experiments import pogodin2021 as tables
from weightshare.experiments.jobs import Outcome, Place
from weightshare.experiments.papers import kept, table_named
from weightshare.experiments.printed.pogodin2021 import RATES, TABLES
from weightshare.experiments.reproduce import Request, reproduce
from weightshare.experiments.studies.pogodin2021_scales import BATCH, COPIES, FRACTION, PASSES
from weightshare.experiments.studies.pogodin2021_scales import RATES as HIGHER
from weightshare.experiments.view import values
from weightshare.training.environment import environment

CLEAN = {**environment(), "commit": "0" * 40, "dirty": False}
PADDED = {"table3": 0, "table4": 4, "table5": 8}
FIGURES = ["figure4a", "figure4b", "figure5a", "figure5b", "figure4a-mean1", "figure5a-mean1"]
RECTANGLES = ["table3", "table4", "table5", "table12"]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Results of these tests count, whatever the tree is like that they are run in."""
    monkeypatch.setattr("weightshare.experiments.reproduce.environment", lambda: CLEAN)
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: CLEAN)


def named(key):
    return table_named(f"pogodin2021/{key}")


def made(tmp_path, key, rows=None, columns=None, seeds=None):
    """What counts of a table at `smoke` once it was made."""
    out = {"results": tmp_path / "results", "out": tmp_path / "runs"}
    request = Request(f"pogodin2021/{key}", "smoke", rows, columns, seeds, workers=1, **out)
    reproduce(request, echo=lambda _: None)
    return found(tmp_path, key)


def found(tmp_path, key):
    held = kept(tmp_path / "results", named(key), "smoke", weightshare.__version__)
    assert not held.apart
    return held.found


def job_of(key, row, column, scale) -> Any:
    return named(key).job(row, column, scale)


def shown(key, held):
    """Our numbers that a page would show, by row and metric."""
    return {(one.row, one.metric): one.ours for one in values(named(key), held) if one.ours is not None}


def test_there_are_the_papers_tables_and_figures():
    assert [table.key for table in tables.TABLES] == [f"table{number}" for number in range(1, 12 + 1)] + [
        *FIGURES,
        "figure6",
    ]
    for key, printed in TABLES.items():
        assert list(named(key).rows) == list(printed)
        assert {metric for row in printed.values() for metric in row} == set(named(key).metrics)


def test_table_4_is_made_and_seen_in_the_tables_that_are_like_it(tmp_path):
    held = made(tmp_path, "table4", ["conv", "lc-ws10"], seeds=1)
    assert set(held) == {(row, column) for row in ("conv", "lc-ws10") for column in tables.SMALL_SETS}
    numbers = shown("table1", found(tmp_path, "table1"))
    assert numbers == shown("table4", held)
    top1, top5 = (numbers["lc-ws10", f"cifar100/{top}"] for top in ("top1", "top5"))
    assert 0 < top1 < top5 < 100
    assert numbers["lc-ws10", "cifar100/top1-diff"] == pytest.approx(top1 - numbers["conv", "cifar100/top1"])
    one = held["lc-ws10", "cifar10"][0]
    assert len(one.curves["noise_within_modules"]) == len(one.curves["test_accuracy"]) == 1
    assert one.numbers["stored"] > held["conv", "cifar10"][0].numbers["stored"]
    assert not shown("table7", found(tmp_path, "table7"))  # of one run there is no spread


def test_the_spread_of_runs_is_their_highest_less_their_lowest(tmp_path):
    held = made(tmp_path, "table6", ["conv"], ["cifar10"], seeds=2)
    accuracies = [one.metrics["cifar10/top1"] for one in found(tmp_path, "table3")["conv", "cifar10"].values()]
    assert len(accuracies) == 2
    assert shown("table6", held) == {("conv", "cifar10/top1"): pytest.approx(max(accuracies) - min(accuracies))}
    assert tables.spreads({0: Outcome({"top1": 1.0}), 1: Outcome({}, {"diverged": 1})})[0].numbers == {"diverged": 1}


@pytest.mark.parametrize(("key", "rows"), [("table3", ["lc-ws1"]), ("table5", ["conv", "lc-reps16"])])
def test_other_paddings(tmp_path, key, rows):
    numbers = shown(key, made(tmp_path, key, rows, ["cifar10"], seeds=1))
    assert {row for row, _ in numbers} == set(rows)


@pytest.mark.parametrize(
    ("key", "row", "column"),
    [("table9", "conv", "cifar10"), ("table10", "lc-reps4", "cifar100"), ("table11", "lc-ws100", "tiny-imagenet")],
)
def test_a_search_gives_a_point_of_its_grid(tmp_path, key, row, column):
    held = made(tmp_path, key, [row], [column])
    numbers, job = shown(key, held), job_of(key, row, column, "smoke")
    best = (numbers[row, f"{column}/lr"], numbers[row, f"{column}/weight_decay"])
    assert best in job.points
    tried = held[row, column][0].numbers
    assert len(tried) == len(job.points) == 2
    assert tried[f"lr{best[0]:g}-wd{best[1]:g}"] == max(tried.values())


def test_a_stopped_search_goes_on_with_the_point_that_it_was_at(tmp_path, monkeypatch):
    job, place, trained = job_of("table10", "conv", "cifar10", "smoke"), Place(tmp_path), []
    from weightshare.experiments import jobs

    def counting(settings, label):
        trained.append(settings.train.lr)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return run(settings, label=label)

    run = jobs.run
    monkeypatch.setattr(jobs, "run", counting)
    with pytest.raises(KeyboardInterrupt):
        job.work([0], place)
    first = (tmp_path / "conv-lr0.1-wd0.01@cifar10-seed0" / "summary.json").stat().st_mtime_ns
    assert job.work([0], place)[0].metrics["cifar10/lr"] in {lr for lr, _ in job.points}
    assert (tmp_path / "conv-lr0.1-wd0.01@cifar10-seed0" / "summary.json").stat().st_mtime_ns == first


def test_imagenet_with_and_without_a_first_layer_of_convolutions(tmp_path):
    held = made(tmp_path, "table12", ["conv", "first-conv-ws10"])
    assert {row for row, _ in shown("table12", held)} == {"conv", "first-conv-ws10"}
    assert {row for row, _ in found(tmp_path, "table2")} == {"conv"}


@pytest.mark.parametrize("key", FIGURES)
def test_sleep_figures(tmp_path, key):
    held = made(tmp_path, key, ["k3-gamma0.1", "k9-gamma0.001"])
    assert [len(outcomes) for outcomes in held.values()] == [2, 2]
    numbers = shown(key, held)
    end, aim = numbers["k9-gamma0.001", "end"], numbers["k9-gamma0.001", "theory"]
    assert numbers["k9-gamma0.001", "distance"] == pytest.approx(end - aim)
    assert numbers["k9-gamma0.001", "minimum"] <= end
    _drawn(key, held, lines=1)


def test_figure_6(tmp_path):
    held = made(tmp_path, "figure6", ["lr0.0005", "lr0.05"])
    curves = {row: held[row, ""][0].curves for row in ("lr0.0005", "lr0.05")}
    for one in curves.values():
        assert len(one["over"]) == len(one["within"]) == 12
        assert [step for step, value in enumerate(one["within"]) if value is None] == [0, 10]  # right after a sleep
    numbers = shown("figure6", held)
    assert numbers["lr0.05", "within-before"] > numbers["lr0.0005", "within-before"]
    assert numbers["lr0.05", "before"] == curves["lr0.05"]["over"][9]
    assert numbers["lr0.05", "after"] == curves["lr0.05"]["over"][10]
    _drawn("figure6", held, lines=2)


def _drawn(key, held, lines):
    draw: Any = named(key).picture
    figure = draw(held)
    panels = figure.get_axes()
    assert len(panels) == 3
    assert all(panel.get_title() for panel in panels)
    assert len(panels[0].get_lines()) >= lines
    assert len(draw({}).get_axes()) == 3  # nothing is there yet


@pytest.mark.parametrize(("key", "padding"), PADDED.items())
def test_the_papers_protocol(key, padding):
    for row, column in named(key).cells:
        job = job_of(key, row, column, "paper")
        assert job.changed == {}
        made = job.resolved(3, Place(Path("runs")))
        lr, decay = RATES[padding][row][tables.SMALL_SETS.index(column)]
        assert (made.train.epochs, made.train.batch_size, made.model) == (200, 512, "resnet20:16/32/64")
        assert (made.train.lr, made.train.weight_decay, made.data, made.device) == (lr, decay, column, "auto")
        assert (made.train.schedule, made.train.milestones, made.train.factor) == ("step", [0.5, 0.75], 0.25)
        assert (made.train.optimizer, made.seed, made.precision) == ("adamw", 3, "16-mixed")
        assert padding == (made.prepare.margin if column == "tiny-imagenet" else made.train.augment.crop)


def test_imagenets_protocol():
    for row, column in named("table12").cells:
        made = job_of("table12", row, column, "paper").resolved(0, Place(Path("runs")))
        assert (made.train.epochs, made.train.batch_size, made.model) == (200, 256, "resnet18:32/64/128/256")
        assert (made.train.lr, made.train.weight_decay) == (1e-3 if row in ("conv", "lc-ws1") else 5e-4, 1e-2)
        assert (made.image_size, made.prepare.cut, made.train.augment.flip) == (256, 224, True)
        assert [one.keep_first for one in made.localise] == [] if row == "conv" else [int("first" in row)]


def test_small_says_what_it_changes():
    job = job_of("table4", "lc-reps4", "cifar10", "small")
    assert job.changed == {
        "model_args": {"blocks": 1},
        "precision": "32-true",
        "prepare.copies": COPIES // 4,
        "prepare.fraction": FRACTION,
        "prepare.pool": 2,
        "train.augment.crop": 2,
        "train.batch_size": BATCH,
        "train.epochs": PASSES // COPIES,
        "train.lr": HIGHER["lc-reps4"],
    }
    assert job.config["model"] == "resnet20:16/32/64"
    tiny = job_of("table5", "conv", "tiny-imagenet", "small").changed
    assert (tiny["prepare.cut"], tiny["prepare.margin"], tiny["prepare.pool"]) == (24, 4, 2)
    large = job_of("table12", "first-conv-ws1", "imagenet", "small").changed
    assert (large["prepare.cut"], large["image_size"], large["train.epochs"]) == (56, 64, 2)


def test_as_many_steps_with_repeats_as_without():
    steps = set()
    for row in named("table4").rows:
        made = job_of("table4", row, "cifar10", "small").resolved(0, Place(Path("runs")))
        images = 50_000 * FRACTION * made.prepare.copies
        steps.add(made.train.epochs * (images // (made.train.batch_size // made.train.augment.repeats)))
    assert steps == {50_000 * FRACTION * PASSES // BATCH}


def test_the_papers_grids():
    points = {(row, of): job_of("table10", row, of, "paper").points for row, of in named("table10").cells}
    assert points["conv", "cifar10"] == [(lr, wd) for lr in (0.1, 0.05, 0.01, 0.005) for wd in (1e-2, 1e-4)]
    assert points["lc-ws1", "tiny-imagenet"] == [(lr, wd) for lr in (1e-3, 5e-4) for wd in (1e-2, 1e-4)]
    job = job_of("table10", "lc", "tiny-imagenet", "paper")
    assert job.changed == {}
    trained = [one["train"] for one in job.config["search"]]
    assert [(one["lr"], one["weight_decay"]) for one in trained] == points["lc", "tiny-imagenet"]
    assert {(one["epochs"], *one["milestones"]) for one in trained} == {(50, 0.5, 0.74)}
    assert {one["prepare"]["validation"] for one in job.config["search"]} == {0.1}
    fewer = job_of("table10", "lc", "cifar10", "small")
    assert (fewer.changed["train.epochs"], fewer.changed["prepare.validation"]) == (2, 0.5)
    assert list(job_of("table10", "lc", "cifar10", "smoke").changed["points"]) == [[1e-3, 1e-2], [5e-5, 1e-4]]


@pytest.mark.parametrize("key", FIGURES)
def test_small_figures_are_the_papers_own(key):
    for row, column in named(key).cells:
        small, paper = (job_of(key, row, column, scale) for scale in ("small", "paper"))
        assert small.config == paper.config
        assert small.changed == paper.changed == {}
        assert paper.config["steps"] == {"4a": 2000, "4b": 4000, "5a": 10_000, "5b": 10_000}[key[6:8]]
        assert (paper.config["neurons"], paper.config["momentum"]) == (100, 0.95)
        assert paper.config["input_mean"] == float(key.endswith("mean1"))
    assert named(key).seeds["small"] == 10


def test_figure_6_at_the_papers_rates():
    for row, column in named("figure6").cells:
        paper = job_of("figure6", row, column, "paper")
        made = paper.resolved(0, Place(Path("runs")))
        assert made.train.lr == float(row.removeprefix("lr"))
        assert (made.train.batch_size, made.train.sleep[0].every, paper.steps) == (512, 10, 60)
        assert paper.changed == {}
        assert "train.lr" not in job_of("figure6", row, column, "small").changed


def test_rows_that_are_none():
    with pytest.raises(ConfigError, match="has no row 'lc-reps2'"):
        named("table4").chosen(["lc-reps2"])


@pytest.mark.slow
@pytest.mark.parametrize("key", [*RECTANGLES, "table9", "table10", "table11", *FIGURES, "figure6"])
def test_every_cell_is_made(tmp_path, key):
    assert set(made(tmp_path, key)) == set(named(key).cells)
