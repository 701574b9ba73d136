"""Data sets in one `.npz`: every layout is read, every mistake named."""

import numpy as np
import pytest
import torch

from tests.unit.training.made_up import pictures
from tests.unit.training.made_up_npz import COUNT, GOOD, IMAGES, IS_TRAIN, LABELS, NHWC, check_same, save
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import load_data


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (NHWC, IMAGES),
        (IMAGES, IMAGES),
        (np.asfortranarray(IMAGES), IMAGES),
        (IMAGES[:, 1], IMAGES[:, 1:2]),
        (IMAGES[:, :1], IMAGES[:, :1]),
        (NHWC[..., 2:], IMAGES[:, 2:]),
        ((NHWC / 255).astype(np.float32), IMAGES),
        (IMAGES / 255, IMAGES),
    ],
    ids=["NHWC", "NCHW", "fortran", "NHW", "N1HW", "NHW1", "float32", "float64"],
)
def test_every_layout_is_read(stored, expected, tmp_path):
    data = load_data(save(tmp_path / "a.npz", **GOOD | {"images": stored}))
    check_same(data, expected)
    assert data.train.shape == expected.shape[1:]
    assert (data.classes, data.class_names) == (4, ())


def test_statistics_are_those_of_the_training_part(tmp_path):
    train = load_data(save(tmp_path / "a.npz", **GOOD)).train
    part = torch.from_numpy(IMAGES[IS_TRAIN]).double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(torch.tensor(train.mean, dtype=torch.float64), part.mean(1))
    torch.testing.assert_close(torch.tensor(train.std, dtype=torch.float64), part.std(1))
    floats = load_data(save(tmp_path / "b.npz", **GOOD | {"images": IMAGES / 255})).train
    assert floats.mean == pytest.approx(train.mean)
    assert floats.std == pytest.approx(train.std)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_channel_that_never_varies_is_not_divided_by_zero(kind, tmp_path):
    images = (IMAGES / 255).astype(kind) if kind is np.float32 else IMAGES.copy()
    images[:, 1] = {np.uint8: 77, np.float32: 0.3}[kind]
    data = load_data(save(tmp_path / "a.npz", **GOOD | {"images": images}))
    assert data.train.std[1] == 1
    assert data.test[:][0][:, 1].abs().max() < 1e-6


@pytest.mark.parametrize(("layout", "expected"), [("NHWC", (5, 3, 3)), ("NCHW", (3, 3, 5))])
def test_layout_decides_where_the_shape_does_not(layout, expected, tmp_path):
    images = pictures(COUNT, (3, 3, 5), 2, 1)[0]
    path = save(tmp_path / "a.npz", **GOOD | {"images": images, "layout": layout})
    assert load_data(path).train.shape == expected


def test_class_names_count_the_classes_and_scale_is_kept(tmp_path):
    path = save(tmp_path / "a.npz", **GOOD, class_names=np.array(list("abcde")), scale=510)
    data = load_data(path)
    assert (data.classes, data.class_names, data.name) == (5, tuple("abcde"), path)
    assert data.train.scale == 510
    check_same(data, IMAGES / 2)


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


nan, high = IMAGES / 255, IMAGES / 254
nan[4, 1, 2, 3] = np.nan
WRONG = {
    "no images": (without("images"), r"no entry 'images', only labels, is_train"),
    "no labels": (without("labels"), "no entry 'labels'"),
    "no is_train": (without("is_train"), "no entry 'is_train'"),
    "images of whole numbers": (GOOD | {"images": NHWC.astype(np.int64)}, r"images is int64 .* need uint8, or floats"),
    "images of texts": (GOOD | {"images": NHWC.astype(str)}, "need uint8, or floats"),
    "two axes": (GOOD | {"images": IMAGES[:, 0, 0]}, r"images is uint8 \(11, 7\), need \(n, h, w\)"),
    "five axes": (GOOD | {"images": IMAGES[None]}, "need"),
    "no height": (GOOD | {"images": IMAGES[:, :, :0]}, "need"),
    "too few images": (GOOD | {"images": IMAGES[:-1]}, "10 images and 11 labels"),
    "a NaN": (GOOD | {"images": nan}, "go from nan to nan, need 0 to 1"),
    "above 1": (GOOD | {"images": high}, "need 0 to 1"),
    "below 0": (GOOD | {"images": IMAGES / 255 - 0.1}, "need 0 to 1"),
    "both channels": (GOOD | {"images": IMAGES[:, :, :, :1]}, "both of axes 1 and 3.*layout"),
    "no channels": (GOOD | {"images": IMAGES[:, :2]}, "neither of axes 1 and 3.*layout"),
    "wrong layout": (GOOD | {"layout": "CHWN"}, "layout is 'CHWN', need 'NHWC' or 'NCHW'"),
    "labels of floats": (GOOD | {"labels": LABELS.astype(float)}, "labels is float64 .* need whole numbers"),
    "labels of truth": (GOOD | {"labels": LABELS > 1}, "labels is bool"),
    "labels of two axes": (GOOD | {"labels": LABELS[:, None]}, r"labels is int64 \(11, 1\)"),
    "a negative label": (GOOD | {"labels": LABELS - 2}, "labels go down to -2, need 0 or more"),
    "is_train of numbers": (GOOD | {"is_train": IS_TRAIN.astype(int)}, "is_train is int64 .* need truth values"),
    "is_train too long": (GOOD | {"is_train": np.append(IS_TRAIN, True)}, r"is_train is bool \(12,\)"),
    "no test images": (GOOD | {"is_train": IS_TRAIN | True}, "there are no test images"),
    "no training images": (GOOD | {"is_train": IS_TRAIN & False}, "there are no training images"),
    "nothing at all": ({key: value[:0] for key, value in GOOD.items()}, "has no images"),
    "too few names": (GOOD | {"class_names": np.array(list("abc"))}, "labels go up to 3, and there are 3 class names"),
    "names of numbers": (GOOD | {"class_names": np.arange(9)}, "class_names is int64"),
    "scale of 0": (GOOD | {"scale": 0}, "scale is int64 .* need one number above 0"),
    "two scales": (GOOD | {"scale": np.ones(2)}, "scale is float64"),
    "objects": (GOOD | {"labels": LABELS.astype(object)}, "entry 'labels'.*allow_pickle=False"),
}


@pytest.mark.parametrize(("entries", "message"), WRONG.values(), ids=WRONG)
def test_every_mistake_is_named(entries, message, tmp_path):
    path = tmp_path / "a.npz"
    with np.errstate(all="raise"):
        save(path, **entries)
        with pytest.raises(FileError, match=message) as caught:
            load_data(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 31, 400, -30], ids=["empty", "a byte", "header", "entry", "end"])
def test_a_cut_file_is_named(keep, tmp_path):
    path = tmp_path / "a.npz"
    save(path, **GOOD)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"Cannot read '.*a\.npz'"):
        load_data(str(path))


def test_a_flipped_bit_is_named(tmp_path):
    path = tmp_path / "a.npz"
    save(path, **GOOD)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"Cannot read the entry 'images'.*CRC"):
        load_data(str(path))


def test_one_array_and_a_pickle_are_no_npz(tmp_path):
    path = tmp_path / "a.npz"
    with open(path, "wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(FileError, match="holds one array"):
        load_data(str(path))
    path.write_bytes(b"\x80\x02cos\nsystem\n(U\x04exittR.")
    with pytest.raises(FileError, match="Cannot read"):
        load_data(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.npz': there is no such file"):
        load_data(str(tmp_path / "gone.npz"))


def test_a_size_is_that_of_the_images_or_refused(tmp_path):
    path = save(tmp_path / "a.npz", **GOOD)
    with pytest.raises(ConfigError, match="holds images of 5×7: size=5 is for"):
        load_data(path, size=5)
    square = save(tmp_path / "b.npz", **GOOD | {"images": IMAGES[:, :, :, :5]})
    assert load_data(square, size=5).train.shape == (3, 5, 5)
