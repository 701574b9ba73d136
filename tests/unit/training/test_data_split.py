"""Splits in memory, the digits, and the names that `load_data` knows."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.unit.training.made_up import pictures
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import SETS, InMemory, Split, build, load_data

COUNT, SHAPE = 13, (3, 5, 7)
IMAGES, LABELS = pictures(COUNT, SHAPE, 4, seed=1)
MEAN, STD = (0.25, 0.5, 0.125), (0.5, 0.25, 2.0)


@pytest.fixture
def split():
    return InMemory(torch.from_numpy(IMAGES), torch.from_numpy(LABELS), 255.0, MEAN, STD)


def test_batches_hold_the_rows_asked_for_in_their_order(split):
    rows = [torch.tensor([12, 0, 5]), torch.tensor([7, 7]), torch.tensor([], dtype=torch.int64)]
    before = torch.get_rng_state()
    batches = list(split.batches(iter(rows)))
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(labels) for _, labels in batches] == [3, 2, 0]
    for batch, (images, labels) in zip(rows, batches, strict=True):
        assert images.dtype == torch.float32
        np.testing.assert_allclose(images, IMAGES[batch] / 255, atol=1e-7)
        np.testing.assert_array_equal(labels, LABELS[batch])


def test_stored_images_stay_as_they_are(split):
    images, labels = next(split.batches([torch.arange(COUNT)]))
    images.zero_()
    labels.zero_()
    np.testing.assert_array_equal(split.images, IMAGES)
    np.testing.assert_array_equal(split.labels, LABELS)
    floats = InMemory(torch.ones(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), 1.0, (0.0,), (1.0,))
    next(floats.batches([torch.arange(2)]))[0].zero_()
    assert floats.images.min() == 1


def test_normalised_is_less_the_mean_divided_by_the_deviation(split):
    """The slow twin goes channel by channel."""
    images, _ = next(split.batches([torch.arange(COUNT)]))
    got = split.normalised(images)
    for channel in range(3):
        torch.testing.assert_close(got[:, channel], (images[:, channel] - MEAN[channel]) / STD[channel])


@pytest.mark.parametrize("rows", [slice(None), slice(2, 5), slice(None, None, 3), slice(-2, None), slice(4, 4)])
def test_a_slice_gives_normalised_images(split, rows):
    images, labels = split[rows]
    all_images, all_labels = next(split.batches([torch.arange(COUNT)]))
    torch.testing.assert_close(images, split.normalised(all_images)[rows])
    assert torch.equal(labels, all_labels[rows])


def test_a_split_moves_to_a_device(split):
    moved = split.to("meta")
    assert (moved.device, split.device) == (torch.device("meta"), torch.device("cpu"))
    assert (len(moved), moved.shape, moved.mean, moved.scale) == (COUNT, SHAPE, MEAN, 255.0)
    assert moved.images.device == torch.device("meta")


def test_split_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Split()


def test_data_moves_to_a_device_and_has_an_example():
    data = load_data("digits")
    moved = data.to("meta")
    assert (moved.train.device, moved.test.device) == (torch.device("meta"),) * 2
    assert (moved.name, moved.classes, moved.class_names) == (data.name, data.classes, data.class_names)
    assert data.channels == 1
    assert torch.equal(data.example, data.test[:1][0])


def test_digits_are_what_they_were_before_they_were_stored_as_bytes():
    """The slow twin: floats, split and normalised by scikit-learn and torch."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=360, random_state=0, stratify=labels)
    train, test = (torch.from_numpy(part).float().view(-1, 1, 8, 8) for part in parts[:2])
    data = load_data("digits")
    for split, part, answers in ((data.train, train, parts[2]), (data.test, test, parts[3])):
        images, got = split[:]
        torch.testing.assert_close(images, (part - train.mean()) / train.std(), rtol=1e-5, atol=1e-6)
        assert got.tolist() == answers.tolist()
    assert (data.classes, data.class_names) == (10, tuple("0123456789"))
    assert (data.train.images.dtype, data.train.scale) == (torch.uint8, 16.0)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_statistics_do_not_depend_on_the_pieces_they_are_made_in(kind, monkeypatch):
    images = IMAGES.astype(kind) / np.array(255 if kind is np.float32 else 1, kind)
    images = images.astype(kind)
    scale = 1.0 if kind is np.float32 else 255.0
    whole = build.statistics(images, scale)
    monkeypatch.setattr(build, "CHUNK", 3)
    pieces = build.statistics(images, scale)
    wide = images.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / scale
    for got in (whole, pieces):
        assert got[0] == pytest.approx(wide.mean(1), rel=1e-12)
        assert got[1] == pytest.approx(wide.std(1, ddof=1), rel=1e-12)


def test_one_pixel_in_all_has_the_deviation_one():
    one = np.full((1, 1, 1, 1), 51, np.uint8)
    assert build.statistics(one, 255.0) == ((0.2,), (1.0,))


@pytest.mark.parametrize(("label", "message"), [(4, "from 1 to 4, need 0 to 3"), (-1, "from -1 to 3, need 0 to 3")])
def test_a_label_that_is_no_class_is_refused(label, message):
    labels = np.array([1, label, 3] + [2] * (COUNT - 3))
    with pytest.raises(FileError, match=message):
        build.build("made up", (IMAGES, labels), (IMAGES, LABELS), classes=4)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mnits", "mnist"),
        ("CIFAR10", "cifar10"),
        ("cifar-100", "cifar100"),
        ("fashion", "fashion-mnist"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name, near):
    with pytest.raises(ConfigError, match=r"did you mean '\S+'\? Known: digits, mnist") as caught:
        load_data(name)
    assert f"did you mean {near!r}" in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no such folder"):
        load_data(str(tmp_path / "gone"))


@pytest.mark.parametrize("name", [name for name in SETS if name != "imagenet"])
def test_a_named_set_has_its_own_size(name):
    with pytest.raises(ConfigError, match="images of one size: size=32"):
        load_data(name, size=32)


def test_a_folder_with_the_name_of_a_set_is_reached_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits").test) == 360
    with pytest.raises(ConfigError, match="need the folder train"):
        load_data("./digits")


def test_the_import_is_light():
    code = (
        "import sys, weightshare.training.data as d; d.load_data('digits');"
        "print([n for n in ('kornia', 'PIL', 'torchvision') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
