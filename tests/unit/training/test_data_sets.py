"""The named sets: official files, made up and small, in every form and place; missing and damaged ones."""

from functools import partial
import gzip
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import pickle
import threading
from urllib.error import URLError

import numpy as np
import pytest
import torch

from tests.unit.training import made_up
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import SETS, load_data
from weightshare.training.data import download as downloads

IDX = pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
CIFAR = pytest.mark.parametrize(("name", "edition"), list(made_up.CIFARS))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches the network by accident; those that mean to ask a server of their own."""

    def refuse(url, timeout):
        raise URLError("no network")

    monkeypatch.setattr(downloads, "urlopen", refuse)


@pytest.fixture
def mnist(monkeypatch):
    contents, train, test = made_up.files("mnist")
    made_up.publish(monkeypatch, "mnist", contents)
    return contents, train, test


def same(data, train, test):
    for split, (images, labels) in ((data.train, train), (data.test, test)):
        got, got_labels = next(split.batches([torch.arange(len(split))]))
        assert got.dtype == torch.float32
        assert torch.equal((got * 255).round().to(torch.uint8), torch.from_numpy(images))
        assert torch.equal(got_labels, torch.from_numpy(labels))


@IDX
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "gz"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_idx_files_are_found_wherever_they_may_lie(name, packed, place, tmp_path, monkeypatch):
    contents, train, test = made_up.files(name)
    made_up.publish(monkeypatch, name, contents)
    folder = made_up.official.OFFICIAL[name].editions[0].folders[place]
    made_up.write(tmp_path / folder, contents, packed)
    data = load_data(name, tmp_path)
    same(data, train, test)
    assert (data.name, data.classes, len(data.class_names)) == (name, 10, 10)
    assert data.train.shape == data.test.shape == (1, 5, 11)


@CIFAR
@pytest.mark.parametrize("place", ["", "own", "archive", "archive in own"])
def test_cifar_is_found_in_both_versions_packed_and_not(name, edition, place, tmp_path, monkeypatch):
    contents, train, test = made_up.files(name, edition)
    made_up.publish(monkeypatch, name, contents, edition)
    folder, archive = made_up.CIFARS[name, edition]
    home = tmp_path / name if "own" in place else tmp_path
    home.mkdir(exist_ok=True)
    writers = {
        False: lambda: made_up.write(home / folder, contents),
        True: lambda: (home / archive).write_bytes(made_up.tar(contents, folder)),
    }
    writers["archive" in place]()
    data = load_data(name, tmp_path)
    same(data, train, test)
    assert data.classes == len(data.class_names) == {"cifar10": 10, "cifar100": 100}[name]
    assert data.channels == 3


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_python_version_holds_what_python_would_unpickle(name):
    """The made-up files are real pickles, so what the reader gets out of them is what they mean."""
    contents, train, _ = made_up.files(name, edition=1)
    first = pickle.loads(next(iter(contents.values())), encoding="latin1")
    images, labels = first["data"], first["fine_labels" if name == "cifar100" else "labels"]
    np.testing.assert_array_equal(images, train[0][: len(images)].reshape(len(images), -1))
    assert labels == train[1][: len(labels)].tolist()


def test_reading_the_python_version_runs_nothing(tmp_path, monkeypatch):
    """A pickle that would make a file when it is unpickled, with the right checksum."""
    trap = tmp_path / "trap"
    bomb = b"\x80\x02cbuiltins\nopen\n(U" + bytes([len(str(trap))]) + str(trap).encode() + b"U\x01wtR."
    pickle.loads(bomb, encoding="latin1").close()
    assert trap.exists()
    trap.unlink()
    contents, *_ = made_up.files("cifar100", 1)
    contents["train"] = bomb
    made_up.publish(monkeypatch, "cifar100", contents, 1)
    made_up.write(tmp_path / "cifar-100-python", contents)
    with pytest.raises(FileError, match=r"'train' has 0 labels and 0 pixels"):
        load_data("cifar100", tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize("name", made_up.NAMES)
def test_the_official_table_is_whole(name):
    official = made_up.official.OFFICIAL[name]
    lengths = {"md5": 32, "sha1": 40, "sha256": 64}
    checksums = [file.checksum.split(":") for edition in official.editions for file in edition.files]
    assert all(len(digits) == lengths[kind] and int(digits, 16) for kind, digits in checksums)
    assert len({digits for _, digits in checksums}) == len(checksums)
    assert len(set(official.class_names)) == len(official.class_names) == (100 if name == "cifar100" else 10)
    assert name in SETS


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
    same(load_data("cifar10", tmp_path / "home"), train, test)
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


@pytest.mark.parametrize("name", made_up.NAMES)
def test_a_missing_set_says_what_where_and_what_to_do(name, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_data(name, tmp_path)
    message = str(caught.value)
    for edition in made_up.official.OFFICIAL[name].editions:
        assert all(file.name in message for file in edition.files)
        assert all(str(tmp_path / folder) in message for folder in edition.folders)
        assert f"{edition.url}{edition.archive}" in message
    assert "no network" in message
    assert f"Put the files into '{tmp_path / name}'" in message
    assert "WEIGHTSHARE_DATA" in message
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_missing_is_named(mnist, tmp_path):
    contents, *_ = mnist
    del contents["t10k-labels-idx1-ubyte"]
    made_up.write(tmp_path / "mnist", contents)
    with pytest.raises(ConfigError, match=r"Missing: t10k-labels-idx1-ubyte \(each"):
        load_data("mnist", tmp_path)


def test_the_folder_of_sets_is_that_of_the_environment(mnist, tmp_path, monkeypatch):
    contents, train, test = mnist
    made_up.write(tmp_path / "mnist", contents)
    monkeypatch.setenv("WEIGHTSHARE_DATA", str(tmp_path))
    same(load_data("mnist"), train, test)


def test_else_it_is_data_in_the_current_folder(mnist, tmp_path, monkeypatch):
    contents, train, test = mnist
    made_up.write(tmp_path / "data" / "mnist", contents)
    monkeypatch.delenv("WEIGHTSHARE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    same(load_data("mnist"), train, test)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, and the address at which it is published."""
    from urllib.request import urlopen

    monkeypatch.setattr(downloads, "urlopen", urlopen)
    folder = tmp_path / "published"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("name", made_up.NAMES)
def test_a_download_is_stored_checked_and_used_again(name, server, tmp_path, monkeypatch, capsys):
    folder, url = server
    contents, train, test = made_up.files(name)
    made_up.publish(monkeypatch, name, contents, url=url)
    archive = made_up.official.OFFICIAL[name].editions[0].archive
    published = {archive: made_up.tar(contents, "any")} if archive else {
        f"{file}.gz": gzip.compress(content) for file, content in contents.items()
    }  # fmt: skip
    made_up.write(folder, published)
    same(load_data(name, tmp_path / "home"), train, test)
    assert capsys.readouterr().err.count("Downloading http") == len(published)
    assert sorted(path.name for path in (tmp_path / "home" / name).iterdir()) == sorted(published)
    for path in folder.iterdir():
        path.unlink()
    same(load_data(name, tmp_path / "home"), train, test)


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_a_bad_download_is_not_kept(name, server, tmp_path, monkeypatch):
    folder, url = server
    contents, *_ = made_up.files(name)
    made_up.publish(monkeypatch, name, contents, url=url)
    file = next(iter(contents))
    damaged = contents | {file: contents[file][:-1] + b"\x01"}
    published = {"cifar-100-binary.tar.gz": made_up.tar(damaged, "any")} | {
        f"{key}.gz": gzip.compress(content) for key, content in damaged.items()
    }
    made_up.write(folder, published)
    with pytest.raises(FileError, match=rf"{tmp_path / 'home' / name}.*{file}.*damaged or not the official file"):
        load_data(name, tmp_path / "home")
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_what_is_there_is_not_downloaded(server, mnist, tmp_path, monkeypatch):
    folder, url = server
    contents, train, test = mnist
    made_up.publish(monkeypatch, "mnist", contents, url=url)
    first, *others = contents
    made_up.write(folder, {key: contents[key] for key in [first]}, packed=True)
    made_up.write(tmp_path / "home" / "mnist", {key: contents[key] for key in others})
    same(load_data("mnist", tmp_path / "home"), train, test)


def test_a_server_without_the_file_is_named(server, tmp_path, monkeypatch):
    _, url = server
    contents, *_ = made_up.files("cifar10")
    made_up.publish(monkeypatch, "cifar10", contents, url=url)
    with pytest.raises(ConfigError, match=r"cifar-10-binary\.tar\.gz could not be downloaded: HTTP Error 404"):
        load_data("cifar10", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_an_answer_that_breaks_off_leaves_nothing(mnist, tmp_path, monkeypatch):
    class Broken:
        length = None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, _):
            raise TimeoutError("no more")

    asked = []
    monkeypatch.setattr(downloads, "urlopen", lambda url, timeout: asked.append(timeout) or Broken())
    with pytest.raises(ConfigError, match="could not be downloaded: no more"):
        load_data("mnist", tmp_path)
    assert asked == [20]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
