"""Folders of images: classes, sizes, kinds; decoded at once or batch by batch, with the same result."""

import sys

import numpy as np
from PIL import Image
import pytest

from tests.unit.training.made_up_folder import COUNTS, HEIGHT, WIDTH, bytes_of, fill
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import InMemory, Lazy, listed, load_data, pictures


@pytest.mark.parametrize("limit", [0, 10**9], ids=["lazy", "in memory"])
@pytest.mark.parametrize("test", ["test", "val"])
def test_classes_are_folders_in_the_order_of_their_names(test, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY", limit)
    expected = fill(tmp_path, {"train": COUNTS["train"], test: COUNTS["test"]})
    data = load_data(str(tmp_path))
    assert isinstance(data.train, Lazy if limit == 0 else InMemory)
    assert (data.classes, data.class_names) == (3, ("ant", "bee", "cow"))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [0, 0, 2, 2, 2]
    assert data.train.shape == data.test.shape == (3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(bytes_of(data.train), expected["train"])
    np.testing.assert_array_equal(bytes_of(data.test), expected[test])


def test_the_limit_counts_both_parts(tmp_path, monkeypatch):
    fill(tmp_path)
    exact = 15 * 3 * HEIGHT * WIDTH
    monkeypatch.setattr(listed, "IN_MEMORY", exact)
    assert isinstance(load_data(str(tmp_path)).train, InMemory)
    monkeypatch.setattr(listed, "IN_MEMORY", exact - 1)
    assert isinstance(load_data(str(tmp_path)).train, Lazy)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_images_are_grey_if_all_are(mode, tmp_path):
    expected = fill(tmp_path, mode=mode)
    data = load_data(str(tmp_path))
    assert data.train.shape == (1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(bytes_of(data.train), expected["train"][:, :1])


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_kinds_become_rgb(mode, tmp_path):
    expected = fill(tmp_path, mode=mode, ending="tif")
    np.testing.assert_array_equal(bytes_of(load_data(str(tmp_path)).train), expected["train"])


def test_one_coloured_image_makes_all_of_them_rgb(tmp_path):
    expected = fill(tmp_path, mode="L")
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), [11, 13, 17], np.uint8)).save(tmp_path / "test" / "cow" / "9.png")
    data = load_data(str(tmp_path))
    np.testing.assert_array_equal(bytes_of(data.train), expected["train"])
    assert bytes_of(data.test)[-1, :, 0, 0].tolist() == [11, 13, 17]


def test_a_palette_with_transparency_warns_of_nothing(tmp_path):
    fill(tmp_path, mode="P", ending="png")
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            image.load()
        image.save(path, transparency=bytes(range(19)))
    assert load_data(str(tmp_path)).train.shape == (3, HEIGHT, WIDTH)


def test_sixteen_bits_are_refused_and_not_clipped(tmp_path):
    fill(tmp_path)
    Image.fromarray(np.full((HEIGHT, WIDTH), 40000, np.uint16)).save(tmp_path / "train" / "bee" / "9.png")
    with pytest.raises(FileError, match=r"bee.9\.png' ?: it has more than 8 bits"):
        load_data(str(tmp_path))


def test_files_in_folders_below_and_capital_endings_count_and_others_do_not(tmp_path):
    fill(tmp_path)
    deep = tmp_path / "train" / "ant" / "images"
    deep.mkdir()
    (tmp_path / "train" / "ant" / "0.png").rename(deep / "0.PNG")
    (tmp_path / "train" / "ant" / "boxes.txt").write_text("1 2 3 4")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "ant" / "._1.png").write_bytes(b"what a Mac leaves")
    assert load_data(str(tmp_path)).train.labels.tolist().count(0) == 3


@pytest.mark.parametrize(
    ("height", "width", "size"), [(12, 8, 4), (8, 12, 4), (8, 8, 4), (6, 10, 3), (4, 2, 4), (15, 11, 11)]
)
def test_a_size_scales_the_shorter_side_and_cuts_the_middle(height, width, size, tmp_path):
    """The slow twin scales the whole image and cuts afterwards; here both sides come out as whole numbers."""
    fill(tmp_path, size=(height, width))
    got = bytes_of(load_data(str(tmp_path), size=size).train)
    short = min(height, width)
    tall, wide = height * size // short, width * size // short
    top, left = (tall - size) // 2, (wide - size) // 2
    paths = sorted((tmp_path / "train").rglob("*.png"))
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            scaled = np.asarray(image.resize((wide, tall), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        np.testing.assert_array_equal(got[row], scaled[:, top : top + size, left : left + size])
    assert len(paths) == len(got)


def test_the_middle_is_what_stays(tmp_path):
    for part in COUNTS:
        (tmp_path / part / "a").mkdir(parents=True)
        image = np.zeros((6, 10, 3), np.uint8)
        image[:, 2:8] = 200
        Image.fromarray(image).save(tmp_path / part / "a" / "0.png")
        Image.fromarray(image.transpose(1, 0, 2)).save(tmp_path / part / "a" / "1.png")
    got = bytes_of(load_data(str(tmp_path), size=6).train)
    assert got.shape == (2, 3, 6, 6)
    assert (got == 200).all()


def test_different_sizes_need_a_size(tmp_path):
    fill(tmp_path)
    Image.new("RGB", (11, 13)).save(tmp_path / "train" / "cow" / "9.png")
    with pytest.raises(ConfigError, match=r"cow.9\.png' has 13×11, others have 5×7.*size="):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path), size=3).train.shape == (3, 3, 3)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut"])
@pytest.mark.parametrize("size", [None, 3])
def test_an_unreadable_image_is_named(content, size, tmp_path):
    fill(tmp_path)
    path = tmp_path / "test" / "cow" / "1.png"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(FileError, match=r"Cannot read the image '.*cow.1\.png'.*replace or remove it"):
        load_data(str(tmp_path), size=size)


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("limit", [0, 10**9], ids=["lazy", "in memory"])
def test_all_unreadable_images_are_counted_and_the_first_named(limit, size, tmp_path, monkeypatch):
    """Cut in the middle, no image at all, empty: in both parts; 7 of 15, whatever is read first."""
    monkeypatch.setattr(listed, "IN_MEMORY", limit)
    fill(tmp_path)
    broken = [f"train/bee/{row}.png" for row in range(5)] + ["test/ant/1.png", "test/cow/0.png"]
    for number, name in enumerate(broken):
        path = tmp_path / name
        path.write_bytes([path.read_bytes()[:-40], b"no image", b""][number % 3])
    first = ", ".join(f"'{tmp_path / name}'" for name in broken[:5])
    with pytest.raises(FileError) as caught:
        listed.check(load_data(str(tmp_path), size=size))
    message = str(caught.value)
    assert message.startswith(f"7 of 15 images cannot be read: {first} and 2 more. The first: Cannot read the image ")
    assert message.endswith("replace or remove it.")


def test_a_check_reads_what_no_sample_has(tmp_path, monkeypatch):
    """Of a set that is read batch by batch, loading looks at few images."""
    monkeypatch.setattr(listed, "IN_MEMORY", 0)
    monkeypatch.setattr(listed, "SAMPLE", 2)
    fill(tmp_path)
    data = load_data(str(tmp_path), size=3)
    listed.check(data)
    path = tmp_path / "train" / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:-40])
    data = load_data(str(tmp_path), size=3)
    with pytest.raises(FileError, match=r"1 of 15 images cannot be read: '.*train.bee.1\.png'\. Cannot read the image"):
        listed.check(data)


def test_classes_that_are_not_measured_are_told(tmp_path):
    fill(tmp_path)
    assert listed.without(load_data(str(tmp_path))) == ("bee",)
    assert listed.without(load_data("digits")) == ()


def empty_class(root):
    (root / "train" / "ant" / "deep").mkdir()
    for path in (root / "train" / "ant").glob("*.png"):
        path.unlink()


def empty_classes(root):
    for path in [*(root / "train" / "bee").iterdir(), *(root / "train" / "cow").iterdir()]:
        path.unlink()


def many_classes(root):
    for number in range(7):
        (root / "test" / f"a{number}").mkdir()


def rename(root, old, new):
    (root / old).rename(root / new)


BROKEN = {
    "no train": (lambda root: rename(root, "train", "training"), "need the folder train in it"),
    "no test": (lambda root: rename(root, "test", "tests"), "need the folder test or val in it"),
    "an empty class": (empty_class, r"1 of 3 classes of '.*train' have no images: ant\. Need files that end in \.jpg"),
    "empty classes": (empty_classes, r"2 of 3 classes of '.*train' have no images: bee, cow\."),
    "no classes": (lambda root: (rename(root, "train", "x"), (root / "train").mkdir()), "train' has no folders in it"),
    "another class": (
        lambda root: rename(root, "test/cow", "test/dog"),
        "1 of 2 classes of '.*test' are not in '.*train': dog",
    ),
    "many others": (many_classes, r"7 of 9 classes of '.*test' are not in '.*train': a0, a1, a2, a3, a4 and 2 more\."),
}


@pytest.mark.parametrize(("harm", "message"), BROKEN.values(), ids=BROKEN)
def test_a_folder_of_another_form_is_named(harm, message, tmp_path):
    fill(tmp_path)
    harm(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_data(str(tmp_path))


@pytest.mark.parametrize("size", [0, -3, 2.0, True, "8"])
def test_a_size_is_a_whole_number(size, tmp_path, unchecked):
    fill(tmp_path)
    with pytest.raises(ConfigError, match="need a whole number of pixels"):
        load_data(str(tmp_path), size=size)


def test_without_pillow_the_error_says_what_to_install(tmp_path, monkeypatch):
    fill(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match="pip install pillow"):
        pictures.header(tmp_path / "train" / "ant" / "0.png")
