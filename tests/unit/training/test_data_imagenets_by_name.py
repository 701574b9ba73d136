"""`tiny-imagenet` and `imagenet`: found by name, in every form and place they may have; missing and damaged ones."""

import hashlib
import io
import shutil
import zipfile

import pytest
import torch

from tests.unit.training import test_data_imagenet
from tests.unit.training.made_up_folder import COUNTS, fill
from tests.unit.training.made_up_shards import fill_shards
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import imagenet, load_data, tiny_imagenet
from weightshare.training.data.download import download

SIDE = test_data_imagenet.SIDE


def zipped(root):
    """A folder `tiny-imagenet-200` as its zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(root.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(root.parent))
    return buffer.getvalue()


def published(monkeypatch, content):
    monkeypatch.setattr(tiny_imagenet, "CHECKSUM", hashlib.md5(content).hexdigest())
    return content


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A made-up TinyImageNet: its unpacked folder, and its zip."""
    root = tmp_path / "made" / "tiny-imagenet-200"
    test_data_imagenet.tiny_imagenet(root)
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 3)
    return root, published(monkeypatch, zipped(root))


def check_equal(data, other):
    assert (data.name, data.classes, data.class_names) == ("tiny-imagenet", 3, other.class_names)
    for one, two in ((data.train, other.train), (data.test, other.test)):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
        assert (one.mean, one.std) == (two.mean, two.std)


@pytest.mark.parametrize("place", ["", "tiny-imagenet"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_tiny_imagenet_is_found_packed_and_not(packed, place, tiny, tmp_path):
    root, content = tiny
    home = tmp_path / "home" / place
    home.mkdir(parents=True)
    writers = {
        False: lambda: shutil.copytree(root, home / root.name),
        True: lambda: (home / "tiny-imagenet-200.zip").write_bytes(content),
    }
    writers[packed]()
    check_equal(load_data("tiny-imagenet", tmp_path / "home"), load_data(str(root)))


def test_tiny_imagenet_is_downloaded_once_and_checked(tiny, tmp_path, monkeypatch):
    root, content = tiny
    answers = []

    def serve(url, path, check):
        answers.append(url)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        check(path)

    monkeypatch.setattr(tiny_imagenet, "download", serve)
    for _ in range(2):
        check_equal(load_data("tiny-imagenet", tmp_path / "home"), load_data(str(root)))
    assert answers == ["http://cs231n.stanford.edu/tiny-imagenet-200.zip"]
    content = content[:-1]
    with pytest.raises(FileError, match=rf"{tmp_path / 'else'}.*zip' is damaged or not the official file"):
        load_data("tiny-imagenet", tmp_path / "else")


def test_the_official_checksum_is_one():
    assert len(tiny_imagenet.CHECKSUM) == 32
    assert int(tiny_imagenet.CHECKSUM, 16)
    assert (tiny_imagenet.CLASSES, imagenet.CLASSES) == (200, 1000)
    assert tiny_imagenet.download is download


def test_a_missing_tiny_imagenet_says_what_where_and_what_to_do(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_data("tiny-imagenet", tmp_path)
    message = str(caught.value)
    for place in (tmp_path, tmp_path / "tiny-imagenet"):
        assert f"'{place / 'tiny-imagenet-200'}'" in message
        assert f"'{place / 'tiny-imagenet-200.zip'}'" in message
    assert tiny_imagenet.URL in message
    assert "no network" in message
    assert f"Put the zip into '{tmp_path / 'tiny-imagenet'}'" in message
    assert list(tmp_path.iterdir()) == []


def rewritten(content, change):
    """The zip with members changed: from a dict to a dict."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, inner in change(members).items():
            archive.writestr(name, inner)
    return buffer.getvalue()


LIST = "tiny-imagenet-200/val/val_annotations.txt"
DAMAGED = {
    "no zip": (lambda content: b"no zip", "Cannot read '.*zip': File is not a zip file"),
    "no list": (lambda c: rewritten(c, lambda m: {k: v for k, v in m.items() if k != LIST}), "There is no item named"),
    "an empty list": (
        lambda c: rewritten(c, lambda m: m | {LIST: b""}),
        "annotations.txt' is damaged: need a file, a tab",
    ),
    "another class": (
        lambda c: rewritten(c, lambda m: m | {LIST: b"val_0.JPEG\tn99\n"}),
        "has 3 classes to learn from, need 3, and 1 others to be measured on, need none",
    ),
    "no training images": (
        lambda c: rewritten(c, lambda m: {k: v for k, v in m.items() if "/train/" not in k}),
        "has 0 classes to learn from, need 3",
    ),
    "broken images": (
        lambda c: rewritten(c, lambda m: m | {k: v[:-40] for k, v in m.items() if "/val/images/val" in k}),
        "5 of 12 images cannot be read: '.*zip: tiny-imagenet-200/val/images/val_0.JPEG', ",
    ),
    "a huge image": (
        lambda c: rewritten(c, lambda m: m | {k: b"\0" * 2**21 for k, v in m.items() if "val_3" in k}),
        "val_3.JPEG' has more than 1,048,576 bytes",
    ),
}


@pytest.mark.parametrize(("harm", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_zip_that_holds_something_else_is_named(harm, message, tiny, tmp_path, monkeypatch):
    _, content = tiny
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(published(monkeypatch, harm(content)))
    with pytest.raises(FileError, match=message):
        load_data("tiny-imagenet", tmp_path)


def test_a_folder_of_other_classes_is_no_tiny_imagenet(tiny, tmp_path, monkeypatch):
    root, _ = tiny
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 200)
    with pytest.raises(ConfigError, match=rf"'{root}' has 3 classes, need 200"):
        load_data("tiny-imagenet", root.parent)


# ImageNet


def test_imagenet_is_a_folder_or_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    fill(tmp_path / "folder" / "imagenet", {"train": COUNTS["train"], "val": COUNTS["test"]})
    fill_shards(tmp_path / "shards" / "imagenet")
    for home, counts in (("folder", (10, 5)), ("shards", (13, 5))):
        data = load_data("imagenet", tmp_path / home)
        assert (data.name, len(data.train), len(data.test)) == ("imagenet", *counts)
        assert load_data("imagenet", tmp_path / home, size=3).size == (3, 3)
    with pytest.raises(ConfigError, match="size=0: need a whole number"):
        load_data("imagenet", tmp_path / "folder", size=0)


def test_shards_beside_folders_of_classes_are_left_alone(tmp_path):
    """The archives that ImageNet comes in stay where they are unpacked."""
    fill(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"not read")
    assert len(load_data(str(tmp_path)).train) == 10


def test_a_part_of_imagenet_goes_by_its_path(tmp_path):
    fill(tmp_path / "imagenet")
    with pytest.raises(
        ConfigError, match=r"imagenet' has 3 classes, need 1,000\. Name a part of it by its path: data="
    ):
        load_data("imagenet", tmp_path)


def test_imagenet_is_never_downloaded_and_the_message_says_how_to_lay_it(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_data("imagenet", tmp_path)
    message = str(caught.value)
    assert f"looked for the folder '{tmp_path / 'imagenet'}'" in message
    assert "imagenet/train/n01440764/*.JPEG and imagenet/val/n01440764/*.JPEG" in message
    assert "imagenet/train-*.tar and imagenet/val-*.tar" in message
    assert "never downloaded, since its licence" in message
    assert "WEIGHTSHARE_DATA" in message
    assert "no network" not in message
