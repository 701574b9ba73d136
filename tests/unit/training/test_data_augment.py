"""Augmentation: each change against a slow twin or against what it must keep; random numbers from torch alone."""

from dataclasses import asdict
import json
import random
import sys

from jaxtyping import config
import numpy as np
import pytest
import torch
import yaml

from weightshare.errors import ConfigError
from weightshare.training.data import Augment, augmentation, mixing, moves, pixels

BATCH, CHANNELS, HEIGHT, WIDTH, CLASSES = 11, 3, 5, 7, 13
SHAPE = (CHANNELS, HEIGHT, WIDTH)

EACH = {
    "nothing": Augment(),
    "crop": Augment(crop=2),
    "flip": Augment(flip=True),
    "rand_augment": Augment(rand_augment=(2, 9)),
    "erase": Augment(erase=0.5),
    "mixup": Augment(mixup=0.3),
    "cutmix": Augment(cutmix=1.0),
    "all": Augment(2, True, [3, 17], 0.5, 0.8, 1.0),
}
EVERY = pytest.mark.parametrize("augment", EACH.values(), ids=EACH)


@pytest.fixture
def unchecked():
    """As it is for users: in tests, annotations are checked before the code that should find the mistake."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.rand(BATCH, *SHAPE), torch.randint(0, CLASSES, (BATCH,))


def made(augment, count=7, seed=5, shape=SHAPE):
    """Some batches of the same images, made one after the other."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, *shape, generator=generator)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    vary = augmentation(augment, shape, CLASSES)
    torch.manual_seed(seed)
    return [vary(images, labels) for _ in range(count)]


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


# Crop and flip


def slow_move(image, padding, down, right, mirrored):
    """One image, pixel by pixel: read where the pixel comes from, black outside."""
    out = torch.zeros_like(image)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            from_row = row + down - padding
            from_column = (WIDTH - 1 - column if mirrored else column) + right - padding
            if 0 <= from_row < HEIGHT and 0 <= from_column < WIDTH:
                out[:, row, column] = image[:, from_row, from_column]
    return out


@pytest.mark.parametrize("padding", [0, 1, 2, 9])
def test_crops_and_flips_are_those_of_the_slow_twin(padding, batch):
    images, _ = batch
    down, right = torch.randint(0, 2 * padding + 1, (2, BATCH))
    mirrored = torch.arange(BATCH) % 2 == 0
    got = moves.moved(images, padding, down, right, mirrored)
    for row in range(BATCH):
        where = int(down[row]), int(right[row]), bool(mirrored[row])
        assert torch.equal(got[row], slow_move(images[row], padding, *where))
    assert got.is_contiguous()


def test_every_place_of_a_crop_comes_up_and_half_are_mirrored():
    """3 × 3 places and two sides, about 500 of each: a place that is missing or twice as likely is far outside."""
    count = 9000
    images = torch.zeros(count, 1, HEIGHT, WIDTH)
    images[:, :, 2, 2] = 1  # not in the middle of a row, so its place tells the crop, and the side
    torch.manual_seed(0)
    moved, _ = augmentation(Augment(crop=1, flip=True), (1, HEIGHT, WIDTH), CLASSES)(
        images, torch.zeros(count, dtype=torch.int64)
    )
    places = moved[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    # Columns 1 to 3 as they are, 3 to 5 mirrored: both in column 3.
    assert (counts[1:4, [1, 2, 4, 5]] - 500).abs().max() < 120
    assert (counts[1:4, 3] - 1000).abs().max() < 160
    assert counts.sum() == counts[1:4, 1:6].sum()


def test_without_flip_nothing_is_mirrored():
    ramp = torch.arange(WIDTH).expand(BATCH, 1, HEIGHT, WIDTH) / WIDTH
    moved, _ = augmentation(Augment(crop=1), (1, HEIGHT, WIDTH), CLASSES)(ramp, torch.zeros(BATCH, dtype=torch.int64))
    assert (moved[:, :, 1:4, 2:5].diff() > 0).all()


# Mixing


def slow_cut(image, other, share, row, column):
    """One image, pixel by pixel, by CutMix's equation 2."""
    tall, wide = int(HEIGHT * (1 - share) ** 0.5), int(WIDTH * (1 - share) ** 0.5)
    out, stays = image.clone(), 0
    for y in range(HEIGHT):
        for x in range(WIDTH):
            inside = (
                row - tall // 2 <= y < row - tall // 2 + tall and column - wide // 2 <= x < column - wide // 2 + wide
            )
            out[:, y, x] = other[:, y, x] if inside else image[:, y, x]
            stays += not inside
    return out, stays / (HEIGHT * WIDTH)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 6), (1, 6)])
def test_a_rectangle_is_that_of_the_slow_twin(share, row, column, batch):
    images, _ = batch
    others = images.flip(0)
    got, stayed = mixing.cut_in(images, others, share, row, column)
    for number in range(BATCH):
        expected, stays = slow_cut(images[number], others[number], share, row, column)
        assert torch.equal(got[number], expected)
        assert stayed == pytest.approx(stays)


@pytest.mark.parametrize("augment", [Augment(mixup=0.7), Augment(cutmix=0.7), Augment(mixup=0.2, cutmix=1.0)], ids=str)
def test_targets_have_the_shares_of_the_images(augment):
    """Image k is all of the one value k + 1 and of class k: the mean of what comes out says which shares went in."""
    values = torch.arange(1, CLASSES + 1)
    images = (values / 16).view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()
    vary = augmentation(augment, SHAPE, CLASSES)
    torch.manual_seed(1)
    whole = 0
    for _ in range(50):
        mixed, targets = vary(images, torch.arange(CLASSES))
        torch.testing.assert_close(targets.sum(1), torch.ones(CLASSES))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ (values / 16))
        assert (targets >= 0).all()
        whole += int((targets.max(1).values == 1).sum())
    assert whole < 25 * CLASSES


def test_mixup_weights_are_of_the_beta_distribution():
    """Beta(α, α) has the mean 1/2 and the variance 1 / (4 (2 α + 1))."""
    alpha, count = 0.4, 4000
    vary = augmentation(Augment(mixup=alpha), (1, 1, 1), 2)
    torch.manual_seed(0)
    images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    weights = torch.stack([vary(images, labels)[0][0, 0, 0, 0] for _ in range(count)])
    swapped = weights[weights > 0]  # in half of the cases an image is its own partner
    assert len(swapped) == pytest.approx(count / 2, rel=0.1)
    assert float(swapped.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(swapped.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_both_kinds_of_mixing_come_up_alone(monkeypatch):
    """An image mixed by CutMix has only values of the two; one mixed by mixup has others."""
    images = torch.zeros(2, 1, HEIGHT, WIDTH)
    images[1] = 1
    vary = augmentation(Augment(mixup=1.0, cutmix=1.0), (1, HEIGHT, WIDTH), 2)
    torch.manual_seed(0)
    kinds = [
        torch.logical_or(mixed == 0, mixed == 1).all()
        for mixed, _ in (vary(images, torch.arange(2)) for _ in range(400))
    ]
    # Half by CutMix; of the others half again are mixed with themselves, which changes nothing.
    assert sum(map(int, kinds)) == pytest.approx(300, abs=40)


@pytest.mark.parametrize("alpha", [1e-4, 1e4])
def test_extreme_mixing_is_finite(alpha):
    for images, targets in made(Augment(mixup=alpha, cutmix=alpha), count=50):
        assert images.isfinite().all()
        assert targets.isfinite().all()


def test_one_image_alone_can_be_mixed():
    vary = augmentation(Augment(1, True, [1, 5], 1.0, 0.5, 0.5), SHAPE, CLASSES)
    images, targets = vary(torch.rand(1, *SHAPE), torch.tensor([4]))
    assert images.shape == (1, *SHAPE)
    torch.testing.assert_close(targets[0, 4], torch.tensor(1.0))


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
    torch.testing.assert_close(got, expected.clamp(0, 1).detach())
    assert not torch.equal(got, images)
    assert not got.requires_grad


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
    ("rand_augment", True),
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
