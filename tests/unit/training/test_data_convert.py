"""Packed image files are decoded, and `convert` writes any source as one `.npz`, to the bit."""

import os

import numpy as np
import pytest
import torch

from tests.unit.training.made_up_npz import GOOD, IMAGES, IS_TRAIN, LABELS, NHWC, check_same, encoded, jpegs, save
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import InMemory, Lazy, convert, listed, load_data


def test_packed_files_are_decoded(tmp_path):
    data = load_data(save(tmp_path / "a.npz", **jpegs(classes=np.array(list("abcd")))))
    check_same(data)
    assert data.class_names == tuple("abcd")


def test_packed_grey_files_stay_grey(tmp_path):
    check_same(load_data(save(tmp_path / "a.npz", **jpegs(NHWC[..., 0]))), IMAGES[:, :1])


def test_packed_files_are_scaled(tmp_path):
    assert load_data(save(tmp_path / "a.npz", **jpegs()), size=13).train.shape == (3, 13, 13)


GOOD_OFFSET = jpegs()["offset"]
WRONG_JPEG = {
    "too few offsets": ({"offset": GOOD_OFFSET[1:]}, r"offset is int64 \(11,\), need whole numbers \(12,\)"),
    "falling": ({"offset": GOOD_OFFSET[::-1]}, "offset must rise"),
    "too far": ({"offset": GOOD_OFFSET + 1}, "offset must rise"),
    "below 0": ({"offset": GOOD_OFFSET - 1}, "offset must rise"),
    "floats": ({"offset": GOOD_OFFSET.astype(float)}, "offset is float64"),
    "no bytes": ({"jpeg": jpegs()["jpeg"].astype(int)}, "jpeg is int64"),
    "an empty file": ({"offset": np.append(GOOD_OFFSET[:-1], GOOD_OFFSET[-2])}, "jpeg 10"),
    "labels": ({"label": LABELS / 2}, "label is float64"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_JPEG.values(), ids=WRONG_JPEG)
def test_every_mistake_in_packed_files_is_named(changes, message, tmp_path):
    with pytest.raises(FileError, match=message):
        load_data(save(tmp_path / "a.npz", **jpegs(**changes)))


def test_a_damaged_packed_file_is_named_by_its_number(tmp_path):
    entries = jpegs()
    blob = entries["jpeg"].copy()
    blob[GOOD_OFFSET[6] : GOOD_OFFSET[7]] = 0
    with pytest.raises(FileError, match=r"a\.npz: jpeg 6'"):
        load_data(save(tmp_path / "a.npz", **entries | {"jpeg": blob}))


# Writing


def equal(one, other):
    assert (one.classes, one.class_names) == (other.classes, other.class_names)
    for a, b in ((one.train, other.train), (one.test, other.test)):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert (a.scale, a.mean, a.std) == (b.scale, b.mean, b.std)


def test_digits_are_written_and_read_again_to_the_bit(tmp_path):
    equal(convert("digits", tmp_path / "deep" / "digits.npz"), load_data("digits"))
    with np.load(tmp_path / "deep" / "digits.npz", allow_pickle=False) as file:
        assert {key: file[key].dtype.kind for key in file} == {
            "images": "u", "labels": "i", "is_train": "b", "class_names": "U", "scale": "f", "layout": "U"
        }  # fmt: skip
        assert file["images"].shape == (1797, 8, 8, 1)


@pytest.mark.parametrize("images", [IMAGES, (IMAGES / 255).astype(np.float32), IMAGES[:, :, :3, :1]], ids=str)
def test_any_npz_is_written_and_read_again_to_the_bit(images, tmp_path):
    path = save(tmp_path / "a.npz", **GOOD | {"images": images, "layout": "NCHW"})
    data = convert(path, tmp_path / "b.npz")
    equal(data, load_data(path))
    assert data.name == str(tmp_path / "b.npz")


def test_packed_files_become_an_array(tmp_path):
    check_same(convert(save(tmp_path / "a.npz", **jpegs()), tmp_path / "b.npz"))
    with np.load(tmp_path / "b.npz") as file:
        assert "images" in file
        assert "jpeg" not in file


def test_a_folder_too_large_for_memory_is_written_all_the_same(tmp_path, monkeypatch):
    for row, image in enumerate(NHWC):
        path = tmp_path / "set" / ("train" if IS_TRAIN[row] else "test") / "ab"[row % 2] / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    source = str(tmp_path / "set")
    memory = load_data(source)
    monkeypatch.setattr(listed, "IN_MEMORY", 0)
    assert isinstance(load_data(source).train, Lazy)
    written = convert(source, tmp_path / "b.npz")
    assert isinstance(written.train, InMemory)
    equal(written, memory)


def test_another_ending_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.npz"):
        convert("nowhere", tmp_path / "a.zip")


def test_a_failed_conversion_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.npz"
    path.write_bytes(b"old")
    with pytest.raises(ConfigError):
        convert(str(tmp_path / "gone.npz"), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.npz"]
