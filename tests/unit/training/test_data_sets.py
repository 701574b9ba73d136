"""The named sets: official files, made up and small, in every form and place; missing and damaged ones."""

import pickle

import numpy as np
import pytest

from tests.unit.training import made_up
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import SETS, load_data

IDX = pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
CIFAR = pytest.mark.parametrize(("name", "edition"), list(made_up.CIFARS))


@IDX
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "gz"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_idx_files_are_found_wherever_they_may_lie(name, packed, place, tmp_path, monkeypatch):
    contents, train, test = made_up.files(name)
    made_up.publish(monkeypatch, name, contents)
    folder = made_up.official.OFFICIAL[name].editions[0].folders[place]
    made_up.write(tmp_path / folder, contents, packed)
    data = load_data(name, tmp_path)
    made_up.check_same(data, train, test)
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
    made_up.check_same(data, train, test)
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
    made_up.check_same(load_data("mnist"), train, test)


def test_else_it_is_data_in_the_current_folder(mnist, tmp_path, monkeypatch):
    contents, train, test = mnist
    made_up.write(tmp_path / "data" / "mnist", contents)
    monkeypatch.delenv("WEIGHTSHARE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    made_up.check_same(load_data("mnist"), train, test)
