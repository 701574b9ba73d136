"""Official files that are damaged, cut, or hold something else: each is named, and nothing is used of it."""

import pytest

from tests.unit.training import made_up
from weightshare.errors import FileError
from weightshare.training.data import load_data

IDX = pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
CIFAR = pytest.mark.parametrize(("name", "edition"), list(made_up.CIFARS))


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "gz"])
@pytest.mark.parametrize("which", range(4))
def test_a_flipped_bit_is_named_with_both_checksums(which, packed, mnist, tmp_path):
    contents, *_ = mnist
    name = list(contents)[which]
    damaged = bytearray(contents[name])
    damaged[-1] ^= 1
    made_up.write(tmp_path / "mnist", contents | {name: bytes(damaged)}, packed)
    needed = made_up.official.OFFICIAL["mnist"].editions[0].files[which].checksum.partition(":")[2]
    with pytest.raises(FileError, match=rf"{name}.*damaged.*sha256 [0-9a-f]{{64}}, need {needed}") as caught:
        load_data("mnist", tmp_path)
    assert "Remove it" in str(caught.value)


@CIFAR
def test_a_flipped_bit_in_an_archive_names_archive_and_member(name, edition, tmp_path, monkeypatch):
    contents, *_ = made_up.files(name, edition)
    made_up.publish(monkeypatch, name, contents, edition)
    last = list(contents)[-1]
    damaged = bytearray(contents[last])
    damaged[101] ^= 128
    folder, archive = made_up.CIFARS[name, edition]
    (tmp_path / archive).write_bytes(made_up.tar(contents | {last: bytes(damaged)}, folder))
    with pytest.raises(FileError, match=rf"{archive}: {last}' is damaged"):
        load_data(name, tmp_path)


@pytest.mark.parametrize("keep", [3, 19, -7], ids=["header", "middle", "end"])
def test_a_cut_gz_is_named(keep, mnist, tmp_path):
    contents, *_ = mnist
    folder = made_up.write(tmp_path / "mnist", contents, packed=True)
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"Cannot read .*t10k-images-idx3-ubyte\.gz.*cut or damaged"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize("keep", [5, 900, -900], ids=["header", "middle", "end"])
def test_a_cut_tar_is_named(keep, tmp_path, monkeypatch):
    contents, *_ = made_up.files("cifar100")
    made_up.publish(monkeypatch, "cifar100", contents)
    path = tmp_path / "cifar-100-binary.tar.gz"
    path.write_bytes(made_up.tar(contents, "cifar-100-binary")[:keep])
    with pytest.raises(FileError, match=r"cifar-100-binary\.tar\.gz"):
        load_data("cifar100", tmp_path)


def test_a_tar_that_lacks_a_member_is_named(tmp_path, monkeypatch):
    contents, *_ = made_up.files("cifar10")
    made_up.publish(monkeypatch, "cifar10", contents)
    del contents["data_batch_3.bin"]
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(made_up.tar(contents, "x"))
    with pytest.raises(FileError, match=r"lacks data_batch_3\.bin"):
        load_data("cifar10", tmp_path)


def test_paths_in_a_tar_are_never_written_to(tmp_path, monkeypatch):
    contents, train, test = made_up.files("cifar10")
    made_up.publish(monkeypatch, "cifar10", contents)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cifar-10-binary.tar.gz").write_bytes(made_up.tar(contents, "../escaped"))
    made_up.check_same(load_data("cifar10", tmp_path / "home"), train, test)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cifar-10-binary.tar.gz", "home"]


def test_a_file_that_unpacks_to_more_than_any_official_one_is_refused(mnist, tmp_path, monkeypatch):
    from weightshare.training.data import unpack

    contents, *_ = mnist
    made_up.write(tmp_path / "mnist", contents, packed=True)
    monkeypatch.setattr(unpack, "LARGEST", 100)
    with pytest.raises(FileError, match="more than 100 bytes"):
        load_data("mnist", tmp_path)


def wrong_contents():
    """Files whose checksum is right and whose content is not."""
    contents, (images, labels), _ = made_up.files("mnist")
    head, values = contents["train-images-idx3-ubyte"][:16], contents["train-images-idx3-ubyte"][16:]
    yield "one label too few", "train-labels-idx1-ubyte", made_up.idx(labels[:-1]), "7 training images have 6 labels"
    yield "no images", "t10k-images-idx3-ubyte", made_up.idx(images[:0, 0]), "there are no test images"
    yield "a label too high", "train-labels-idx1-ubyte", made_up.idx(labels + 10), "need 0 to 9"
    yield "one value too few", "train-images-idx3-ubyte", head + values[:-1], r"has 384 values, need 385"
    yield "another type", "train-images-idx3-ubyte", b"\0\0\x0d\x03" + head[4:] + values, "no idx file of 3 dimensions"
    yield "another format", "train-images-idx3-ubyte", b"GIF89a", "no idx file of 3 dimensions"
    yield "empty", "train-labels-idx1-ubyte", b"", "no idx file of 1 dimensions"
    yield "only a start", "train-images-idx3-ubyte", head[:9], "no idx file of 3 dimensions"


WRONG = list(wrong_contents())


@pytest.mark.parametrize(("file", "content", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_content_that_is_wrong_though_its_checksum_is_right(file, content, message, tmp_path, monkeypatch):
    contents, *_ = made_up.files("mnist")
    contents[file] = content
    made_up.publish(monkeypatch, "mnist", contents)
    made_up.write(tmp_path / "mnist", contents)
    with pytest.raises(FileError, match=message):
        load_data("mnist", tmp_path)


@CIFAR
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b""], ids=["cut", "empty"])
def test_a_batch_of_cifar_that_is_cut(name, edition, damage, tmp_path, monkeypatch):
    contents, *_ = made_up.files(name, edition)
    last = list(contents)[-1]
    contents[last] = damage(contents[last])
    made_up.publish(monkeypatch, name, contents, edition)
    folder, _ = made_up.CIFARS[name, edition]
    made_up.write(tmp_path / folder, contents)
    with pytest.raises(FileError, match=f"'{last}'"):
        load_data(name, tmp_path)
