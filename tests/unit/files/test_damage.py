"""Damaged and foreign files: each is refused with our error, and the model is what it was to the last bit."""

from collections.abc import Callable
import json
from pathlib import Path
import pickle

import pytest
from safetensors.torch import save_file
import torch
from torch import nn

from tests.support import state
import weightshare as ws
from weightshare.errors import FileError
from weightshare.files import archive


def network() -> nn.Module:
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file of ours."""
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    model = network()
    ws.share_(model, ws.Tie(rate=2), "*.weight")
    ws.save(model, path)
    return path.read_bytes()


def accepted(path: Path, damaged: list[tuple[object, bytes]]) -> list[object]:
    """Which of the damaged contents are loaded all the same, or change the model."""
    model = network()
    before = state(model)
    wrong = []
    for name, content in damaged:
        path.write_bytes(content)
        for read in (lambda: ws.load(path, model), lambda: ws.tensors(path)):
            try:
                read()
            except FileError:
                continue
            wrong.append(name)
    assert state(model) == before
    return wrong


def test_the_file_itself_is_fine(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(whole)
    model = ws.load(tmp_path / "m", network())
    assert model[0].weight is model[1].weight


def test_cut_at_every_length(whole: bytes, tmp_path: Path) -> None:
    assert accepted(tmp_path / "m", [(length, whole[:length]) for length in range(len(whole))]) == []


def test_one_bit_flipped_in_every_byte(whole: bytes, tmp_path: Path) -> None:
    def flipped(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]

    assert accepted(tmp_path / "m", [(at, flipped(at)) for at in range(len(whole))]) == []


def test_every_bit_of_the_length_and_of_the_first_names(whole: bytes, tmp_path: Path) -> None:
    def flipped(at: int, bit: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]

    damaged = [((at, bit), flipped(at, bit)) for at in range(64) for bit in range(8)]
    assert accepted(tmp_path / "m", damaged) == []


@pytest.mark.parametrize("fill", [0x00, 0x20, 0xFF])
def test_stretches_overwritten(fill: int, whole: bytes, tmp_path: Path) -> None:
    def overwritten(start: int, length: int) -> bytes:
        return whole[:start] + bytes([fill]) * length + whole[start + length :]

    stretches = [(start, length) for start in range(0, len(whole) - 64, 61) for length in (7, 64)]
    damaged = [(stretch, overwritten(*stretch)) for stretch in stretches]
    damaged = [(name, content) for name, content in damaged if content != whole]
    assert len(damaged) > 40
    assert accepted(tmp_path / "m", damaged) == []


@pytest.mark.parametrize("extra", [b"\x00", b" ", b"more of it" * 100])
def test_something_appended(extra: bytes, whole: bytes, tmp_path: Path) -> None:
    assert accepted(tmp_path / "m", [(extra, whole + extra), (extra, extra + whole)]) == []


FOREIGN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "text": lambda path: path.write_text("weights"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(network().state_dict())),
    "a checkpoint of torch": lambda path: torch.save(network().state_dict(), path),
    "a huge header": lambda path: path.write_bytes((2**63 - 1).to_bytes(8, "little") + b"{}"),
    "a header beyond the file": lambda path: path.write_bytes((1000).to_bytes(8, "little") + b"{}"),
    "a deep header": lambda path: path.write_bytes((90_000).to_bytes(8, "little") + b"[" * 90_000),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_safetensors_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    FOREIGN[name](path)
    model = network()
    before = state(model)
    for read in (lambda: ws.load(path, model), lambda: ws.tensors(path)):
        with pytest.raises(FileError, match=r"m\.safetensors"):
            read()
    assert state(model) == before


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "m").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileError):
        ws.load(tmp_path / "m", network())
    assert not (tmp_path / "exploded").exists()


def test_a_file_of_someone_else_has_tensors_but_is_no_model_of_ours(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    save_file(tensors, tmp_path / "m", {"format": "pt"})
    model = network()
    before = state(model)
    with pytest.raises(FileError, match=r"was not written by weightshare.*weightshare\.tensors"):
        ws.load(tmp_path / "m", model)
    assert state(model) == before
    assert set(ws.tensors(tmp_path / "m")) == set(tensors)


def test_another_kind(tmp_path: Path) -> None:
    archive.write(tmp_path / "m", dict(network().state_dict()), {}, {"kind": "checkpoint"})
    with pytest.raises(FileError, match="holds a 'checkpoint', need a 'model'"):
        ws.load(tmp_path / "m", network())


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_version(version: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(archive, "VERSION", version)
        ws.save(network(), tmp_path / "m")
    with pytest.raises(FileError, match=f"has format version {version!r}"):
        ws.load(tmp_path / "m", network())


def signed(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A hostile file whose checksum is right."""
    save_file(tensors, path, {**metadata, archive.CHECKSUM: archive._checksum(tensors, metadata)})


OURS = json.dumps({"version": archive.VERSION, "kind": "model", "plans": []})


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {archive.CONTENT: ""},
        {archive.CONTENT: "{"},
        {archive.CONTENT: "[]"},
        {archive.CONTENT: "[" * 100_000},
        {archive.CONTENT: "9" * 5000},
        {archive.CONTENT: OURS, "alias": "nobody"},
        {archive.CONTENT: OURS, "weight": "bias"},
    ],
    ids=["nothing", "empty", "no JSON", "a list", "deep", "long number", "an alias of nothing", "an alias of a name"],
)
def test_hostile_metadata_with_the_right_checksum(metadata: dict[str, str], tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    before = state(model)
    signed(tmp_path / "m", {name: t.detach().clone() for name, t in model.named_parameters()}, metadata)
    with pytest.raises(FileError):
        ws.load(tmp_path / "m", model)
    assert state(model) == before
