"""Damaged and hostile files with codebooks are refused, and the model is what it was to the last bit."""

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
import torch
from torch import Tensor, nn

from tests.support import state
from tests.unit.files.test_compact import network, quantised
import weightshare as ws
from weightshare.errors import FileError
from weightshare.files import archive, compact


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "m"
    model = quantised(nn.Sequential(nn.Linear(13, 17)), 3)
    ws.share_(model, ws.Codebook())
    ws.save(model, path)
    return path.read_bytes()


def refused(path: Path, model: nn.Module) -> bool:
    """Both readers refuse, and the model is what it was."""
    before = state(model)
    for read in (lambda: ws.load(path, model), lambda: ws.tensors(path)):
        with pytest.raises(FileError):
            read()
    return state(model) == before


def test_a_bit_flipped_in_every_byte_and_every_cut(whole: bytes, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(13, 17))
    for at in range(len(whole)):
        (tmp_path / "m").write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert refused(tmp_path / "m", model), at
    for length in range(0, len(whole), 7):
        (tmp_path / "m").write_bytes(whole[:length])
        assert refused(tmp_path / "m", model), length


RECIPE = {"rule": "W = C[I]", "bits": 2, "shape": [13, 17], "dtype": "float32"}
LABELS = torch.arange(221) % 3


def signed(path: Path, recipes: Any, **tensors: Tensor) -> None:
    """A file whose checksum is right, of a weight and what is given instead."""
    parts = {"weight.codebook": torch.tensor([1.0, 2.0, 3.0]), "weight.index": compact.pack(LABELS, 2)}
    held = {name: t for name, t in (parts | {n.replace("_", "."): t for n, t in tensors.items()}).items() if t.numel()}
    content = json.dumps({"version": 2, "kind": "model", "plans": [], "recipes": recipes})
    metadata = {archive.CONTENT: content}
    save_file(held, path, {**metadata, archive.CHECKSUM: archive._checksum(held, metadata)})


def test_the_honest_file_is_read(tmp_path: Path) -> None:
    signed(tmp_path / "m", {"weight": RECIPE})
    model = ws.load(tmp_path / "m", nn.Linear(17, 13, bias=False))
    assert model.weight.reshape(-1).tolist() == (LABELS + 1.0).tolist()


HOSTILE: dict[str, tuple[Any, dict[str, Tensor]]] = {
    "recipes are a list": ([RECIPE], {}),
    "recipes are a text": ("weight", {}),
    "recipes are nothing": (None, {}),
    "a recipe is a text": ({"weight": "W = C[I]"}, {}),
    "a recipe lacks its bits": ({"weight": {"rule": "W = C[I]", "shape": [13, 17], "dtype": "float32"}}, {}),
    "a recipe says more": ({"weight": RECIPE | {"run": "true"}}, {}),
    "another rule": ({"weight": RECIPE | {"rule": "__import__('os')"}}, {}),
    "more numbers than there are, and a zero": ({"weight": RECIPE | {"shape": [2**61, 2**61, 0]}}, {}),
    "no bits": ({"weight": RECIPE | {"bits": 0}}, {}),
    "17 bits": ({"weight": RECIPE | {"bits": 17}}, {"weight_index": torch.zeros(470, dtype=torch.uint8)}),
    "negative bits": ({"weight": RECIPE | {"bits": -2}}, {}),
    "bits that are true": ({"weight": RECIPE | {"bits": True}}, {"weight_index": torch.zeros(28, dtype=torch.uint8)}),
    "bits as text": ({"weight": RECIPE | {"bits": "2"}}, {}),
    "bits as a fraction": ({"weight": RECIPE | {"bits": 2.0}}, {}),
    "other bits": ({"weight": RECIPE | {"bits": 3}}, {}),
    "too few bits for the codebook": (
        {"weight": RECIPE | {"bits": 1}},
        {"weight_index": torch.zeros(28, dtype=torch.uint8)},
    ),
    "another shape": ({"weight": RECIPE | {"shape": [13, 19]}}, {}),
    "a negative shape": ({"weight": RECIPE | {"shape": [-13, -17]}}, {}),
    "a huge shape": ({"weight": RECIPE | {"shape": [2**61, 2**61]}}, {}),
    "a shape beyond int64": ({"weight": RECIPE | {"shape": [10**40]}}, {}),
    "a shape as text": ({"weight": RECIPE | {"shape": "1317"}}, {}),
    "a shape of texts": ({"weight": RECIPE | {"shape": ["13", "17"]}}, {}),
    "no shape": ({"weight": RECIPE | {"shape": None}}, {}),
    "another dtype": ({"weight": RECIPE | {"dtype": "float64"}}, {}),
    "a dtype that is none": ({"weight": RECIPE | {"dtype": ["float32"]}}, {}),
    "no codebook": ({"weight": RECIPE}, {"weight_codebook": torch.empty(0)}),
    "no labels": ({"weight": RECIPE}, {"weight_index": torch.empty(0)}),
    "a weight that is there": ({"weight": RECIPE}, {"weight": torch.ones(13, 17)}),
    "a name of nothing": ({"bias": RECIPE}, {}),
    "a label out of range": ({"weight": RECIPE}, {"weight_codebook": torch.ones(2)}),
    "too long labels": ({"weight": RECIPE}, {"weight_index": torch.zeros(57, dtype=torch.uint8)}),
    "labels of another dtype": ({"weight": RECIPE}, {"weight_index": torch.zeros(56, dtype=torch.int8)}),
    "labels in two rows": ({"weight": RECIPE}, {"weight_index": torch.zeros(8, 7, dtype=torch.uint8)}),
    "a codebook in two rows": ({"weight": RECIPE}, {"weight_codebook": torch.ones(3, 1)}),
    "too long a codebook": ({"weight": RECIPE}, {"weight_codebook": torch.ones(5)}),
    "a codebook of another dtype": ({"weight": RECIPE}, {"weight_codebook": torch.ones(3).double()}),
    "a recipe for a codebook": ({"weight.codebook": RECIPE}, {}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_refused(name: str, tmp_path: Path) -> None:
    recipes, tensors = HOSTILE[name]
    signed(tmp_path / "m", recipes, **tensors)
    assert refused(tmp_path / "m", nn.Linear(17, 13, bias=False))


def test_a_transposed_shape_does_not_fit(tmp_path: Path) -> None:
    signed(tmp_path / "m", {"weight": RECIPE | {"shape": [17, 13]}})
    assert does_not_fit(tmp_path / "m", nn.Linear(17, 13, bias=False))


def does_not_fit(path: Path, model: nn.Module) -> bool:
    before = state(model)
    with pytest.raises(FileError):
        ws.load(path, model)
    return state(model) == before


@pytest.mark.parametrize("change", ["other clusters", "no recipe", "another path", "other shape"])
def test_a_plan_that_its_tensors_do_not_follow(change: str, tmp_path: Path) -> None:
    model = quantised(network(), 3)
    plan = ws.share_(model, ws.Codebook())
    ws.save(model, tmp_path / "m")
    held = archive.read(tmp_path / "m", "model")
    text = plan.to_json()
    changed: dict[str, Callable[[], Any]] = {
        "other clusters": lambda: text.replace('"clusters": 3', '"clusters": 4'),
        "no recipe": lambda: held.coded.pop("2.weight") and text,
        "another path": lambda: text.replace("2.weight", "4.weight"),
        "other shape": lambda: text.replace("  31\n", "  29\n"),
    }
    plans = [["", changed[change]()]]
    dense = {name: held.tensors[name] for name in held.tensors.keys() - held.coded.keys()}
    archive.write(tmp_path / "n", dense, {}, {"kind": "model", "plans": plans}, held.coded)
    assert does_not_fit(tmp_path / "n", network())


def test_a_file_for_another_model_changes_nothing(tmp_path: Path) -> None:
    model = quantised(network(), 3)
    ws.share_(model, ws.Codebook())
    ws.save(model, tmp_path / "m")
    longer = nn.Sequential(*network(), nn.Linear(41, 3))
    wider = nn.Sequential(nn.Linear(31, 37), nn.ReLU(), nn.Linear(37, 43))
    other = quantised(network(), 5)
    ws.share_(other, ws.Codebook())
    for unfit in (longer, wider, network().double(), network().to("meta"), other):
        assert does_not_fit(tmp_path / "m", unfit)
