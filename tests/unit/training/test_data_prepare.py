"""What is done to a data set once: parts, pooling, shifts around a torus, shuffled pixels."""

import numpy as np
import pytest
import torch

from weightshare.errors import ConfigError, TrainingError
from weightshare.training.data import Prepare, load_data
from weightshare.training.data.build import build
from weightshare.training.loop import fit
from weightshare.training.recipe import Recipe


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def made_up(height: int = 6, width: int = 10):
    """Images whose pixels are all different, of three classes of 7, 5 and 3 images, in turn."""
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 0])
    count = len(labels)
    pixels = np.random.default_rng(0).permuted(np.tile(np.arange(2 * height * width), (count, 1)), axis=1)
    images = pixels.reshape(count, 2, height, width).astype(np.uint8)
    return build("made up", (images, labels), (images[:4], labels[:4]), 3)


def test_nothing_is_nothing(digits):
    assert not Prepare()
    assert not Prepare(seed=7)
    assert Prepare()(digits) is digits


def test_a_fraction_of_every_class_the_first_images_of_it():
    data = made_up()
    kept = Prepare(fraction=0.5)(data)
    assert torch.bincount(kept.train.labels).tolist() == [3, 2, 1]
    rows = [0, 1, 2, 3, 4, 6]
    assert torch.equal(kept.train.images, data.train.images[rows])
    assert torch.equal(kept.test.images, data.test.images)


def test_a_validation_part_replaces_the_test_images_and_is_not_learnt_from():
    data = made_up()
    held = Prepare(validation=0.4)(data)
    assert torch.bincount(held.test.labels).tolist() == [3, 2, 1]
    assert torch.bincount(held.train.labels).tolist() == [4, 3, 2]
    both = torch.cat([held.train.images, held.test.images]).flatten(1)
    assert len(both.unique(dim=0)) == 15


def test_pooling_takes_means():
    data = made_up()
    pooled = Prepare(pool=2)(data)
    assert pooled.train.shape == (2, 3, 5)
    wanted = data.train.images.float().view(15, 2, 3, 2, 5, 2).mean((3, 5))
    assert float((pooled.train.images.float() - wanted).abs().max()) <= 0.5
    assert pooled.train.images.dtype == torch.uint8


def test_every_image_is_shifted_once_by_rows_and_columns_of_its_own():
    data = made_up()
    shifted = Prepare(shift=True, seed=3)(data)
    found = set()
    for before, after in zip(data.train.images, shifted.train.images, strict=True):
        fits = [
            (down, right)
            for down in range(6)
            for right in range(10)
            if torch.equal(after, before.roll((down, right), (1, 2)))
        ]
        assert len(fits) == 1
        found.add(fits[0])
    assert len(found) > 10
    assert torch.equal(Prepare(shift=True, seed=3)(data).train.images, shifted.train.images)
    assert not torch.equal(Prepare(shift=True, seed=4)(data).train.images, shifted.train.images)
    assert not torch.equal(shifted.test.images, data.test.images)


def test_shifts_reach_every_place_alike():
    images = np.zeros((6000, 1, 2, 3), np.uint8)
    images[:, 0, 0, 0] = 255
    data = build("dots", (images, np.zeros(6000, int)), (images, np.zeros(6000, int)), 1)
    counts = (Prepare(shift=True)(data).train.images == 255).sum((0, 1))
    assert int(counts.sum()) == 6000
    assert float((counts / 1000 - 1).abs().max()) < 0.1


def test_copies_are_shifted_by_themselves():
    data = Prepare(copies=3, shift=True)(made_up())
    assert len(data.train) == 45
    assert len(data.test) == 4
    assert data.train.labels[:6].tolist() == [0, 0, 0, 1, 1, 1]
    assert not torch.equal(data.train.images[0], data.train.images[1])


def test_pixels_are_shuffled_by_one_order_for_all_images_and_channels():
    data = made_up()
    shuffled = Prepare(shuffle=True, seed=5)(data)
    before = torch.cat([data.train.images, data.test.images]).flatten(2).flatten(0, 1)
    after = torch.cat([shuffled.train.images, shuffled.test.images]).flatten(2).flatten(0, 1)
    order = [int((before[0] == value).nonzero()[0, 0]) for value in after[0]]
    assert sorted(order) == list(range(60))
    assert order != list(range(60))
    assert torch.equal(before[:, order], after)


def test_statistics_are_those_of_the_new_training_images(digits):
    data = Prepare(fraction=0.5, pool=2, shift=True)(digits)
    images = data.train.images.float() / data.train.scale
    assert data.train.mean == pytest.approx([float(images.mean())], rel=1e-5)
    assert data.train.std == pytest.approx([float(images.std())], rel=1e-5)
    assert data.train.scale == digits.train.scale
    assert data.classes == 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fraction": 0.0}, "prepare.fraction=0.0: need above 0 and at most 1"),
        ({"fraction": 1.1}, "fraction"),
        ({"fraction": float("nan")}, "fraction"),
        ({"validation": 1.0}, "validation"),
        ({"validation": -0.1}, "validation"),
        ({"pool": 0}, "pool"),
        ({"copies": 0}, "copies"),
        ({"label_noise": 1.1}, "prepare.label_noise=1.1: need a share, 0 to 1"),
        ({"label_noise": -0.1}, "label_noise"),
        ({"label_noise": float("nan")}, "label_noise"),
        ({"seed": -1}, "seed"),
    ],
)
def test_values_out_of_range(given, said):
    with pytest.raises(ConfigError, match=said):
        Prepare(**given)


def test_what_does_not_fit_the_images(digits):
    with pytest.raises(ConfigError, match=r"prepare.pool=3: digits has 8×8 pixels"):
        Prepare(pool=3)(digits)
    with pytest.raises(ConfigError, match=r"prepare.validation=0.01: leaves 15 and 0 images"):
        Prepare(validation=0.01)(made_up())


# Label noise


def many(images: int, classes: int):
    """A set whose labels are all known; pixels do not matter."""
    labels = np.arange(images) % classes
    pixels = np.zeros((images, 1, 2, 3), np.uint8)
    return build("many", (pixels, labels), (pixels[:11], labels[:11]), classes)


def test_an_exact_share_of_labels_is_drawn_from_all_classes():
    data = many(7000, 7)
    noisy = Prepare(label_noise=0.3, seed=5)(data)
    changed = noisy.train.labels != data.train.labels
    # 2,100 are drawn, of which a seventh is drawn right: 1,800 with a deviation of 16.
    assert abs(int(changed.sum()) - 1800) < 64
    assert torch.bincount(noisy.train.labels[changed], minlength=7).min() > 200
    all_of_them = Prepare(label_noise=1.0)(data).train.labels
    assert abs(int((all_of_them == data.train.labels).sum()) - 1000) < 117
    assert torch.equal(noisy.train.images, data.train.images)


def test_with_classes_that_no_label_has_every_replaced_label_shows():
    """Of a million classes hardly one is drawn twice: the share is exact."""
    data = build("few", *[(np.zeros((1301, 1, 1, 1), np.uint8), np.zeros(1301, int))] * 2, 10**6, ("one",) * 10**6)
    for share, replaced in ((0.2, 260), (0.4, 520), (1.0, 1301)):
        assert int((Prepare(label_noise=share)(data).train.labels != 0).sum()) == replaced


def test_noise_is_the_seeds_and_grows_with_its_share():
    data = many(1001, 13)
    low, high = (Prepare(label_noise=share, seed=3)(data).train.labels for share in (0.2, 0.4))
    assert torch.equal(low, Prepare(label_noise=0.2, seed=3)(data).train.labels)
    assert not torch.equal(low, Prepare(label_noise=0.2, seed=4)(data).train.labels)
    replaced = low != data.train.labels
    assert torch.equal(low[replaced], high[replaced])
    assert int((high != data.train.labels).sum()) > 300


def test_what_is_measured_on_keeps_its_labels():
    data = many(1001, 13)
    assert torch.equal(Prepare(label_noise=1.0)(data).test.labels, data.test.labels)
    clean, noisy = (Prepare(validation=0.2, label_noise=share)(data) for share in (0.0, 1.0))
    assert torch.equal(noisy.test.labels, clean.test.labels)
    assert not torch.equal(noisy.train.labels, clean.train.labels)
    copied = Prepare(label_noise=1.0, copies=2)(data).train.labels
    assert torch.equal(copied[::2], copied[1::2])  # copies of an image agree on what it is
    assert torch.equal(copied[::2], Prepare(label_noise=1.0)(data).train.labels)


def test_a_run_with_other_labels_is_another_run(digits, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    recipe = Recipe(epochs=1, batch_size=479)
    fit(model, Prepare(label_noise=0.2)(digits), recipe, folder=tmp_path)
    with pytest.raises(TrainingError, match=r"labels is '[0-9a-f]{16}' there and"):
        fit(model, Prepare(label_noise=0.2, seed=1)(digits), recipe, folder=tmp_path)


# Squares from the middle


def test_training_images_keep_a_margin_around_the_middle_that_is_measured_on():
    data = made_up(9, 12)
    cut = Prepare(cut=4, margin=2)(data)
    assert torch.equal(cut.test.images, data.test.images[..., 2:6, 4:8])
    assert torch.equal(cut.train.images, data.train.images[..., 0:8, 2:10])
    assert (cut.cut, cut.size, cut.example.shape) == (4, (4, 4), (1, 2, 4, 4))
    images = cut.train.images.float() / 255
    assert cut.train.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), rel=1e-5)
    assert cut.name == "made up, prepared"


def test_without_a_margin_nothing_is_drawn_and_with_none_all_is_kept():
    data = made_up(9, 12)
    middle, whole = Prepare(cut=4)(data), Prepare(cut=4, margin=None)(data)
    assert torch.equal(middle.train.images, data.train.images[..., 2:6, 4:8])
    assert (middle.cut, middle.size) == (None, (4, 4))
    assert torch.equal(whole.train.images, data.train.images)
    assert torch.equal(whole.test.images, middle.test.images)
    assert (whole.cut, whole.size) == (4, (4, 4))


def test_held_out_images_are_measured_on_without_a_margin():
    held = Prepare(validation=0.4, cut=4, margin=1)(made_up(9, 12))
    assert (held.train.shape, held.test.shape) == ((2, 6, 6), (2, 4, 4))
    assert (len(held.train), len(held.test)) == (9, 6)


def test_imagenets_values():
    pixels = np.full((3, 3, 2, 2), 102, np.uint8)
    data = build("grey", (pixels, np.arange(3)), (pixels, np.arange(3)), 3)
    prepared = Prepare(normalise="imagenet")(data)
    expected = [(0.4 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.4 - 0.406) / 0.225]
    for split in (prepared.train, prepared.test):
        assert split[:1][0][0, :, 1, 1].tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(prepared.train.images, data.train.images)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cut": 0}, "prepare.cut=0: need 1 or more pixels"),
        ({"margin": 2}, "prepare.margin=2: need 0 without a cut"),
        ({"margin": None}, "prepare.margin=None: need 0 without a cut"),
        ({"cut": 3, "margin": -1}, "prepare.margin=-1: need 0 or more pixels"),
        ({"normalise": "cifar"}, "prepare.normalise='cifar': need data or imagenet"),
    ],
)
def test_squares_that_make_no_sense(unchecked, given, said):
    with pytest.raises(ConfigError, match=said):
        Prepare(**given)


def test_squares_that_do_not_fit_the_images(digits):
    with pytest.raises(ConfigError, match=r"prepare.cut=5 with margin=2: digits has 8×8 pixels, need 9 or more"):
        Prepare(cut=5, margin=2)(digits)
    with pytest.raises(ConfigError, match=r"cut=9 with margin=None: digits has 8×8 pixels, need 9"):
        Prepare(cut=9, margin=None)(digits)
    with pytest.raises(ConfigError, match=r"normalise='imagenet': digits has 1 channels, need 3"):
        Prepare(normalise="imagenet")(digits)
