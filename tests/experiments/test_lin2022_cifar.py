"""SPIN's ConvMixers: what the rows of the small table are, the first of them on small data, and SPIN's own recipe."""

from dataclasses import replace
import json

from lightning_fabric import Fabric
import pytest
import torch

from weightshare.errors import ConfigError
from weightshare.experiments.studies import lin2022_cifar, lin2022_cifar_results
from weightshare.experiments.studies.lin2022_cifar import ARMS, NOISES, NOISY, PUBLISHED, ROWS, config
from weightshare.experiments.studies.lin2022_cifar_results import differences, noise_curves
from weightshare.experiments.studies.lin2022_imagenet import EPOCHS, spin_convmixer
from weightshare.experiments.studies.results import Result, pooled_deviation
from weightshare.training.data import Augment, Prepare, load_data
from weightshare.training.loop import fit
from weightshare.training.recipe import RunConfig, strict
from weightshare.training.run import prepared, run


def test_rows_are_what_they_say():
    assert len(ROWS) == len(ARMS) + 2 * len(NOISY) == 27
    assert set(PUBLISHED) < set(ROWS)
    shared = {row: made.share[0] for row in ARMS if (made := config(row, 5, "runs")).share}
    assert {row: share.rate for row, share in shared.items() if share.rate == 4} == dict.fromkeys(
        [f"{kind}-4{order}" for kind in ("tied", "fused") for order in ("", "-strided", "-random")], 4
    )
    assert {row for row, share in shared.items() if share.fuse == "mean"} == {
        row for row in ARMS if row.startswith(("fused", "random-mean"))
    }
    assert {share.order_seed for share in shared.values()} == {5}
    assert set(ARMS) - set(shared) == {"unshared", "unshared-again", "tied-2-again"}
    with pytest.raises(ConfigError, match="no row 'tied-3'"):
        config("tied-3", 0, "runs")


def test_a_row_starts_from_its_own_seed_and_its_own_labels_and_comes_after_it():
    assert config("fused-2-noise-0.4", 3, "runs").init == "runs/unshared-noise-0.4-seed3/model.safetensors"
    assert config("tied-2-again", 1, "runs").init == "runs/tied-2-seed1/model.safetensors"
    assert config("random-mean-2", 1, "runs").init is None
    names = list(ROWS)
    for row, (arm, noise) in ROWS.items():
        start = ARMS[arm].start or arm
        assert names.index(lin2022_cifar.row_of(start, noise)) <= names.index(row)
    for noise in NOISES[1:]:
        noisy = {json.dumps(vars(config(f"{arm}-noise-{noise}", 7, "runs").prepare)) for arm in NOISY}
        assert len(noisy) == 1
        assert config(f"tied-2-noise-{noise}", 7, "runs").prepare.label_noise == noise
        assert config(f"tied-2-noise-{noise}", 7, "runs").prepare.seed == 7


@pytest.fixture
def on_digits(monkeypatch):
    """A tiny network on images that a dependency carries."""
    monkeypatch.setattr(lin2022_cifar, "NETWORK", "convmixer:5/4/2/3")
    tiny = replace(lin2022_cifar.RECIPE, epochs=2, batch_size=239, augment=Augment(crop=1))
    monkeypatch.setattr(lin2022_cifar, "RECIPE", tiny)
    monkeypatch.setattr(lin2022_cifar, "PREPARE", Prepare(fraction=0.4, validation=0.1))


def test_first_rows_on_digits(tmp_path, on_digits):
    shown = []
    wanted = ("unshared", "tied-2", "tied-2-again", "fused-2", "unshared-noise-0.4")
    rows = {row: [0] for row in wanted}
    made = lin2022_cifar_results.cifar(tmp_path / "runs", rows, tmp_path, data="digits", echo=shown.append)
    folder = tmp_path / "lin2022" / "cifar10"
    stored = {one.run: one.numbers["stored"] for one in made}
    assert stored["unshared"] - stored["tied-2"] == 2 * (5 * 5 + 5)  # two of four pointwise layers, biases too
    assert stored["tied-2"] == stored["tied-2-again"] == stored["fused-2"]
    assert [one.numbers["epochs"] for one in made] == [2, 2, 4, 4, 2]
    read = Result.read(folder / "fused-2.json")
    assert read.config["start"] == "unshared"
    assert (read.config["data"], read.paper_value) == ("digits", 0.7528)
    assert str(tmp_path) not in (folder / "fused-2.json").read_text()
    assert {"accuracy.png", "noise.png", "curves.json"} <= {path.name for path in folder.iterdir()}
    assert shown == [f"{lin2022_cifar_results.table(made)}\n\n{differences(made)}"]
    # Where it stands is kept: what is there is read, and nothing is trained or tested again.
    kept = json.loads((tmp_path / "runs" / "fused-2-seed0" / "tested.json").read_text())
    assert kept["images"] == len(load_data("digits").test)
    assert made[3].values == [kept["accuracy"]]


def test_a_fused_network_starts_from_the_means_of_the_trained_one(tmp_path, on_digits):
    run(config("unshared", 0, tmp_path, "digits"))
    settings = config("fused-2", 0, tmp_path, "digits")
    model, plans = prepared(settings, settings.prepare(load_data("digits")))
    start, _ = prepared(replace(settings, share=[]), settings.prepare(load_data("digits")))
    assert plans[0].stored_after < plans[0].stored_before
    mean = (start.blocks[2].pointwise.weight + start.blocks[3].pointwise.weight) / 2
    torch.testing.assert_close(model.blocks[3].pointwise.weight, mean)
    torch.testing.assert_close(model.blocks[3].depthwise.weight, start.blocks[3].depthwise.weight)


def of(run: str, *values: float) -> Result:
    return Result("p", "t", run, "m", values, range(len(values)), {}, {}, [1.0] * len(values))


def test_a_difference_counts_above_two_errors_of_the_pooled_deviation():
    results = [of("tied-2", 0.50, 0.52), of("fused-2", 0.56, 0.60), of("unshared", 0.57)]
    pooled = ((0.0002 + 0.0008) / 2) ** 0.5
    assert pooled_deviation(results) == pytest.approx(pooled)
    lines = [line.split() for line in differences(results).splitlines()]
    rows = {(cells[0], cells[1]): cells[2:] for cells in lines if len(cells) > 2}
    error = 100 * pooled
    assert rows["fused-2", "tied-2"] == ["+7.00", "±", f"{error:.2f}", "yes", "+0.99"]
    assert rows["fused-2", "unshared"] == ["+1.00", "±", f"{error * 1.5**0.5:.2f}", "no", "-0.43"]


def test_label_noise_is_drawn_for_arms_with_several():
    results = [of("unshared", 0.6, 0.7), of("unshared-noise-0.4", 0.5, 0.4), of("tied-2", 0.6)]
    curves = noise_curves(results)
    assert curves == {"unshared": {0.0: (0.6, 0.7), 0.4: (0.5, 0.4)}}
    axes = lin2022_cifar_results.draw_noise(curves).axes[0]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.65, 0.45])


def test_spins_own_recipe_is_a_configuration_that_trains(tmp_path):
    for size in EPOCHS:
        made = spin_convmixer(size, tmp_path, rate=2)
        assert strict(RunConfig, json.loads(json.dumps(made, default=vars))) == made
    with pytest.raises(ConfigError, match="no ConvMixer '256/8/7/3'"):
        spin_convmixer("256/8/7/3", tmp_path)
    full = spin_convmixer("768/32/14/3", tmp_path / "run", rate=2)
    assert full.share[0].where == "blocks.*.pointwise"
    small = replace(full, model="convmixer:5/4/2/3", prepare=Prepare(), out=str(tmp_path))
    data = load_data("digits")
    model, plans = prepared(small, data)
    assert [plan.stored_before - plan.stored_after for plan in plans] == [2 * (5 * 5 + 5)]
    (row,) = fit(model, data, replace(small.train, epochs=1), fabric=Fabric(accelerator="cpu", devices=1))
    assert row["lr"] == pytest.approx(0.01 / 20)  # of five steps the last is two thirds down the fall
    assert 0 < row["train_loss"] < 10
