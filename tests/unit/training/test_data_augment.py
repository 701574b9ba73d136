"""Augmentation: each change against a slow twin or against what it must keep; random numbers from torch alone."""

from dataclasses import asdict
import json
import random
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.unit.training.varied import BATCH, CHANNELS, CLASSES, HEIGHT, SHAPE, WIDTH, made
from weightshare.errors import ConfigError
from weightshare.training.data import Augment, augmentation, pixels

EACH = {
    "nothing": Augment(),
    "crop": Augment(crop=2),
    "flip": Augment(flip=True),
    "rand_augment": Augment(rand_augment=(2, 9)),
    "rand_augment_std": Augment(rand_augment=(2, 9), rand_augment_std=4.5),
    "erase": Augment(erase=0.5),
    "mixup": Augment(mixup=0.3),
    "cutmix": Augment(cutmix=1.0),
    "all": Augment(2, True, [3, 17], 0.5, 0.8, 1.0),
}
EVERY = pytest.mark.parametrize("augment", EACH.values(), ids=EACH)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.rand(BATCH, *SHAPE), torch.randint(0, CLASSES, (BATCH,))


def equal(one, other):
    return all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


@EVERY
def test_shapes_range_and_targets(augment):
    for images, targets in made(augment):
        assert images.shape == (BATCH, *SHAPE)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        assert targets.shape == ((BATCH, CLASSES) if augment.soft else (BATCH,))
        assert targets.dtype == (torch.float32 if augment.soft else torch.int64)


@EVERY
def test_what_is_put_in_stays_as_it_is(augment, batch):
    images, labels = batch
    before = images.clone(), labels.clone()
    vary = augmentation(augment, SHAPE, CLASSES)
    for _ in range(5):
        vary(images, labels)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("name", [name for name in EACH if name != "nothing"])
def test_the_same_seed_gives_the_same_batches_and_another_seed_others(name):
    one = made(EACH[name])
    assert equal(one, made(EACH[name]))
    assert not equal(one, made(EACH[name], seed=6))
    assert not torch.equal(one[0][0], one[1][0])


@EVERY
def test_the_state_of_torch_is_all_there_is(augment, batch):
    """In the middle of a run, as after a stop: a new function goes on where the state of the generator was."""
    vary = augmentation(augment, SHAPE, CLASSES)
    vary(*batch)
    others = random.getstate(), np.random.get_state()[1].tolist()
    state = torch.get_rng_state()
    expected = [vary(*batch) for _ in range(5)]
    again = augmentation(augment, SHAPE, CLASSES)
    torch.manual_seed(99)
    torch.set_rng_state(state)
    assert equal(expected, [again(*batch) for _ in range(5)])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others


def test_nothing_changes_nothing_and_draws_nothing(batch):
    state = torch.get_rng_state()
    images, labels = augmentation(Augment(), SHAPE, CLASSES)(*batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, batch[0])
    assert torch.equal(labels, batch[1])
    assert not Augment()
    assert all(EACH[name] for name in EACH if name != "nothing")


# What kornia makes


def test_rand_augment_draws_for_each_image():
    """Equal images come out in many ways: of one draw for the whole batch there would be two, for the two signs."""
    count = 60
    images = torch.rand(1, *SHAPE).expand(count, *SHAPE)
    vary = augmentation(Augment(rand_augment=[1, 15]), SHAPE, CLASSES)
    torch.manual_seed(0)
    varied, _ = vary(images, torch.zeros(count, dtype=torch.int64))
    assert len(torch.unique(varied.flatten(1), dim=0)) > 10


@pytest.mark.parametrize("change", pixels.CHANGES, ids=[change[0] for change in pixels.CHANGES])
def test_every_change_is_kornias_own(change, monkeypatch):
    """One change alone, on the whole batch: with the same state, kornia's RandAugment of that one change."""
    import kornia.augmentation as kornia

    images = torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(pixels, "CHANGES", (change,))
    vary = pixels.rand_augment(1, 14, CHANNELS)
    torch.manual_seed(2)
    got = vary(images)
    torch.manual_seed(2)
    torch.randint(1, (BATCH,))  # which change: there is one
    expected = kornia.auto.RandAugment(1, 14, policy=[[change]])(images)
    torch.testing.assert_close(got, expected.detach())
    assert not torch.equal(got, images)
    assert not got.requires_grad


def test_the_strength_is_drawn_around_m(monkeypatch):
    """`contrast` multiplies by 0.1 + 1.8 · m / 30: the strength can be read."""
    monkeypatch.setattr(pixels, "CHANGES", (("contrast", 0.1, 1.9),))
    grey = torch.full((2, *SHAPE), 0.4)

    def strengths(std, count):
        vary = pixels.rand_augment(1, 24, CHANNELS, std)
        found = torch.stack([vary(grey).flatten(1).amax(1) for _ in range(count)])
        return (found / 0.4 - 0.1) / 1.8 * 30

    torch.manual_seed(0)
    drawn = strengths(4.0, 400)
    assert torch.equal(drawn[:, 0], drawn[:, 1])  # one for the images of a batch that drew the change
    assert float(drawn.max()) == pytest.approx(30.0, abs=1e-3)  # cut off, as in 27 of 400
    assert float(drawn.median()) == pytest.approx(24.0, abs=0.7)
    assert float(drawn[drawn < 24].sub(24).abs().median()) == pytest.approx(0.674 * 4, rel=0.2)
    assert strengths(0.0, 1).tolist() == [pytest.approx([24.0, 24.0], abs=1e-4)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_as_many_changes_are_made_as_asked_for(n, batch, monkeypatch):
    """Of the one change that undoes itself, an odd number is one and an even number none."""
    images, labels = batch
    monkeypatch.setattr(pixels, "CHANGES", (("invert", 0, 1),))
    varied, _ = augmentation(Augment(rand_augment=[n, 9]), SHAPE, CLASSES)(images, labels)
    torch.testing.assert_close(varied, 1 - images if n % 2 else images)


def test_the_changes_are_those_of_kornias_rand_augment():
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    assert [list(policy[0]) for policy in default_policy] == [list(change) for change in pixels.CHANGES]


def test_grey_images_are_varied_without_colour():
    for images, _ in made(Augment(rand_augment=[3, 9], erase=0.3), count=20, shape=(1, HEIGHT, WIDTH)):
        assert images.shape == (BATCH, 1, HEIGHT, WIDTH)


def test_other_channels_are_refused():
    with pytest.raises(ConfigError, match="1 or 3 channels; these have 2"):
        augmentation(Augment(rand_augment=[1, 9]), (2, HEIGHT, WIDTH), CLASSES)


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_erasing_blackens_a_rectangle_of_some_images(probability):
    count = 2000
    ones = torch.ones(count, 1, 23, 29)
    torch.manual_seed(0)
    erased, _ = augmentation(Augment(erase=probability), (1, 23, 29), CLASSES)(
        ones, torch.zeros(count, dtype=torch.int64)
    )
    holes = (erased == 0).flatten(1).float().mean(1)
    assert (erased == 0).logical_or(erased == 1).all()
    assert float((holes > 0).float().mean()) == pytest.approx(probability, abs=0.03)
    assert holes.max() < 0.36
    hole = erased[holes.argmax(), 0] == 0
    rows, columns = hole.any(1), hole.any(0)
    assert torch.equal(hole, rows[:, None] & columns[None, :])


@pytest.mark.parametrize("augment", [Augment(rand_augment=[1, 9]), Augment(erase=0.1)], ids=["rand_augment", "erase"])
def test_without_kornia_the_error_says_what_to_install(augment, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(ConfigError, match=r"pip install 'weightshare\[augment\]'"):
        augmentation(augment, SHAPE, CLASSES)
    augmentation(Augment(4, True, None, 0.0, 0.2, 1.0), SHAPE, CLASSES)


# The configuration


WRONG = [
    ("crop", -1), ("crop", 1.5), ("crop", True), ("flip", 1), ("flip", "yes"), ("erase", 1.1), ("erase", -0.1),
    ("erase", float("nan")), ("erase", "0.1"), ("mixup", -1.0), ("mixup", float("inf")), ("cutmix", float("nan")),
    ("cutmix", True), ("rand_augment", [2]), ("rand_augment", [2, 9, 1]), ("rand_augment", [0, 9]),
    ("rand_augment", [2, 0]), ("rand_augment", [2, 30]), ("rand_augment", [2.0, 9]), ("rand_augment", "29"),
    ("rand_augment", True), ("rand_augment_std", -1.0), ("rand_augment_std", float("nan")), ("rand_augment_std", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_values_out_of_range_are_refused(name, value, unchecked):
    with pytest.raises(ConfigError, match=rf"augment\.{name}=.*need "):
        Augment(**{name: value})


@EVERY
def test_yaml_and_json_give_the_same_back(augment):
    values = asdict(augment)
    assert Augment(**yaml.safe_load(yaml.safe_dump(values))) == augment
    assert Augment(**json.loads(json.dumps(values))) == augment
    assert json.loads(json.dumps(values)) == values


def test_whole_numbers_are_numbers(unchecked):
    assert Augment(erase=0, mixup=1, cutmix=1) == Augment(erase=0.0, mixup=1.0, cutmix=1.0)
    assert Augment(rand_augment=(2, 9)) == Augment(rand_augment=[2, 9])
