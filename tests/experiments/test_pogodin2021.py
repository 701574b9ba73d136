"""The tables of Pogodin 2021: what is printed agrees with itself, and every cell is a training."""

from dataclasses import replace

import pytest
import torch

from weightshare.errors import ConfigError
from weightshare.experiments.printed.pogodin2021 import ACCURACY, GRIDS, IMAGENET, IMAGENET_RATES, RATES, SPREAD
from weightshare.experiments.studies import pogodin2021_protocol as paper
from weightshare.models import build
from weightshare.training.data import Augment, Prepare, load_data
from weightshare.training.loop import evaluate
from weightshare.training.recipe import RunConfig, strict
from weightshare.training.run import run

CELLS = [
    (row, dataset, padding)
    for dataset in ("cifar10", "cifar100", "tiny-imagenet")
    for padding, rows in RATES.items()
    for row in rows
] + [(row, "imagenet", None) for row in IMAGENET]


def test_there_are_the_papers_cells():
    assert len(CELLS) == 3 * (5 + 8 + 8) + 9
    assert [list(table) for table in (ACCURACY, SPREAD, RATES)] == [[0, 4, 8]] * 3
    for padding in RATES:
        assert list(ACCURACY[padding]) == list(SPREAD[padding]) == list(RATES[padding])
    assert {row for row, *_ in CELLS} == set(paper.ROWS)


def test_every_setting_was_one_of_the_grid():
    for row, dataset, padding in CELLS:
        connectivity = row.partition("-ws")[0].partition("-reps")[0]
        rates, decays = GRIDS[dataset, connectivity]
        printed = paper.cell(row, dataset, padding)
        assert printed.lr in rates
        assert printed.weight_decay in decays
    assert IMAGENET_RATES["lc-ws1"] == IMAGENET_RATES["conv"] == (1e-3, 1e-2)
    assert IMAGENET_RATES["lc"] == IMAGENET_RATES["first-conv-ws1"] == (5e-4, 1e-2)


@pytest.mark.parametrize(("row", "dataset", "padding"), CELLS, ids=lambda part: str(part))
def test_every_cell_is_a_configuration(row, dataset, padding):
    config = paper.config(row, dataset, padding, seed=3, out="runs")
    assert (config.train.epochs, config.train.schedule, config.train.milestones) == (200, "step", [0.5, 0.75])
    assert config.train.batch_size == (256 if dataset == "imagenet" else 512)
    assert (config.train.warmup, config.train.clip, config.precision) == (0.0, None, "16-mixed")
    assert config.train.augment.repeats == paper.ROWS[row].repeats
    import yaml

    assert strict(RunConfig, yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("dataset", "padding", "augment", "prepare", "source"),
    [
        ("cifar10", 0, Augment(), Prepare(), "cifar10"),
        ("cifar100", 8, Augment(crop=8, pad="mean"), Prepare(), "cifar100"),
        ("tiny-imagenet", 4, Augment(), Prepare(cut=48, margin=4, normalise="imagenet"), "tiny-imagenet"),
        ("imagenet", None, Augment(flip=True), Prepare(cut=224, margin=None, normalise="imagenet"), "imagenet"),
    ],
)
def test_what_is_done_to_images(dataset, padding, augment, prepare, source):
    config = paper.config("conv", dataset, padding, seed=0, out="runs")
    assert (config.train.augment, config.prepare, config.data) == (augment, prepare, source)
    assert config.image_size == (256 if dataset == "imagenet" else None)


@pytest.mark.parametrize(
    ("name", "side", "weights"), [(paper.SMALL, 32, 40_812_544), (paper.SMALL, 48, 91_828_224)], ids=["32", "48"]
)
def test_the_size_of_the_locally_connected_network(name, side, weights):
    """One kernel for each position: counted from what each convolution gives."""
    net, counted = build(name).eval(), []
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda conv, _, out: counted.append(conv.weight.numel() * out.shape[-2] * out.shape[-1])
            )
    net(torch.zeros(1, 3, side, side))
    assert sum(counted) == weights


def test_settings_were_chosen_on_held_out_images():
    tiny = paper.config("lc-ws1", "tiny-imagenet", 8, 0, "runs")
    found = paper.tuned(tiny, "tiny-imagenet", 1e-3, 1e-4)
    assert (found.train.epochs, found.train.milestones) == (50, [0.5, 0.74])
    assert (found.train.lr, found.train.weight_decay, found.prepare.validation) == (1e-3, 1e-4, 0.1)
    assert found.prepare.margin == 8
    assert found.out == "runs/tiny-imagenet-pad8-lc-ws1-seed0-lr0.001-wd0.0001"
    large = paper.tuned(paper.config("conv", "imagenet", None, 0, "runs"), "imagenet", 1e-3, 1e-6)
    assert (large.train.epochs, large.train.milestones) == (20, [0.5, 0.75])
    assert round(1300 * large.prepare.validation) == 10


@pytest.mark.parametrize(
    ("row", "dataset", "padding", "said"),
    [
        ("conv", "svhn", 4, "There is no data set 'svhn': need one of cifar10"),
        ("conv", "cifar10", 2, "cifar10 has no table of padding=2: need one of 0, 4, 8"),
        ("conv", "cifar10", None, "no table of padding=None"),
        ("lc-reps4", "cifar10", 0, "no row 'lc-reps4' with padding=0: need one of conv, lc, lc-ws1"),
        ("first-conv", "cifar100", 4, "no row 'first-conv' with padding=4"),
        ("conv", "imagenet", 4, "imagenet has no row 'conv' with padding=4: need nothing"),
        ("lc-reps4", "imagenet", None, "imagenet has no row 'lc-reps4'"),
    ],
)
def test_cells_that_the_paper_does_not_have(row, dataset, padding, said):
    with pytest.raises(ConfigError, match=said):
        paper.config(row, dataset, padding, 0, "runs")


def test_a_convolutional_cell_trains(tmp_path):
    """The first row of table 4 on digits, three epochs: the schedule, the borders and the network go together."""
    config = replace(paper.config("conv", "cifar10", 4, 0, tmp_path), data="digits")
    short = replace(config.train, epochs=3, batch_size=32)
    summary = run(replace(config, model="resnet20:5/7/11", train=short, device="cpu", precision="bf16-mixed"))
    assert summary["accuracy"] > 0.15  # 22 %; a tenth is chance


def test_top_1_and_top_5():
    torch.manual_seed(0)
    digits = load_data("digits").test
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    order = net(digits[:][0]).argsort(1, descending=True)
    ranks = (order == digits.labels[:, None]).nonzero()[:, 1]
    expected = [(ranks < count).float().mean().item() for count in (1, 5)]
    assert paper.accuracies(net, digits) == pytest.approx(expected)
    assert expected[0] == pytest.approx(evaluate(net, digits)[1])
    assert expected[0] < expected[1] < 1
