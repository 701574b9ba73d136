"""Data translation: borders of the mean, squares cut at random, and several copies of each image in a batch."""

from dataclasses import replace
import os
import signal

from lightning_fabric import Fabric
import pytest
import torch
from torch import nn

from weightshare.errors import ConfigError, TrainingError
from weightshare.models import convmixer
from weightshare.training import loop
from weightshare.training.data import Augment, Data, InMemory, Prepare, augmentation
from weightshare.training.loop import fit, rows_of
from weightshare.training.recipe import Recipe
from weightshare.training.workplace import Stopped

CHANNELS, HEIGHT, WIDTH, BATCH = 2, 5, 7, 11
MEAN = torch.tensor([0.25, 0.7])
LABELS = torch.zeros(BATCH, dtype=torch.int64)


def numbered(count, height=HEIGHT, width=WIDTH):
    """Images, no two of whose pixels are alike, above 1."""
    return torch.arange(1, 1 + count * CHANNELS * height * width).view(count, CHANNELS, height, width) + 1.0


def varied(augment, images, **options):
    torch.manual_seed(4)
    vary = augmentation(augment, tuple(images.shape[1:]), 3, **options)
    return vary(images, torch.zeros(len(images), dtype=torch.int64))[0]


@pytest.mark.parametrize("flip", [False, True])
def test_a_border_of_the_mean_is_zero_once_normalised(flip):
    images = numbered(BATCH)
    black = varied(Augment(crop=3, flip=flip), images)
    mean = varied(Augment(crop=3, flip=flip, pad="mean"), images, mean=MEAN)
    split = InMemory(images, LABELS, 1.0, tuple(MEAN.tolist()), (0.3, 0.9))
    assert (black == 0).any()
    assert torch.equal(split.normalised(mean) == 0, black == 0)
    assert torch.equal(mean[black != 0], black[black != 0])
    assert torch.equal(images, numbered(BATCH))


def test_a_mean_is_needed_for_each_channel():
    for mean, got in ((None, "none"), (torch.zeros(3), r"\(3,\)")):
        with pytest.raises(ConfigError, match=rf"pad='mean': need the mean of each of 2 channels, got {got}"):
            varied(Augment(crop=1, pad="mean"), numbered(BATCH), mean=mean)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"crop": 1, "pad": "reflect"}, "augment.pad='reflect': need 'zero' or 'mean'"),
        ({"pad": "mean"}, "augment.pad='mean': need crop with it"),
        ({"repeats": 0}, "augment.repeats=0: need a whole number, 1 or more"),
        ({"repeats": 2.0}, "augment.repeats=2.0"),
        ({"repeats": True}, "augment.repeats=True"),
    ],
)
def test_values_of_another_kind(unchecked, given, said):
    with pytest.raises(ConfigError, match=said):
        Augment(**given)


# Squares


@pytest.mark.parametrize("border", [0, 2])
def test_squares_come_from_everywhere_in_the_image_and_its_border(border):
    images = numbered(1).expand(3000, -1, -1, -1)
    cut = varied(Augment(crop=border), images, cut=3)
    assert cut.shape == (3000, CHANNELS, 3, 3)
    around = nn.functional.pad(images[0], (border,) * 4)
    windows = around.unfold(1, 3, 1).unfold(2, 3, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    found, counts = cut.unique(dim=0, return_counts=True)
    assert len(found) == len(windows) == (3 + 2 * border) * (5 + 2 * border)
    assert {tuple(one.flatten().tolist()) for one in found} == {tuple(one.flatten().tolist()) for one in windows}
    expected = 3000 / len(windows)
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_a_whole_image_has_one_square():
    images = numbered(BATCH, 5, 5)
    assert torch.equal(varied(Augment(), images, cut=5), images)


@pytest.mark.parametrize("cut", [0, 6])
def test_squares_that_do_not_fit(cut):
    with pytest.raises(ConfigError, match=rf"A square of {cut} pixels cannot be cut out of images of 5×7"):
        varied(Augment(), numbered(BATCH), cut=cut)


# Copies


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("copies", [1, 4])
def test_processes_see_each_image_once_and_all_of_its_copies(world, copies):
    order = torch.randperm(29, generator=torch.Generator().manual_seed(0))
    parts = [rows_of(order, 5, copies, rank, world) for rank in range(world)]
    for number, chunk in enumerate(order.split(5)):
        seen = [part[number] for part in parts]
        sets = [rows.view(-1, copies) for rows in seen]
        assert all((rows == rows[:, :1]).all() for rows in sets)
        assert sorted(torch.cat(sets)[:, 0].tolist()) == sorted(chunk.tolist())
        assert max(map(len, sets)) - min(map(len, sets)) <= 1


class Watched(nn.Module):
    """Keeps the training batches that it is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = convmixer(5, 1, 2, 3, classes=3, in_channels=CHANNELS)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.clone())
        return self.net(x)


def tiny(count=13, side=6):
    torch.manual_seed(2)
    split = InMemory(torch.rand(count, CHANNELS, side, side), torch.arange(count) % 3, 1.0, (0.0, 0.0), (1.0, 1.0))
    return Data("tiny", split, split, classes=3)


def train(model, data, recipe, folder=None):
    cpu = Fabric(accelerator="cpu", devices=1)
    return fit(model, data, recipe, seed=3, folder=folder, fabric=cpu)


def test_a_batch_holds_copies_of_fewer_images_each_varied_by_itself():
    model, data = Watched(), tiny()
    history = train(model, data, Recipe(epochs=2, batch_size=12, augment=Augment(repeats=3)))
    assert [len(batch) for batch in model.seen] == [12] * 6  # 13 // 4 steps in an epoch
    for epoch in (model.seen[:3], model.seen[3:]):
        images = torch.cat(epoch).unique(dim=0, return_counts=True)
        assert images[1].tolist() == [3] * 12
    assert all(len(batch.view(4, 3, -1)[:, 0].unique(dim=0)) == 4 for batch in model.seen)
    assert len(history) == 2
    model = Watched()
    train(model, data, Recipe(epochs=1, batch_size=12, augment=Augment(crop=2, pad="mean", repeats=6)))
    assert len(model.seen) == 6
    sets = torch.cat(model.seen).view(-1, 6, CHANNELS * 36)
    assert min(len(one.unique(dim=0)) for one in sets) > 2  # of 25 places


def test_accuracy_counts_every_copy(monkeypatch):
    counted = []
    real = loop._sums

    def watched(logits, labels, *rest):
        counted.append(labels)
        return real(logits, labels, *rest)

    monkeypatch.setattr(loop, "_sums", watched)
    row = train(Watched(), tiny(), Recipe(epochs=1, batch_size=12, augment=Augment(repeats=3)))[0]
    assert [len(labels) for labels in counted[:3]] == [12] * 3
    assert all((labels.view(4, 3) == labels.view(4, 3)[:, :1]).all() for labels in counted[:3])
    assert row["train_accuracy"] * 36 == pytest.approx(round(row["train_accuracy"] * 36))


def test_a_batch_larger_than_the_data_holds_all_its_copies():
    model = Watched()
    train(model, tiny(5), Recipe(epochs=1, batch_size=64, augment=Augment(repeats=4)))
    assert [len(batch) for batch in model.seen] == [20]


def test_too_few_different_images_for_the_processes():
    class Many(Fabric):
        world_size = 3

    recipe = Recipe(batch_size=8, augment=Augment(repeats=4))
    with pytest.raises(TrainingError, match="A batch of 2 images cannot be cut for 3 processes"):
        fit(Watched(), tiny(), recipe, fabric=Many(accelerator="cpu", devices=1))


def test_a_run_with_copies_that_was_stopped_ends_with_the_same_weights(tmp_path):
    augment = Augment(crop=2, pad="mean", repeats=3)
    recipe = Recipe(epochs=3, batch_size=6, warmup=0.0, schedule="step", augment=augment)
    whole, cut, resumed = Watched(), Watched(), Watched()
    train(whole, tiny(), recipe)
    cut.register_forward_pre_hook(
        lambda module, _: os.kill(os.getpid(), signal.SIGTERM) if len(module.seen) == 9 else None
    )
    with pytest.raises(Stopped, match="in epoch 2"):
        train(cut, tiny(), recipe, tmp_path)
    train(resumed, tiny(), recipe, tmp_path)
    assert len(cut.seen) + len(resumed.seen) == len(whole.seen) == 18
    assert torch.equal(torch.cat([*cut.seen, *resumed.seen]), torch.cat(whole.seen))
    for one, other in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other)


# What training cuts out of larger images


def test_training_sees_random_squares_and_evaluation_the_middle():
    data = Prepare(cut=6, margin=2)(tiny(side=10))
    model = Watched()
    train(model, data, Recipe(epochs=1, batch_size=4))
    assert {tuple(batch.shape) for batch in model.seen} == {(4, CHANNELS, 6, 6)}
    assert data.train.shape == (CHANNELS, 10, 10)
    assert torch.equal(data.test.images, tiny(side=10).test.images[..., 2:8, 2:8])
    windows = data.train.images.unfold(2, 6, 1).unfold(3, 6, 1).permute(0, 2, 3, 1, 4, 5)
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (data.train.mean, data.train.std))
    known = {tuple(row.tolist()) for row in ((windows - mean) / std).flatten(0, 2).flatten(1).mul(1e3).round().long()}
    seen = torch.cat(model.seen).flatten(1).mul(1e3).round().long()
    assert sum(tuple(row.tolist()) in known for row in seen) == len(seen) == 12


def test_another_cut_is_another_run(tmp_path):
    recipe = Recipe(epochs=1, batch_size=4)
    data = Prepare(cut=6, margin=2)(tiny(side=10))
    train(Watched(), data, recipe, tmp_path)
    with pytest.raises(TrainingError, match="labels is"):
        train(Watched(), replace(data, cut=8), recipe, tmp_path)
