"""A disk that becomes full: said with what was needed and what is free, and nothing half written stays."""

import builtins
import errno
from io import BytesIO
import shutil
import sys

import pytest

from tests.unit.training import made_up
from tests.unit.training.made_up_shards import fill_shards
from weightshare.errors import FileError
from weightshare.training.data import convert, load_data, room, shard_index
from weightshare.training.data import download as downloads

FREE = 12_345


class Answer(BytesIO):
    """What a server gives, and the length that it says it has."""

    length: int | None = None


@pytest.fixture
def full(monkeypatch):
    """A disk on which files opened for writing take 100 bytes each."""

    def opened(path, mode="r", *args, **kwargs):
        file = original(path, mode, *args, **kwargs)
        return Full(file) if "w" in mode and ".tmp" in str(path) else file

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 100

        def write(self, content):
            self.left -= len(content)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(content)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

    original = builtins.open
    for module in (downloads, sys.modules[convert.__module__], shard_index):
        monkeypatch.setattr(module, "open", opened, raising=False)
    monkeypatch.setattr(room, "free", lambda path: (FREE, path.parent))


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() or path.name.endswith(".tmp")]


@pytest.mark.parametrize("length", [300, None], ids=["length known", "length unknown"])
def test_a_download_that_fills_the_disk(length, full, mnist, tmp_path, monkeypatch):
    answer = Answer(b"x" * 300)
    answer.length = length
    monkeypatch.setattr(downloads, "urlopen", lambda url, timeout: answer)
    with pytest.raises(FileError) as caught:
        load_data("mnist", tmp_path)
    told = "300" if length else "an unknown number of"
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    assert f"no space left for '{path}': it needs {told} bytes, and 12,345 are free in '{path.parent}'" in str(
        caught.value
    )
    assert files(tmp_path) == []


def test_a_download_that_has_no_room_is_not_begun(tmp_path, mnist, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    answer = Answer(b"never read")
    answer.length = needed = free + 2**40
    monkeypatch.setattr(answer, "read", None)  # it must not be asked
    monkeypatch.setattr(downloads, "urlopen", lambda url, timeout: answer)
    with pytest.raises(FileError, match=rf"it needs {needed:,} bytes, and [\d,]+ are free in '{tmp_path}'"):
        load_data("mnist", tmp_path / "not" / "there")
    assert answer.closed
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fills_the_disk_leaves_the_old_file(full, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")
    with pytest.raises(
        FileError, match=rf"no space left for '{path}': it needs up to 13[\d,]+ bytes, and 12,345 are free"
    ):
        convert("digits", path)
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == [path]


def test_an_index_that_finds_no_room_stays_in_memory(full, tmp_path):
    expected = fill_shards(tmp_path)
    made_up.check_same(load_data(str(tmp_path)), expected["train"], expected["val"])
    assert list(tmp_path.glob(".*")) == []


def test_other_errors_of_a_disk_are_what_they_were(tmp_path):
    path = tmp_path / "a.npz"
    path.mkdir()
    with pytest.raises(FileError, match=r"there is a folder or a device"):
        convert("digits", path)
