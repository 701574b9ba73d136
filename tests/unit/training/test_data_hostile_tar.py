"""Archives that somebody made to do harm: nothing is written, nothing hangs, and little is read."""

import gzip
import io
import tarfile

import pytest

from weightshare.errors import FileError
from weightshare.training.data import unpack


def packed(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "C:\\x/x"])
def test_a_path_that_leads_out_is_a_name_alone(name, tmp_path):
    path = packed(tmp_path / "t.tar.gz", (member(name), b"content"))
    assert unpack.read_tar(path, ["x"]) == {"x": b"content"}
    assert [entry.name for entry in tmp_path.rglob("*")] == ["t.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_no_files(kind, tmp_path):
    path = packed(tmp_path / "t.tar.gz", (member("x", kind, "/etc/passwd"), b""))
    with pytest.raises(FileError, match="lacks x"):
        unpack.read_tar(path, ["x"])


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "LARGEST", 2**20)
    for name, content in (("x", bytes(2**21)), ("y", bytes(2**22))):
        path = packed(tmp_path / "t.tar.gz", (member(name), content))
        with pytest.raises(FileError, match="more than"):
            unpack.read_tar(path, ["x"])


def test_a_member_of_less_than_no_bytes_does_not_go_back_for_ever(tmp_path):
    header = bytearray(member("x").tobuf())
    header[124:136] = b"\xff" * 11 + b"\x00"  # a size below zero, in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    with pytest.raises(FileError):
        unpack.read_tar(tmp_path / "t.tar.gz", ["y"])
