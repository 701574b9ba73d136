"""Shakerinava 2023: its tables at smoke, its protocols as the paper has them, and what `small` changes of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightshare
from weightshare.errors import ConfigError
from weightshare.experiments import shakerinava2023
from weightshare.experiments.jobs import Place
from weightshare.experiments.papers import kept, table_named
from weightshare.experiments.reproduce import Request, reproduce
from weightshare.experiments.studies import prox_timing, torus_filters
from weightshare.experiments.studies.shakerinava2023_protocol import LAYERS, REWINDING, torus_settings
from weightshare.experiments.view import text_table
from weightshare.training.data import Prepare, load_data
from weightshare.training.environment import environment

NOW = {**environment(), "commit": "0" * 40, "dirty": False}
NOW["packages"] = {**NOW["packages"], "weightshare": weightshare.__version__}
DEFAULT = {
    "torus": ("cnn", "regularised-256"),
    "cifar10": ("cnn", "regularised"),
    "shuffled": ("cnn",),
    "prox-timing": ("end", "path"),
    "regression": ("least-squares", "rewound-refit", "steps-fista"),
    "figure-rewinding": ("strength-1-rewind-0", "strength-30-rewind-0.999"),
}
"""Of each table the first row and the one with the most machinery."""
LIKE = {"figure-filters": "torus", "figure-scaling": "prox-timing"}
TABLES = {table.key: table for table in shakerinava2023.TABLES}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Results of these tests count, whatever the tree is like that they are run in."""
    monkeypatch.setattr("weightshare.experiments.reproduce.environment", lambda: NOW)
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: NOW)


def made(key, rows, tmp_path):
    """Rows of a table at smoke, read back."""
    name = f"shakerinava2023/{key}"
    results = tmp_path / "results"
    said = []
    reproduce(Request(name, "smoke", rows, results=results, out=tmp_path / "runs", workers=1), said.append)
    return kept(results, table_named(name), "smoke", weightshare.__version__).found, results


def looked_at(table, found):
    figure = table.picture(found)
    figure.savefig("/dev/null", format="png")
    return figure


def test_the_tables_are_all_there():
    assert TABLES.keys() == DEFAULT.keys() | LIKE.keys()
    assert {key: table.like for key, table in TABLES.items() if table.like} == {
        key: f"shakerinava2023/{of}" for key, of in LIKE.items()
    }


def test_the_torus_at_smoke_and_its_filters(tmp_path):
    found, results = made("torus", DEFAULT["torus"], tmp_path)
    assert found.keys() == {(row, "") for row in ("cnn", "regularised", "regularised-256")}
    regularised, few = (found[row, ""][0].metrics for row in ("regularised", "regularised-256"))
    assert few["distinct"] < regularised["distinct"] <= 100
    assert "distinct" not in found["cnn", ""][0].metrics
    assert found["cnn", ""][0].metrics["translated"] == pytest.approx(1)
    assert found["cnn", ""][0].metrics["energy"] == pytest.approx(1)
    assert "95.04" in text_table(TABLES["torus"], found)
    filters = kept(results, TABLES["figure-filters"], "smoke", weightshare.__version__).found
    assert filters.keys() == found.keys()
    values = filters["regularised", ""][0].curves["filters"]
    assert len(values) == torus_filters.SHOWN * 8 * 8
    assert max(map(abs, values)) == 1
    titles = [axes.get_title() for axes in looked_at(TABLES["figure-filters"], filters).axes]
    assert titles == ["cnn", "regularised", "regularised, shifted to fit the first", "regularised-256"]


@pytest.mark.parametrize("key", ["cifar10", "shuffled"])
def test_trainings_at_smoke(key, tmp_path):
    found, _ = made(key, DEFAULT[key], tmp_path)
    assert found.keys() == {(row, column) for row in DEFAULT[key] for column in TABLES[key].columns}
    for (_, column), outcomes in found.items():
        assert 0 <= outcomes[0].metrics[f"{column}/accuracy" if column else "accuracy"] <= 100
    if key == "cifar10":
        assert found["regularised", ""][0].metrics["zero"] > 0


def test_the_time_of_a_map_at_smoke_and_how_it_grows(tmp_path):
    found, results = made("prox-timing", DEFAULT["prox-timing"], tmp_path)
    for (_, size), outcomes in found.items():
        assert outcomes[0].metrics.keys() == {f"{size}/seconds", f"{size}/ratio"}
        assert min(outcomes[0].metrics.values()) > 0
        assert outcomes[0].numbers["off"] < 1e-7
    scaling = kept(results, TABLES["figure-scaling"], "smoke", weightshare.__version__).found
    axes = looked_at(TABLES["figure-scaling"], scaling).axes[0]
    assert [line.get_label() for line in axes.lines] == ["end", "path"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_regression_at_smoke(tmp_path):
    found, _ = made("regression", DEFAULT["regression"], tmp_path)
    assert len(found) == 6
    assert (
        found["rewound-refit", "more"][0].metrics["more/error"]
        < found["least-squares", "more"][0].metrics["more/error"]
    )
    assert found["steps-fista", "fewer"][0].metrics.keys() == {"fewer/steps"}
    looked_at(TABLES["regression"], found)


def test_strength_and_rewinding_at_smoke(tmp_path):
    found, _ = made("figure-rewinding", DEFAULT["figure-rewinding"], tmp_path)
    assert len(found) == 2
    figure = looked_at(TABLES["figure-rewinding"], found)
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["ρ = 0", "ρ = 0.999"]


@pytest.mark.slow
@pytest.mark.parametrize("key", DEFAULT)
def test_all_other_rows_at_smoke(key, tmp_path):
    rows = [row for row in TABLES[key].rows if row not in DEFAULT[key]]
    found, _ = made(key, rows, tmp_path)
    assert {row for row, _ in found} >= {*rows}


@pytest.mark.parametrize("key", [key for key, table in TABLES.items() if table.picture])
def test_pictures_of_nothing(key):
    looked_at(TABLES[key], {})


def settings(key, row, scale="paper", column=""):
    return TABLES[key].job(row, column, scale).resolved(0, Place(Path("runs")))


def test_the_torus_as_in_the_paper():
    for row in TABLES["torus"].rows:
        run = settings("torus", row)
        train = run.train
        assert (train.optimizer, train.lr, train.momentum, train.weight_decay) == ("sgd", 0.1, 0.0, 0.0)
        assert (train.schedule, train.warmup, train.batch_size, train.clip) == ("cosine", 0.0, 512, None)
        assert train.epochs == (40 if row.endswith("-256") else 200)
        assert run.model == f"torus-{'cnn' if row == 'cnn' else 'mlp'}:32/64"
        assert (run.data, run.prepare, run.device) == ("mnist", Prepare(0.6, pool=2, shift=True), "auto")
    both = settings("torus", "regularised").train.regularise
    assert [(one.strength, one.where, one.rewind, one.every) for one in both] == [
        (1e-3, "fc1.weight", 0.0, 1),
        (1e-4, "fc2.weight", 0.0, 1),
    ]
    assert {one.rewind for one in settings("torus", "rewound").train.regularise} == {0.98}
    few = settings("torus", "regularised-256")
    assert (few.codebook[0].clusters, few.train.regularise) == (256, [])
    assert few.init is not None
    assert "regularised-seed0" in few.init


def test_cifar10_as_in_the_paper():
    for row in TABLES["cifar10"].rows:
        run = settings("cifar10", row)
        assert (run.train.epochs, run.train.batch_size, run.train.lr, run.train.momentum) == (400, 512, 0.1, 0.0)
        assert (run.model, run.data) == (f"s-{'conv' if row == 'cnn' else 'fc'}:64", "cifar10")
        assert (run.train.augment.crop, run.train.augment.flip, run.train.augment.cutout) == (4, True, 16)
    (one,) = settings("cifar10", "regularised").train.regularise
    assert (one.strength, one.l1, one.rewind, one.l1_per_step, one.where) == (1e-3, 1e-4, 0.98, False, "1.weight")
    model = weightshare.models.s_fc(1)
    assert dict(model.named_parameters())["1.weight"].shape == (256, 3072)


def test_shuffled_pixels_are_the_same_with_another_order():
    for row in TABLES["shuffled"].rows:
        torus, plain = settings("shuffled", row, column="torus"), settings("torus", row)
        assert torus == replace(plain, prepare=replace(plain.prepare, shuffle=True), out=torus.out)
        cifar = settings("shuffled", row, column="cifar10")
        assert (cifar.prepare.shuffle, cifar.train.augment.flip, cifar.train.augment.crop) == (True, False, 0)


def test_what_small_changes_is_told():
    for row in ("regularised", "subgradient"):
        torus = TABLES["torus"].job(row, "", "small").changed
        assert torus == {"model": "torus-mlp:4/8", "precision": "32-true", "train.epochs": 50, "train.lr": 0.2}
    cifar = TABLES["cifar10"].job("plain", "", "small").changed
    assert cifar.keys() == {
        "model", "precision", "prepare.fraction", "train.epochs", "train.batch_size", "train.augment"
    }  # fmt: skip
    regularised = TABLES["cifar10"].job("regularised", "", "small").changed
    assert regularised.keys() == cifar.keys() | {"train.regularise"}
    assert [one["every"] for one in regularised["train.regularise"]] == [4]
    assert TABLES["regression"].job("ridge", "more", "small").changed == {}
    assert TABLES["prox-timing"].job("end", "1e3", "small").changed == {"rounds": 9, "least": 1.0, "device": "cpu"}
    rewinding = TABLES["figure-rewinding"].job("strength-10-rewind-0.9", "", "small").changed
    assert rewinding["train.regularise"][0]["strength"] == pytest.approx(0.1)
    for table in TABLES.values():
        for row, column in table.cells if table.like is None else ():
            assert table.job(row, column, "paper").changed == {}


def test_strengths_of_the_sweep_are_multiples_of_the_papers():
    assert len(REWINDING) == 16
    run = settings("figure-rewinding", "strength-10-rewind-0.9")
    assert [(one.strength, one.rewind) for one in run.train.regularise] == [
        (pytest.approx(1e-2), 0.9),
        (pytest.approx(1e-3), 0.9),
    ]
    assert run.prepare.validation == 0.1


def test_filters_of_shuffled_pixels_are_put_back(tmp_path):
    run = replace(torus_settings("plain", True, 0, tmp_path), prepare=Prepare(shuffle=True))
    data = load_data("digits")
    seen = run.prepare(data).train.images[:5].flatten(1).float()  # as the first layer sees them
    assert torch.equal(torus_filters.first_layer(run, {"fc1.weight": seen}), data.train.images[:5, 0].float())


def test_a_convolution_is_its_kernels_at_each_position(tmp_path):
    kernels = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    rows = torus_filters.first_layer(torus_settings("cnn", False, 0, tmp_path), {"conv1.weight": kernels})
    assert rows.shape == (2 * 14 * 14, 14, 14)
    assert torch.equal(rows[14 * 14 + 15, 1:4, 1:4], kernels[1, 0])


def test_filters_are_kept_of_the_first_seed_alone(tmp_path):
    run = replace(torus_settings("plain", False, 3, tmp_path), seed=3)
    assert torus_filters.shown_filters(run) == {}
    assert LAYERS == ["fc1.weight", "fc2.weight"]


def test_maps_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="method='sort': need one of end, imminent"):
        prox_timing.prox_timing("sort", "1e3", "1e3", 1, 0.0, "cpu", 0, tmp_path)


@pytest.mark.parametrize("name", prox_timing.MAPS)
def test_all_maps_are_one(name):
    w = prox_timing.SPREAD * torch.randn(3000, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(prox_timing.MAPS[name](w), prox_timing.MAPS["exact"](w), atol=1e-5)
