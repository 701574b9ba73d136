"""Tied ResNets: configurations, statistics measured again, and the first rows on made-up images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from weightshare.errors import ConfigError
from weightshare.experiments.studies import lin2022_resnets, lin2022_resnets_results
from weightshare.experiments.studies.lin2022_resnets import ARMS, NETWORKS, RATES, config, rate_config, reestimate_
from weightshare.experiments.studies.lin2022_resnets_results import SPECS, Sets, rates, starts, table, train
from weightshare.experiments.studies.results import Result
from weightshare.models import resnet20
from weightshare.training.data import Augment, load_data

SMALL = (2, 3, 5)


def test_arms_are_what_they_say():
    made = {arm: config("resnet44", arm, 3, "runs", "exact.npz") for arm in ARMS}
    assert {arm: (one.init, one.share[0].fuse) for arm, one in made.items()} == {
        "fused": ("runs/resnet44.safetensors", "mean"),
        "scratch": (None, "first"),
        "random": (None, "mean"),
    }
    assert [replace(one.train, lr=0.01) for one in made.values()] == [lin2022_resnets.RECIPE] * 3
    assert {(one.seed, one.model_args["blocks"], one.prepare.normalise) for one in made.values()} == {
        (3, 7, "imagenet")
    }
    tried = rate_config("scratch", 0.5, "runs", "exact.npz")
    assert (tried.train.lr, tried.prepare.validation, tried.out) == (0.5, 0.2, "runs/rate-scratch-0.5")
    assert all(ARMS[arm][2] in several for arm, several in RATES.items())
    with pytest.raises(ConfigError, match="no 'resnet21' 'fused'"):
        config("resnet21", "fused", 0, "runs", "exact.npz")


@pytest.fixture
def images(tmp_path):
    """Two sets of images in colour, one class brighter than the other."""
    generator = np.random.default_rng(0)
    labels = np.arange(97) % 2
    for name, noise in (("exact", 20), ("jpeg", 40)):
        pixels = 100 + 60 * labels[:, None, None, None] + noise * generator.standard_normal((97, 8, 8, 3))
        np.savez(tmp_path / f"{name}.npz", images=pixels.astype(np.uint8), labels=labels, is_train=np.arange(97) < 68)
    return Sets(str(tmp_path / "exact.npz"), str(tmp_path / "jpeg.npz"))


@pytest.fixture
def small(monkeypatch):
    """A tiny network, trained for two epochs."""
    recipe = replace(lin2022_resnets.RECIPE, epochs=2, batch_size=17, augment=Augment(crop=1, flip=True))
    monkeypatch.setattr(lin2022_resnets, "RECIPE", recipe)
    monkeypatch.setattr(lin2022_resnets, "NETWORKS", {"resnet20": 2})
    monkeypatch.setattr(lin2022_resnets, "WIDTHS", "/".join(map(str, SMALL)))
    monkeypatch.setattr(lin2022_resnets_results, "RATES", {"fused": (0.1,)})


def test_statistics_measured_again(images, monkeypatch):
    """Of the first norm they are means over batches; the mode of each module and all parameters stay."""
    torch.manual_seed(0)
    split = images["exact"].train
    monkeypatch.setattr(lin2022_resnets, "RECIPE", replace(lin2022_resnets.RECIPE, augment=Augment()))
    net = resnet20(SMALL, blocks=1, shortcut="pad", classes=2).eval()
    net.layer1.train()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    reestimate_(net, images["exact"], batch_size=23)
    with torch.no_grad():
        inputs = [net.conv1(split[at : at + 23][0]) for at in (0, 23)]  # of 68 the last 22 fill no batch
    torch.testing.assert_close(net.bn1.running_mean, sum(x.mean((0, 2, 3)) for x in inputs) / 2)
    torch.testing.assert_close(net.bn1.running_var, sum(x.var((0, 2, 3)) for x in inputs) / 2)
    assert [net.training, net.layer1[0].bn1.training, net.bn1.training] == [False, True, False]
    assert net.bn1.momentum == 0.1
    torch.testing.assert_close([*net.parameters()], before, rtol=0, atol=0)
    clean = net.bn1.running_mean.clone()
    monkeypatch.undo()
    reestimate_(net, images["exact"], batch_size=23)
    assert not torch.equal(net.bn1.running_mean, clean)  # varied as in training, and the same each time
    found = net.bn1.running_mean.clone()
    reestimate_(net, images["exact"], batch_size=23)
    assert torch.equal(net.bn1.running_mean, found)


def test_first_rows(tmp_path, small, images):
    torch.manual_seed(0)
    weights = {"resnet20": resnet20(SMALL, blocks=2, shortcut="pad", classes=2).state_dict()}
    shown = []
    specs = {name: SPECS[name] for name in ("unshared", "mean", "least-squares")}
    begun = starts(weights, images, tmp_path / "runs", tmp_path, specs, echo=shown.append)
    assert [one.run for one in begun] == ["resnet20-unshared", "resnet20-mean", "resnet20-least-squares"]
    assert begun[0].numbers["stored"] - begun[1].numbers["stored"] == 2 * 9 * 2**2
    assert [{key for key in one.numbers if "again" in key} for one in begun[1:]] == [
        {"exact_again", "jpeg_again"},
        {"exact_again"},
    ]
    (made,) = train({"resnet20": ("fused",)}, (0, 1), images, tmp_path / "runs", tmp_path, echo=shown.append)
    assert (made.config["data"], made.config["init"]) == ("exact", "resnet20")
    assert str(tmp_path) not in (tmp_path / "lin2022" / "resnets" / "resnet20-fused.json").read_text()
    assert made.numbers["jpeg"] == sum(made.numbers[f"jpeg_seed{seed}"] for seed in (0, 1)) / 2
    lines = shown[1].splitlines()
    assert [line[10:30].strip() for line in lines[-4:]] == [
        "trained, unshared",
        "fused",
        "fused, norms again",
        "fused, trained on",
    ]
    assert rates(images, tmp_path / "runs", tmp_path)[0].run == "fused-0.1"
    again = starts(weights, images, tmp_path / "runs", tmp_path, {"mean": SPECS["first"]}, echo=shown.append)
    assert again[0] == begun[1]  # what is there is read


def result(run, values, jpeg, images=(100, 400)):
    numbers = {"stored": 7, "jpeg": sum(jpeg) / len(jpeg), "exact_images": images[0], "jpeg_images": images[1]}
    numbers |= {f"jpeg_seed{seed}": value for seed, value in enumerate(jpeg)}
    seeds = range(len(values))
    return Result("lin2022", "resnets", run, "test_accuracy", values, [*seeds], {}, {}, [0.0 for _ in seeds], numbers)


def test_a_difference_and_its_error():
    """By hand: p(1-p)/n over images and s²/k over seeds, on both sides."""
    fused = result("resnet20-fused", [0.8, 0.9], [0.5, 0.5])
    scratch = result("resnet20-scratch", [0.6, 0.6], [0.46, 0.46])
    line = table([], [fused, scratch]).splitlines()[-1]
    high = (0.85 * 0.15 / 100 + 0.005 / 2) ** 0.5
    low = (0.6 * 0.4 / 100) ** 0.5
    both = (high**2 + low**2) ** 0.5
    assert f"60.00 ± {100 * low:.2f}" in line
    assert f"+25.00 ± {100 * both:.2f}" in line
    assert f"+4.00 ± {100 * (0.25 / 400 + 0.46 * 0.54 / 400) ** 0.5:.2f}" in line
    assert line.endswith("yes, no")
    random = result("resnet20-random", [0.6, 0.7], [0.4, 0.4])
    of_random = 0.65 * 0.35 / 100 + 0.005 / 2
    wide, narrow = (of_random + low**2) ** 0.5, (0.46 * 0.54 / 400 + 0.24 / 400) ** 0.5
    assert table([], [fused, scratch, random]).splitlines()[-2:] == [
        lin2022_resnets_results.CHECK,
        f"resnet20: exact +5.00 ± {100 * wide:.2f}, JPEG -6.00 ± {100 * narrow:.2f}; counts: no, no",
    ]


def test_data_is_read_once(images):
    assert images["exact"] is images["exact"]
    assert images["exact"].train.mean == load_and_prepare(images).train.mean == (0.485, 0.456, 0.406)


def load_and_prepare(images):
    return lin2022_resnets.PREPARE(load_data(images.paths["exact"]))


def test_networks_are_those_of_the_paper():
    assert {name: 6 * blocks + 2 for name, blocks in NETWORKS.items()} == {
        name: int(name.removeprefix("resnet")) for name in NETWORKS
    }
