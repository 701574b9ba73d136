"""Shards that cannot be used: what is wrong is counted, over all shards, and the first of it named."""

import gzip
import json
import tarfile

import pytest

from tests.unit.training.made_up_shards import fill_shards, samples, write_tar
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import listed, load_data


@pytest.fixture
def shards(tmp_path):
    fill_shards(tmp_path)
    return tmp_path


def rewrite(root, change, numbers=(0, 1)):
    """Write training shards again, their members changed: from a list of pairs to one."""
    for number in numbers:
        write_tar(root / f"train-000{number}.tar", change(samples("train", number)[0]))


def relabelled(text, kind="cls"):
    """The first label of a shard is another one."""
    return lambda members: [members[0], (f"{members[0][0][:-3]}{kind}", text), *members[2:]]


IMAGE, LABEL = slice(0, None, 2), slice(1, None, 2)
SAMPLES = {
    "no label": (
        lambda members: members[:-1],
        r"2 of 13 images have no label \(KEY\.cls or KEY\.json\): 'train-0000\.tar: train0/003\.png', 'train-0001",
    ),
    "no image": (
        lambda members: members[1:],
        r"2 of 13 labels have no image \(KEY\.jpg, .*\): 'train-0000\.tar: train0/000', 'train-0001\.tar: train1/000'",
    ),
    "no images at all": (
        lambda members: members[LABEL],
        r"7 of 13 labels have no image .* and 2 more\. Write them again",
    ),
    "an image twice": (
        lambda members: [*members, (members[0][0].replace("png", "jpg"), b"")],
        r"2 of 28 members have a key that is there before: 'train-0000\.tar: train0/000\.jpg'",
    ),
    "a label twice": (lambda members: [*members, members[1]], r"2 of 28 members have a key that is there before"),
    "two dots": (
        lambda members: [(members[0][0].replace("png", "v2.png"), b""), (members[1][0].replace("cls", "v2.cls"), b"")],
        r"2 of 14 members are images with a second dot in the name, .*: 'train-0000\.tar: train0/000\.v2\.png'",
    ),
    "a word": (relabelled(b"cat"), r"2 of 13 labels are no whole number from 0 .*: 'train-0000\.tar: train0/000\.png'"),
    "below 0": (relabelled(b"-1"), r"2 of 13 labels are no whole number from 0"),
    "a float": (relabelled(b"1.0"), r"2 of 13 labels are no whole number from 0"),
    "nothing": (relabelled(b""), r"2 of 13 labels are no whole number from 0"),
    "huge": (relabelled(b"9" * 40), r"2 of 13 labels are no whole number from 0"),
    "no json": (relabelled(b"{", "json"), r"2 of 13 labels are no whole number from 0"),
    "no object": (relabelled(b"[3]", "json"), r"2 of 13 labels are no whole number from 0"),
    "another key": (relabelled(b'{"class": 1}', "json"), r"2 of 13 labels are no whole number from 0"),
    "true": (relabelled(b'{"label": true}', "json"), r"2 of 13 labels are no whole number from 0"),
    "no text": (relabelled(b"\xff", "json"), r"2 of 13 labels are no whole number from 0"),
    "two mistakes": (
        lambda members: [*members[1:-1], (members[-1][0], b"x")],
        r"2 of 13 labels have no image .*; 2 of 13 labels are no whole number",
    ),
}


@pytest.mark.parametrize(("change", "message"), SAMPLES.values(), ids=SAMPLES)
def test_samples_that_are_not_whole_are_counted_and_named(change, message, shards):
    rewrite(shards, change)
    with pytest.raises(FileError, match=rf"The shards in '{shards}' cannot be used: {message}"):
        load_data(str(shards))
    assert not (shards / ".weightshare-train.npz").exists()


def test_links_are_refused(shards):
    rewrite(shards, lambda members: members[2:], [0])
    with tarfile.open(shards / "train-0000.tar", "a") as archive:
        link = tarfile.TarInfo("train0/000.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(FileError, match=r"1 of 25 members are links or folders: 'train-0000\.tar: train0/000\.png'"):
        load_data(str(shards))


@pytest.mark.parametrize("limit", [0, 10**9], ids=["lazy", "in memory"])
def test_unreadable_images_are_counted_and_named(limit, shards, monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY", limit)
    rewrite(
        shards, lambda members: [(members[0][0], members[0][1][:-40]), members[1], (members[2][0], b""), *members[3:]]
    )
    with pytest.raises(FileError) as caught:
        load_data(str(shards))
    message = str(caught.value)
    first = f"'{shards / 'train-0000.tar'}: train0/000.png', '{shards / 'train-0000.tar'}: train0/001.png'"
    assert message.startswith(f"4 of 18 images cannot be read: {first}, ")


def test_labels_of_the_test_part_are_those_of_the_training_part(shards):
    members, *_ = samples("val", 0)
    write_tar(shards / "val-0000.tar", relabelled(b"3")(members))
    said = r"1 of 5 labels of val are out of range: '.*val0/000\.png' has 3\. Need 0 to 2, as train has them"
    with pytest.raises(FileError, match=said):
        load_data(str(shards))


def test_labels_are_those_that_have_names(shards):
    (shards / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(
        FileError, match=r"4 of 13 labels of train are out of range: .* Need 0 to 1, as classes\.txt has"
    ):
        load_data(str(shards))
    (shards / "classes.txt").write_text("ant\nbee\ncow\ndog\nelk\n")
    with pytest.raises(FileError, match=r"2 of 5 classes have no training images: 3, 4\."):
        load_data(str(shards))


def test_classes_without_an_image_are_counted(shards):
    rewrite(shards, relabelled(b"11"), [0])
    with pytest.raises(FileError, match=r"8 of 12 classes have no training images: 3, 4, 5, 6, 7 and 3 more\."):
        load_data(str(shards))
    rewrite(shards, relabelled(b"99999999"), [0])
    with pytest.raises(FileError, match=r"training labels go up to 99,999,999, need numbers from 0 without a hole"):
        load_data(str(shards))


# Archives


def damaged(content, where):
    return content[:where] + b"\x07" * 8 + content[where + 8 :]


ARCHIVES = {
    "cut in a header": (lambda content: content[:1300], "."),
    "cut in an image": (lambda content: content[:700], "."),
    "cut between members": (lambda content: content[:2048], "ends after 2,048 bytes without an end mark"),
    "a damaged header": (lambda content: damaged(content, 2048), "what follows byte 2,048 is no header"),
    "two archives": (lambda content: content + content, "more follows its end mark"),
    "compressed": (gzip.compress, "."),
    "no archive": (lambda content: b"no archive" * 100, "."),
    "empty": (lambda content: b"", "."),
}


@pytest.mark.parametrize(("harm", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_is_none_or_cut_is_named(harm, message, shards):
    path = shards / "train-0001.tar"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(FileError, match=rf"Cannot read '{path}' as an uncompressed tar archive: .*{message}"):
        load_data(str(shards))


def test_a_shard_that_is_gone_later_is_named(shards, monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY", 0)
    data = load_data(str(shards))
    (shards / "train-0000.tar").unlink()
    with pytest.raises(FileError, match=r"Cannot read the image '.*train-0000\.tar: train0/002\.png'.*No such file"):
        data.train[2:3]
    (shards / "val-0000.tar").write_bytes(b"")
    with pytest.raises(FileError, match=r"Cannot read the image '.*val-0000\.tar: val0/000\.png'"):
        data.test[:1]


def test_every_archive_is_of_a_part_and_every_part_has_some(shards):
    for name in ("boxes.tar", "train-val.tar"):
        write_tar(shards / name, [])
    with pytest.raises(
        ConfigError, match=r"2 archives in '.*' are of no part: boxes\.tar, train-val\.tar\. Need train or val"
    ):
        load_data(str(shards))
    for name in ("boxes.tar", "train-val.tar", "val-0000.tar"):
        (shards / name).unlink()
    with pytest.raises(ConfigError, match=r"has no shards of val: need val-\*\.tar, or val/\*\.tar, uncompressed"):
        load_data(str(shards))
    write_tar(shards / "val-0000.tar", [("readme.txt", json.dumps({}).encode())])
    with pytest.raises(FileError, match="the shards of val have no images"):
        load_data(str(shards))
