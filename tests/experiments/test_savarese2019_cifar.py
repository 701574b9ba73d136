"""Wide ResNets on CIFAR-10: what the rows of the small table are, all of them on small data, and the poster's own."""

from dataclasses import replace
import json

from lightning_fabric import Fabric
import pytest
import torch

from weightshare.depth.templates import Templates
from weightshare.errors import ConfigError
from weightshare.experiments.studies import savarese2019_cifar
from weightshare.experiments.studies.results import Result
from weightshare.experiments.studies.savarese2019_cifar import POSTER, PROTOCOL, ROWS, config, poster_config
from weightshare.experiments.studies.savarese2019_cifar_results import cifar, differences, folds, moments, table
from weightshare.models import wrn
from weightshare.training.data import Augment, Prepare, load_data
from weightshare.training.loop import fit
from weightshare.training.recipe import RunConfig, strict
from weightshare.training.run import PLANS, prepared
from weightshare.training.schedule import learning_rate
from weightshare.verbs import plan


def test_rows_are_what_they_say():
    made = {row: config(row, 5, "runs") for row in ROWS}
    assert {row: one.model.partition(":")[2] for row, one in made.items()} == {
        row: "wrn" if row == "wrn" else "swrn" for row in ROWS
    }
    assert {row: one.model_args.get("templates") for row, one in made.items()} == {
        "wrn": None, "swrn-6": 6, "swrn-2": 2, "swrn-2-similar": 2, "swrn-2-similar-weak": 2, "swrn-2-wide": 2,
    }  # fmt: skip
    penalised = {row: one.train.regularise[0].strength for row, one in made.items() if one.train.regularise}
    assert penalised == {"swrn-2-similar": 0.3, "swrn-2-similar-weak": 0.1}
    # All else is one protocol, and one set of images.
    assert len({json.dumps(vars(replace(one.train, regularise=[])), default=vars) for one in made.values()}) == 1
    assert {(one.prepare, one.seed) for one in made.values()} == {(savarese2019_cifar.PREPARE, 5)}
    with pytest.raises(ConfigError, match="no row 'swrn-3'"):
        config("swrn-3", 0, "runs")


def test_the_wide_network_stores_what_the_plain_one_does():
    stored = {row: _stored(config(row, 0, "runs").model_args) for row in ("wrn", "swrn-6", "swrn-2", "swrn-2-wide")}
    assert stored == {"wrn": 369_498, "swrn-6": 369_606, "swrn-2": 175_998, "swrn-2-wide": 392_190}


def _stored(sizes):
    with torch.device("meta"):
        net = wrn(sizes["depth"], sizes["width"])
    if "templates" not in sizes:
        return sum(parameter.numel() for parameter in net.parameters())
    return plan(net, Templates(sizes["templates"], within="model"), net.repeated).stored_after


def test_the_learning_rate_falls_at_60_120_and_160_of_200_epochs():
    steps = 390
    rates = [learning_rate(PROTOCOL, epoch * steps, 200 * steps) for epoch in range(200)]
    expected = [0.1] * 60 + [0.02] * 60 + [0.004] * 40 + [0.0008] * 40
    assert rates == pytest.approx(expected)


@pytest.fixture
def on_digits(monkeypatch):
    """Networks of three blocks a stage on images that a dependency carries."""
    tiny = replace(PROTOCOL, batch_size=239, lr=0.02, augment=Augment(crop=1))
    monkeypatch.setattr(savarese2019_cifar, "PROTOCOL", tiny)
    monkeypatch.setattr(savarese2019_cifar, "DEPTH", 22)
    monkeypatch.setattr(savarese2019_cifar, "EPOCHS", 2)
    monkeypatch.setattr("weightshare.training.run.write_page", lambda *given: None)  # slow, and tested by itself
    monkeypatch.setattr(savarese2019_cifar, "PREPARE", Prepare(fraction=0.4, validation=0.1))


def test_rows_on_digits(tmp_path, on_digits):
    shown = []
    rows = ("wrn", "swrn-2", "swrn-2-similar")
    made = cifar(tmp_path / "runs", dict.fromkeys(rows, (0,)), tmp_path, data="digits", echo=shown.append)
    assert shown == [f"{table(made)}\n\n{differences(made)}\n\n{moments(made)}\n\n{folds(made)}"]
    plain, shared, similar = (one.numbers for one in made)
    saved = 2 * 9 * (16**2 + 32**2 + 64**2)  # of four layers a stage two
    assert shared["stored"] == similar["stored"] == plain["stored"] - saved + 3 * 4 * 2
    # The same start, and layers that are pulled together.
    assert similar["similarity_at_0"] == shared["similarity_at_0"]
    assert similar["similarity_at_1"] > shared["similarity_at_1"]
    assert shared["like_end_at_1"] == pytest.approx(1)
    assert shared["like_end_at_0"] > 0.9  # in four steps
    assert shared["layers"] == 12
    assert 3 <= similar["layers_left"] <= 12
    assert similar["folded_stored"] <= similar["stored"]

    folder = tmp_path / "savarese2019" / "cifar10"
    assert {path.name for path in folder.iterdir()} == {
        *(f"{row}.json" for row in rows),
        *(f"lsm-{row}.png" for row in rows[1:]),
        *("accuracy.png", "similarity.png", "curves.json", "similarity.json"),
    }
    read = Result.read(folder / "swrn-2.json")
    assert (read.config["data"], read.paper_value) == ("digits", 1 - 0.0375)
    assert str(tmp_path) not in (folder / "swrn-2.json").read_text()
    matrices = json.loads((folder / "similarity.json").read_text())
    assert list(matrices) == list(rows[1:])
    last = list(matrices["swrn-2"]["0"].values())[-1]
    assert sum(sum(map(sum, matrix)) - 4 for matrix in last.values()) / 36 == pytest.approx(
        shared["similarity_at_1"], abs=1e-4
    )

    # A network that is built shared has its plan in its run.
    (told,) = json.loads((tmp_path / "runs" / "swrn-2-seed0" / PLANS).read_text())
    assert [group["templates"] for group in told["groups"]] == [2, 2, 2]


def test_the_posters_rows_are_configurations():
    for row, (network, cutout, _) in POSTER.items():
        made = poster_config(row, 0, "runs")
        assert strict(RunConfig, json.loads(json.dumps(made, default=vars))) == made
        assert (made.model, made.train.augment.cutout) == (network, 16 if cutout else 0)
        assert made.model_args == ({} if cutout else {"dropout": 0.3})
        assert replace(made.train, augment=PROTOCOL.augment) == PROTOCOL
    with pytest.raises(ConfigError, match="no row 'swrn-28-10-3'"):
        poster_config("swrn-28-10-3", 0, "runs")


def test_the_posters_recipe_trains_a_smaller_network(on_digits):
    full = poster_config("swrn-28-10-2-cutout", 0, "runs", "digits")
    data = Prepare(fraction=0.4)(load_data("digits"))
    model, (made,) = prepared(replace(full, model="swrn:16/1/2"), data)
    assert [group.templates for group in made.groups] == [2, 2, 2]
    recipe = replace(full.train, epochs=1, batch_size=239, augment=Augment(crop=1, flip=True, cutout=3))
    (row,) = fit(model, data, recipe, fabric=Fabric(accelerator="cpu", devices=1))
    assert 0 < row["train_loss"] < 10
    assert row["layer_similarity"] > 0
