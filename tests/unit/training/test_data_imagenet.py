"""TinyImageNet as it is published, and ImageNet: a folder that is too large for memory, with squares cut out of it."""

import numpy as np
from PIL import Image
import pytest
import torch

from tests.unit.training.made_up import pictures
from tests.unit.training.made_up_folder import bytes_of
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import Lazy, Prepare, folder, listed, load_data
from weightshare.training.data.prepare import IMAGENET

CLASSES = ("n01443537", "n01629819", "n01641577")
SIDE = 16


def tiny_imagenet(root, side=SIDE):
    """A small one: `train/<class>/images`, boxes beside them, `val` with its list, and `test` without labels."""
    train, labels = pictures(7, (side, side, 3), 3, 0)
    labels[:3] = range(3)
    for row in np.argsort(labels, kind="stable"):
        at = root / "train" / CLASSES[labels[row]]
        (at / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(train[row]).save(at / "images" / f"{CLASSES[labels[row]]}_{row}.JPEG", format="PNG")
        (at / f"{CLASSES[labels[row]]}_boxes.txt").write_text("a.JPEG\t0\t0\t9\t9\n")
    held, _ = pictures(5, (side, side, 3), 3, 1)
    chosen = [2, 0, 0, 2, 1]
    for part in ("val", "test"):
        (root / part / "images").mkdir(parents=True)
        for row, image in enumerate(held):
            Image.fromarray(image).save(root / part / "images" / f"{part}_{row}.JPEG", format="PNG")
    lines = (f"val_{row}.JPEG\t{CLASSES[label]}\t0\t32\t44\t62\n" for row, label in enumerate(chosen))
    (root / "val" / folder.ANNOTATIONS).write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(CLASSES)))
    order = np.argsort(labels, kind="stable")
    return train[order].transpose(0, 3, 1, 2), labels[order], held.transpose(0, 3, 1, 2), chosen


def test_tiny_imagenet_is_measured_on_its_validation_part(tmp_path):
    train, labels, held, chosen = tiny_imagenet(tmp_path)
    data = load_data(str(tmp_path))
    assert data.class_names == CLASSES
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == (labels.tolist(), chosen)
    np.testing.assert_array_equal(bytes_of(data.train), train)
    np.testing.assert_array_equal(bytes_of(data.test), held)


def test_tiny_imagenet_as_the_paper_has_it(tmp_path):
    """48 + 2·4 of 64 pixels there; 6 + 2·2 of 16 here."""
    train, _, held, _ = tiny_imagenet(tmp_path)
    data = Prepare(cut=6, margin=2, normalise="imagenet")(load_data(str(tmp_path)))
    np.testing.assert_array_equal(bytes_of(data.train), train[..., 3:13, 3:13])
    np.testing.assert_array_equal(bytes_of(data.test), held[..., 5:11, 5:11])
    assert (data.train.mean, data.train.std) == (data.test.mean, data.test.std) == IMAGENET


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "need a file, a tab and a class in each line"),
        ("val_0.JPEG n01443537\n", "need a file, a tab and a class in each line"),
        ("val_0.JPEG\t\n", "need a file, a tab and a class in each line"),
        ("\udcff", "is no text"),
    ],
)
def test_a_list_that_is_damaged(text, said, tmp_path):
    tiny_imagenet(tmp_path)
    (tmp_path / "val" / folder.ANNOTATIONS).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FileError, match=said):
        load_data(str(tmp_path))


def test_a_list_that_names_what_is_not_there(tmp_path):
    tiny_imagenet(tmp_path)
    (tmp_path / "val" / folder.ANNOTATIONS).write_text("val_0.JPEG\tn99\t0\t0\t9\t9\n")
    with pytest.raises(ConfigError, match=r"1 of 1 classes of '.*val' are not in '.*train': n99\. Add them"):
        load_data(str(tmp_path))
    (tmp_path / "val" / folder.ANNOTATIONS).write_text(f"val_77.JPEG\t{CLASSES[0]}\n")
    with pytest.raises(FileError, match=r"val_77\.JPEG"):
        load_data(str(tmp_path))


# Too large for memory

TALL, WIDE = 24, 40


@pytest.fixture
def ramps(tmp_path, monkeypatch):
    """Pictures, read in each step, whose red grows to the right by 4 a pixel and whose green grows down by 6."""
    monkeypatch.setattr(listed, "IN_MEMORY", 0)
    picture = np.zeros((TALL, WIDE, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(WIDE) * 4, np.arange(TALL)[:, None] * 6
    for part, count in (("train", 9), ("test", 2)):
        (tmp_path / part / "ant").mkdir(parents=True)
        for row in range(count):
            Image.fromarray(picture).save(tmp_path / part / "ant" / f"{row}.png")
    return load_data(str(tmp_path), size=12)  # half of the shorter side


def corners(images):
    """Where squares of 8 pixels start in a picture of 12×20, down and to the right, from their middles' colours."""
    red, green = images[:, 0].mean((1, 2)) * 255, images[:, 1].mean((1, 2)) * 255
    return (green / 6 + 0.5) / 2 - 4, (red / 4 + 0.5) / 2 - 4


def read(split, rows):
    assert isinstance(split, Lazy)
    return next(split.batches([torch.tensor(rows)]))[0]


def test_tests_see_the_middle(ramps):
    data = Prepare(cut=8, margin=None)(ramps)
    assert (data.test.shape, data.train.shape, data.size, data.cut) == ((3, 8, 8), (3, 8, 8), (8, 8), None)
    down, right = corners(read(data.test, [0, 1]))
    assert down.tolist() == pytest.approx([2, 2], abs=0.1)
    assert right.tolist() == pytest.approx([6, 6], abs=0.1)


def test_the_middle_is_that_of_the_square(ramps):
    """A cut of the middle is the middle of what is read without one: pictures are scaled alike."""
    whole, middle = read(ramps.test, [0]), read(Prepare(cut=8)(ramps).test, [0])
    assert (whole[..., 2:10, 2:10] - middle).abs().max() < 1.1 / 255


def test_training_sees_squares_of_the_whole_picture(ramps):
    train = Prepare(cut=8, margin=None)(ramps).train
    rows = [row % 9 for row in range(400)]
    down, right = corners(read(train, rows))
    for found, free in ((down, 4), (right, 12)):
        assert found.min() > -0.2
        assert found.max() < free + 0.2
        assert torch.histc(found, 4, 0, free).min() > 60  # of about 100
    again = corners(read(train, rows))
    assert torch.equal(torch.stack(again), torch.stack((down, right)))
    others = corners(read(train, rows[1:] + rows[:1]))
    assert (torch.stack(others) - torch.stack((down, right))).abs().mean() > 1
    assert len(corners(read(train, [3] * 5))[1].round(decimals=2).unique()) == 5


def test_a_margin_is_left_to_training(ramps):
    data = Prepare(cut=8, margin=1, normalise="imagenet")(ramps)
    assert (data.train.shape, data.test.shape, data.cut) == ((3, 10, 10), (3, 8, 8), 8)
    assert (data.train.mean, data.test.std) == IMAGENET
    assert (read(data.train, [0])[..., 1:9, 1:9] - read(data.test, [0])).abs().max() < 1.1 / 255
    with pytest.raises(ConfigError, match=r"cut=8 with margin=3: .* has 12×12 pixels, need 14 or more"):
        Prepare(cut=8, margin=3)(ramps)


def test_no_random_number_of_the_run_is_drawn(ramps):
    train = Prepare(cut=8, margin=None)(ramps).train
    before = torch.get_rng_state()
    list(train.batches([torch.tensor([0, 1]), torch.tensor([2])]))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_rest_needs_images_in_memory(ramps):
    with pytest.raises(ConfigError, match="images of this set are read from disk in each step, need a set in memory"):
        Prepare(cut=8, pool=2)(ramps)


def test_pictures_are_held_out_by_rows(ramps):
    data = Prepare(validation=0.4, cut=8, margin=None)(ramps)
    assert (len(data.train), len(data.test)) == (5, 4)
    assert sorted([*data.train.stored, *data.test.stored]) == sorted(ramps.train.stored)
    assert (data.train.roam, data.test.roam) == (True, False)
    assert len(data.train.labels) == 5
