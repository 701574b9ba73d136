"""SPIN's tables and figures: each is made on digits, and the paper's protocols say what the paper says."""

from pathlib import Path

import pytest
import torch

import weightshare
from weightshare.depth.cka import cka
from weightshare.depth.search_space import staged_topologies
from weightshare.experiments import reproduce as runner
from weightshare.experiments.jobs import Outcome, Place
from weightshare.experiments.lin2022 import FUSION, NETWORK, NOISES, PANELS, PARTS, TABLES, VISION
from weightshare.experiments.papers import kept, table_named
from weightshare.experiments.reproduce import Request, reproduce
from weightshare.experiments.studies import lin2022_layers as layers
from weightshare.experiments.studies.lin2022_convmixer import NETWORKS, POINTWISE
from weightshare.experiments.studies.search_space import staged
from weightshare.experiments.view import text_table
from weightshare.training.data import load_data
from weightshare.training.environment import environment
from weightshare.training.run import trained

CLEAN = {**environment(), "commit": "0" * 40, "dirty": False}
MADE = {
    "table1": (["deit-ti", "ws-deit-ti-2-scalar"], None),
    "table2": (["unshared", "shared-bn-bias-dw-pw"], None),
    "table3": (["unshared", "random-first-2", "fused-2"], None),
    "figure1": (None, None),
    "figure2": (["unshared", "fused-2"], ["0.4"]),
    "figure3": (["unshared", "rate-2"], None),
    "figure4": (["unshared", "rate-8"], ["a"]),
}
"""For each table the first row and that with the most machinery, and columns."""
SHARED_NORMS = "ignore:Batch norm is shared"
"""What a plan says of table 2's second row."""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Results of these tests count, whatever the tree is like that they are run in."""
    monkeypatch.setattr(runner, "environment", lambda: CLEAN)
    monkeypatch.setattr("weightshare.experiments.jobs.environment", lambda: CLEAN)
    monkeypatch.setattr("weightshare.training.run.environment", lambda: CLEAN)


def made(key, folder, rows=None, columns=None):
    """What a table holds once rows of it are made at the smallest scale, by way of files."""
    results = folder / "results"
    asked = Request(f"lin2022/{key}", "smoke", rows, columns, workers=1, results=results, out=folder / "runs")
    table = reproduce(asked, echo=lambda _: None)
    held = kept(results, table, "smoke", weightshare.__version__)
    assert not held.apart
    return table, held.found


def check(table, found, rows, columns):
    """Every metric of every cell is there, and the table and its picture can be shown."""
    wanted = {cell for cell in table.cells if cell[0] in (rows or table.rows) and cell[1] in (columns or table.columns)}
    assert wanted <= set(found)
    for row, column in wanted:
        (outcome,) = found[row, column].values()
        names = set(table.columns[column])
        missing = names - set(outcome.metrics) - {name for name in names if row == "unshared" and "top1" not in name}
        assert not missing or table.key == "figure1"
        assert all(0 <= outcome.metrics[name] <= 100 for name in outcome.metrics if "top1" in name)
    assert text_table(table, found)
    assert table.picture is None or table.picture(found).axes


@pytest.mark.filterwarnings(SHARED_NORMS)
@pytest.mark.parametrize("key", MADE)
def test_first_rows(key, tmp_path):
    rows, columns = MADE[key]
    table, found = made(key, tmp_path, rows, columns)
    check(table, found, rows, columns)


@pytest.mark.slow
@pytest.mark.filterwarnings(SHARED_NORMS)
@pytest.mark.parametrize("key", MADE)
def test_all_rows(key, tmp_path):
    table, found = made(key, tmp_path)
    check(table, found, None, None)


def test_counts_are_those_that_are_printed():
    some = ("deit-ti-depth6", "ws-deit-ti-3", "deit-s", "ws-deit-s-2")
    for table, rows in ((table_named("lin2022/table1"), some), (table_named("lin2022/table2"), PARTS)):
        for row in rows:
            outcome = table.job(row, "size", "paper").work([0], Place(Path("runs")))[0]
            for name, less in (("params", 0.035), ("flops", 0.03)):  # the paper has 20.5 for 20.466, and counts norms
                printed = table.printed[row][name].value
                assert printed is None or outcome.metrics[name] == pytest.approx(printed, abs=less)
    for row in ("tied-2", "fused-2"):
        assert table_named("lin2022/table3").job(row, "size", "small").config["where"] == POINTWISE


def settings(key, row, column="", scale="paper", seed=0):
    return table_named(f"lin2022/{key}").job(row, column, scale).resolved(seed, Place(Path("runs")))


def test_the_papers_protocol_of_convmixers():
    for panel, size in PANELS.items():
        one = settings("figure4", "rate-4", panel, seed=3)
        recipe = one.train
        assert (one.model, one.data, one.image_size, one.prepare.cut) == (f"convmixer:{size}", "imagenet", 256, 224)
        assert recipe.epochs == (150 if size == "1536/20/7/3" else 300)
        assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size) == ("adamw", 0.01, 2e-5, 4 * 64)
        vary = recipe.augment
        assert all((vary.rand_augment, vary.mixup, vary.cutmix, vary.erase))
        assert (one.share[0].rate, one.share[0].fuse, one.share[0].where) == (4, "mean", POINTWISE)
        assert (one.init, one.device) == (f"runs/unshared@{panel}-seed3/model.safetensors", "auto")
    assert settings("table3", "first-2").share[0].fuse == "first"
    assert settings("table3", "random-mean-2").init is None
    assert NETWORK == "768/32/14/3"


def test_the_papers_protocol_of_transformers():
    one = settings("table1", "ws-deit-s-2-mean")
    recipe = one.train
    assert (one.model, one.model_args) == ("timm:deit_small_patch16_224", {"depth": 12, "drop_path_rate": 0.1})
    assert recipe.epochs * recipe.augment.repeats == 300
    assert (recipe.batch_size, recipe.lr, recipe.weight_decay, recipe.label_smoothing) == (255, 2.5e-4, 0.05, 0.1)
    assert recipe.warmup == pytest.approx(5 / 300)
    assert (recipe.augment.mixup, recipe.augment.cutmix, recipe.augment.erase) == (0.8, 1.0, 0.25)
    assert one.init == "runs/deit-s-seed0/model.safetensors"
    scalar = settings("table1", "ws-deit-ti-3-scalar").share[0]
    assert (scalar.rate, scalar.fuse, scalar.through, scalar.order) == (3, "scalar_weighted", True, "sequential")
    assert [settings("table1", row).model_args["depth"] for row in list(VISION)[:3]] == [12, 6, 4]


def test_rows_of_a_noise_learn_from_the_same_labels():
    for noise in NOISES:
        made = [settings("figure2", row, noise, seed=5) for row in ("unshared", "unshared-again", "fused-2")]
        assert {(one.prepare.label_noise, one.prepare.seed) for one in made} == {(float(noise), 5)}
        assert [one.init for one in made[1:]] == [f"runs/unshared@{noise}-seed5/model.safetensors"] * 2


def test_small_says_what_it_changes():
    changed = table_named("lin2022/table3").job("fused-2", "", "small").changed
    assert (changed["model"], changed["data"], changed["train.epochs"]) == ("convmixer:64/8/4/3", "cifar10", 5)
    assert (changed["prepare.fraction"], changed["train.batch_size"]) == (0.2, 128)
    assert "train.lr" not in changed
    assert table_named("lin2022/figure2").job("unshared", "0.2", "small").changed["prepare.fraction"] == 0.2
    vision = table_named("lin2022/table1").job("deit-s", "", "small").changed
    assert (vision["model_args"]["embed_dim"], vision["train.lr"], vision["train.clip"]) == (64, 1e-3, 1.0)
    for table in TABLES:
        for row, column in table.cells:
            assert not table.job(row, column, "paper").changed
            assert column != "size" or not table.job(row, column, "small").changed


def test_networks_that_stand_for_the_papers_have_blocks_for_every_rate():
    for sizes in NETWORKS.values():
        assert {int(size.split("/")[1]) % 8 for size in sizes.values()} == {0}


def test_a_row_comes_after_what_it_starts_from():
    for table in TABLES:
        rows = list(table.rows)
        assert all(rows.index(other) < rows.index(row) for row in rows for other in table.needs(row))
    # One run stands for both: fused or not, random weights of which the first is chosen are tied ones.
    assert FUSION["random-first-2"][1].like == "tied-2"
    assert settings("table3", "random-first-2", seed=1) == settings("table3", "tied-2", seed=1)


def test_figure_1_has_the_logarithms_of_whole_numbers():
    found = staged(0, 2, 12)
    exact = [staged_topologies([2] * 6, slots) for slots in range(1, 13)]
    wanted = [None if not ways else pytest.approx(torch.tensor(float(ways)).log10().item(), abs=1e-5) for ways in exact]
    assert found.curves["exact"] == wanted
    ends = table_named("lin2022/figure1").job("stage-1", "", "small").work([0], Place(Path("runs")))[0]
    assert ends.metrics == {"paper-32": pytest.approx(35.42, abs=0.005), "exact-32": pytest.approx(35.42, abs=0.005)}
    pairs = zip(found.curves["paper"], found.curves["exact"], strict=True)
    assert all(more >= less for more, less in pairs if more is not None and less is not None)


def test_layers_are_compared_with_the_unshared_network_of_the_same_seed_and_column(tmp_path):
    _, found = made("figure4", tmp_path, ["rate-2"], ["b"])
    (outcome,) = found["rate-2", "b"].values()
    runs = tmp_path / "runs" / "lin2022" / "figure4" / "smoke"
    (one, data), (other, _) = (trained(runs / f"{row}@b-seed0") for row in ("rate-2", "unshared"))
    values = cka(one, other, layers.pictures(data)).values
    rows = [row for name, row in outcome.curves.items() if name.startswith("block ")]
    assert rows == [[pytest.approx(x, abs=1e-4) for x in row] for row in values.tolist()]
    assert outcome.metrics["b/same"] == pytest.approx(values.diagonal().mean().item(), abs=1e-4)
    assert set(found["unshared", "b"][0].metrics) == {"b/top1"}


def test_the_same_layer_is_told_from_others():
    assert layers.alike(torch.tensor([[0.9, 0.2], [0.6, 0.5]])) == pytest.approx({"same": 0.7, "others": 0.4})


def test_images_come_from_the_whole_test_set(monkeypatch):
    monkeypatch.setattr(layers, "IMAGES", 40)
    data = load_data("digits")
    batches = layers.pictures(data)
    assert [len(batch) for batch in batches] == [10, 10, 10, 10]
    wanted, _ = next(data.test.batches([torch.linspace(0, len(data.test) - 1, 40).long()[1::4]]))
    torch.testing.assert_close(batches[1], data.train.normalised(wanted))


def test_pictures_of_what_is_not_all_there():
    table = table_named("lin2022/figure4")
    one, other = ([[0.2, 0.4], [0.6, 0.8]], [[0.4, 0.6], [None, 1.0]])
    outcomes = {
        seed: Outcome({}, curves={"train_accuracy": [0.5], **{f"block {at}": row for at, row in enumerate(rows)}})
        for seed, rows in enumerate((one, other))
    }
    found = {("rate-2", "a"): outcomes, ("rate-4", "a"): {0: Outcome({}, {"diverged": 1})}}
    figure = table.picture(found)
    shown = figure.axes[0].images[0].get_array()
    torch.testing.assert_close(torch.tensor(shown.filled(-1)).flatten(), torch.tensor([0.3, 0.5, -1, 0.9]).double())
    assert figure.axes[0].get_title() == "(a) fused at rate 2"
    noisy = {("unshared", "0.2"): {0: Outcome({"0.2/top1": 60.0}), 1: Outcome({"0.2/top1": 70.0})}}
    line = table_named("lin2022/figure2").picture(noisy).axes[0].lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.2], [65.0])
