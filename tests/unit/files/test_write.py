"""Writing: whatever happens, the name holds the old file or the new one, whole."""

from collections.abc import Callable
import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError
import torch
from torch import nn

from tests.zoo import chain
import weightshare as ws
from weightshare.errors import FileError
from weightshare.files import archive, atomic


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    ws.save(nn.Linear(2, 3), path)
    return path


def check_fails(old: Path, error: type[BaseException], message: str | None = None) -> None:
    """Saving raises, the old file is as it was and nothing else lies about."""
    before = old.read_bytes()
    with pytest.raises(error, match=message):
        ws.save(chain().model, old)
    assert old.read_bytes() == before
    assert list(old.parent.iterdir()) == [old]


def test_a_full_disk_when_renaming(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "replace", full)
    check_fails(old, FileError, "Cannot write .*No space left on device. What was there is unchanged")


@pytest.mark.parametrize("error", [SafetensorError("I/O error"), OSError(errno.EIO, "I/O error")])
def test_a_full_disk_when_writing(error: Exception, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_written(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", half_written)
    check_fails(old, FileError, "I/O error")


def test_an_interruption_when_writing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    check_fails(old, KeyboardInterrupt)


def test_a_disk_that_does_not_sync(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic.os, "fsync", broken)
    check_fails(old, FileError, "Cannot write")


def test_the_file_is_synced_before_it_is_renamed(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda handle: (calls.append("sync"), sync(handle)))
    monkeypatch.setattr(atomic.os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    ws.save(nn.Linear(2, 3), old)
    assert calls[:2] == ["sync", "rename"]


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(FileError, match="Cannot write"):
        ws.save(nn.Linear(2, 3), tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_file_where_a_folder_should_be(old: Path) -> None:
    with pytest.raises(FileError, match="Cannot write"):
        ws.save(nn.Linear(2, 3), old / "m")


def meta() -> nn.Module:
    return nn.Linear(2, 3, device="meta")


def sparse() -> nn.Module:
    model = nn.Linear(2, 3)
    model.register_buffer("mask", torch.eye(3).to_sparse())
    return model


def taken() -> nn.Module:
    model = nn.Linear(2, 3)
    model.register_parameter("weightshare", nn.Parameter(torch.ones(1)))
    return model


def reserved() -> nn.Module:
    model = nn.Linear(2, 3)
    model.register_parameter("__metadata__", nn.Parameter(torch.ones(1)))
    return model


def wide_complex() -> nn.Module:
    model = nn.Linear(2, 3)
    model.register_buffer("phase", torch.ones(2, dtype=torch.complex128))
    return model


def one_storage() -> nn.Module:
    model = nn.Linear(2, 3)
    model.register_parameter("same", nn.Parameter(model.weight.data))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (meta, "'weight': it is on the meta device"),
        (sparse, "'mask': it is of layout torch.sparse_coo"),
        (taken, "under the name 'weightshare'"),
        (reserved, "__metadata__"),
        (wide_complex, "complex128"),
        (one_storage, "share memory"),
    ],
)
def test_what_cannot_be_stored_leaves_the_old_file(make: Callable[[], nn.Module], message: str, old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(FileError, match=message):
        ws.save(make(), old)
    assert old.read_bytes() == before
    assert list(old.parent.iterdir()) == [old]


def test_write_returns_the_size(tmp_path: Path) -> None:
    size = archive.write(tmp_path / "a", {"a": torch.ones(3)}, {"b": "a"}, {"kind": "test"})
    assert size == (tmp_path / "a").stat().st_size


def test_text_and_json_are_written_whole(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a" / "t", "×")
    atomic.write_json(tmp_path / "a" / "j", {"b": 1, "a": [2]})
    assert (tmp_path / "a" / "t").read_text(encoding="utf-8") == "×"
    assert (tmp_path / "a" / "j").read_text().split() == ["{", '"b":', "1,", '"a":', "[", "2", "]", "}"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["j", "t"]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    """A FIFO stands for every file that is no regular one: replacing /dev/null would harm the machine."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="a folder or a device"):
        ws.save(nn.Linear(2, 3), tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "target.json")
    atomic.write_json(tmp_path / "link.json", [1])
    assert (tmp_path / "link.json").is_symlink()
    assert atomic.read_json(tmp_path / "real" / "target.json") == [1]


def test_files_have_the_usual_mode_and_keep_one_that_was_set(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        ws.save(nn.Linear(2, 3), tmp_path / "m.safetensors")
        assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o640
        (tmp_path / "m.safetensors").chmod(0o664)
        ws.save(nn.Linear(2, 3), tmp_path / "m.safetensors")
        assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(mask)


@pytest.mark.parametrize("path", ["", ".", None, 3, b"x", "a\0b"])
def test_what_is_no_file_name_is_refused(path: object) -> None:
    with pytest.raises(FileError):
        ws.save(nn.Linear(2, 3), path)
    with pytest.raises(FileError):
        ws.load(path, nn.Linear(2, 3))
