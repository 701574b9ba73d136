"""Reading what others may have written: regular files alone, each byte once, JSON and headers without surprises."""

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
import torch
from torch import nn

from tests.support import same_bits
import weightshare as ws
from weightshare.errors import FileError
from weightshare.files import opening, stored
from weightshare.files.atomic import read_json
from weightshare.files.opening import parse_json, read_text
from weightshare.files.stored import DTYPES, read_stored


def test_every_dtype_is_read_as_safetensors_reads_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    held = {key: (torch.rand(3, 5) * 2).to(dtype) for key, dtype in DTYPES.items()}
    held |= {"none": torch.empty(0, 3), "one": torch.tensor(2.0), "long": torch.randn(70_001)}
    save_file(held, tmp_path / "m", {"said": "×"})
    tensors, metadata = read_stored(tmp_path / "m")
    wanted = load_file(tmp_path / "m")
    assert metadata == {"said": "×"}
    assert tensors.keys() == wanted.keys()
    assert [(one.dtype, one.shape) for one in tensors.values()] == [
        (wanted[name].dtype, wanted[name].shape) for name in tensors
    ]
    assert same_bits(tensors.values(), (wanted[name] for name in tensors))


def test_what_was_read_stays_when_the_file_is_written_over_or_cut(tmp_path: Path) -> None:
    model = nn.Linear(31, 37)
    ws.save(model, tmp_path / "m")
    held = ws.tensors(tmp_path / "m")
    with open(tmp_path / "m", "rb+") as file:
        file.write(bytes(1000))
        file.truncate(500)
    assert same_bits((held[name] for name in ("weight", "bias")), (model.weight, model.bias))


@pytest.mark.parametrize("kept", [0, 5, 900])
def test_a_file_that_shrinks_while_it_is_read(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.save(nn.Linear(31, 37), tmp_path / "m")
    honest = stored._header

    def shrinking(file: object, size: int) -> object:
        os.truncate(tmp_path / "m", kept)
        return honest(file, size)  # type: ignore[arg-type]

    monkeypatch.setattr(stored, "_header", shrinking)
    with pytest.raises(FileError, match="no whole safetensors file"):
        ws.tensors(tmp_path / "m")


def test_a_text_that_grows_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("x" * 99)
    with pytest.raises(FileError, match="more than 98 bytes"):
        read_text(tmp_path / "t", largest=98)
    assert read_text(tmp_path / "t", largest=99) == "x" * 99


def test_pipes_devices_folders_and_loops_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for path in ("pipe", "folder", "loop", "missing", "/dev/zero", "/dev/null", "\0"):
        for read in (ws.tensors, read_json, read_text, lambda path: ws.load(path, nn.Linear(2, 3))):
            with pytest.raises(FileError):
                read(tmp_path / path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opening.os, "open", refused)  # root may read every file
    with pytest.raises(FileError, match="Permission denied"):
        read_json(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("{", "Expecting"),
    ],
)
def test_json_that_readers_would_disagree_about(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize("content", [b"\x80\x04]q\0.", b"\x80\x02}q\0.", b"PK\x03\x04" + bytes(99)])
def test_a_pickle_gets_advice(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(FileError, match=r"looks like a pickle.*weights_only=True"):
        ws.tensors(tmp_path / "m.bin")
    (tmp_path / "folder").mkdir()
    (tmp_path / "m.bin").rename(tmp_path / "folder" / "pytorch_model.bin")
    with pytest.raises(FileError, match=r"holds a pickle.*weights_only=True"):
        ws.tensors(tmp_path / "folder")


def test_a_few_bytes_that_ask_for_any_memory(tmp_path: Path) -> None:
    """A weight of rank one is as large as the product of what is stored."""
    from weightshare.files import archive
    from weightshare.files.mixture import Mixed

    made = Mixed(torch.ones(1, 2**16), torch.ones(2**16, 1), (2**16, 2**16))
    archive.write(tmp_path / "m", {}, {}, {"kind": "model", "plans": []}, {"weight": made})
    with pytest.raises(FileError, match=r"stores 524,288 bytes.*17,179,869,184 more when they are dense.*largest="):
        ws.tensors(tmp_path / "m")
    with pytest.raises(FileError, match="which the model lacks"):
        ws.load(tmp_path / "m", nn.Identity())
    small = Mixed(torch.ones(1, 8), torch.ones(8, 1), (8, 8))
    archive.write(tmp_path / "m", {}, {}, {"kind": "model", "plans": []}, {"weight": small})
    assert ws.tensors(tmp_path / "m", largest=256)["weight"].sum() == 64
    with pytest.raises(FileError, match="over 255"):
        ws.tensors(tmp_path / "m", largest=255)


@pytest.mark.parametrize(
    "weight_map",
    [
        *(None, {}, [], {"a": 1}, {"a": "../m.safetensors"}, {"a": "/etc/passwd"}, {"a": "x/m.safetensors"}),
        *({"a": "m.bin"}, {"a": ".."}, {"a": ""}, {"a": "lost.safetensors"}, {"b": "m.safetensors"}),
        *({"a": "m.safetensors", "b": "m.safetensors"}, {"a": "n\\m.safetensors"}),
    ],
    ids=str,
)
def test_an_index_that_leads_elsewhere(weight_map: object, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    save_file({"a": torch.ones(3)}, tmp_path / "folder" / "m.safetensors")
    save_file({"a": torch.ones(3)}, tmp_path / "m.safetensors")
    index = tmp_path / "folder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    assert ws.tensors(tmp_path / "folder")["a"].tolist() == [1, 1, 1]
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(FileError):
        ws.tensors(tmp_path / "folder")


def test_the_largest_header_is_that_of_the_format(tmp_path: Path) -> None:
    with open(tmp_path / "m", "wb") as file:
        file.write((stored.LARGEST_HEADER + 1).to_bytes(8, "little") + b"{")
        file.truncate(stored.LARGEST_HEADER + 100)  # holes: no bytes are stored
    with pytest.raises(FileError, match="its header would have 100,000,001 bytes"):
        ws.tensors(tmp_path / "m")
    assert opening.LARGEST_TEXT > stored.LARGEST_HEADER
