"""Files of models that read templates: banks once, dense weights by recipe, and recipes that do not fit refused."""

import copy
import json
from pathlib import Path
import re
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor, nn

from tests.reading import rebuilt
from tests.support import ROOT, bits, output, state
from tests.zoo import chain
import weightshare as ws
from weightshare.depth.transform import LoRA
from weightshare.errors import FileError
from weightshare.files import archive
from weightshare.files.rows import ROW

WIDE = {"within": "model", "across_widths": True}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(17)


def funnel() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 11), nn.Linear(11, 2, bias=False))


def moved(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.3 * torch.randn_like(tensor)
    return model


def shared(plain: nn.Module, *specs: Any) -> nn.Module:
    model = copy.deepcopy(plain)
    for spec in specs:
        ws.share_(model, spec, "*weight*")
    return moved(model)


def check_dense(model: nn.Module, plain: nn.Module, path: Path) -> None:
    """A state dict of the plain network, as folding gives it to the bit, and as the formula gives it."""
    held = ws.tensors(path)
    folded = ws.fold(model).state_dict()
    assert {name: bits(tensor) for name, tensor in held.items()} == {n: bits(t) for n, t in folded.items()}
    plain.load_state_dict(held)
    for name, tensor in rebuilt(path).items():
        torch.testing.assert_close(tensor, held[name], rtol=1e-5, atol=1e-6)


def test_a_file_of_templates_gives_dense_weights(tmp_path: Path) -> None:
    plain, example = chain()
    model = shared(plain, ws.Templates(2))
    ws.save(model, tmp_path / "m")
    assert not {name for name in load_file(tmp_path / "m") if name.endswith(("fc1.weight", "fc2.weight"))}
    check_dense(model, plain, tmp_path / "m")
    torch.testing.assert_close(output(plain, example), output(model, example))
    again = ws.load(tmp_path / "m", chain().model)
    assert bits(output(again, example)) == bits(output(model, example))
    with safe_open(tmp_path / "m", "pt") as file:
        said = json.loads(file.metadata()[archive.CONTENT])
    assert said["version"] == 2
    assert said["recipes"]["blocks.1.fc1.weight"]["rule"] == ROW
    assert said["recipes"]["blocks.1.fc1.weight"]["row"] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_leading_slices_in_any_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    plain = funnel().to(dtype)
    model = shared(plain, ws.Templates(2, **WIDE))
    ws.save(model, tmp_path / "m")
    held = ws.tensors(tmp_path / "m")
    assert {n: bits(t) for n, t in held.items()} == {n: bits(t) for n, t in ws.fold(model).state_dict().items()}
    plain.load_state_dict(held)
    assert all(tensor.is_contiguous() for tensor in held.values())


def test_a_model_that_was_cast_after_it_was_shared(tmp_path: Path) -> None:
    model = shared(funnel(), ws.Templates(2, **WIDE)).double()
    ws.save(model, tmp_path / "m")
    check_dense(model, funnel().double(), tmp_path / "m")


def test_one_hot_coefficients_are_stored_as_a_codebook(tmp_path: Path) -> None:
    plain = nn.Sequential(*(nn.Linear(7, 7) for _ in range(23)))
    model = copy.deepcopy(plain)
    ws.share_(model, ws.Templates(11, "sparse"))
    ws.save(model, tmp_path / "m")
    assert any(name.endswith("coefficients.codebook") for name in load_file(tmp_path / "m"))
    check_dense(model, plain, tmp_path / "m")
    assert torch.equal(ws.load(tmp_path / "m", plain)[3].weight, model[3].weight)


def banks() -> nn.Module:
    """Two lists of layers, so two banks of templates of one shape."""
    return nn.ModuleList([nn.Sequential(*(nn.Linear(13, 13, bias=False) for _ in range(4 + n))) for n in range(2)])


LATER = {
    "templates of a codebook": ws.Codebook(clusters=5),
    "templates of templates": ws.Templates(1, within="model"),
}


@pytest.mark.parametrize("name", LATER)
def test_what_a_bank_stores_is_shared_itself(name: str, tmp_path: Path) -> None:
    model = banks()
    ws.share_(model, ws.Templates(2))
    ws.share_(model, LATER[name], "*.templates")
    ws.save(model, tmp_path / "m")
    held = ws.tensors(tmp_path / "m")
    folded = ws.fold(model).state_dict()
    assert held.keys() == folded.keys() == banks().state_dict().keys()
    for key, tensor in held.items():
        torch.testing.assert_close(tensor, folded[key])
    again = ws.load(tmp_path / "m", banks())
    assert torch.equal(again[1][2].weight, model[1][2].weight)


def test_tied_banks(tmp_path: Path) -> None:
    model = banks()
    ws.share_(model, ws.Templates(2))
    paths = [path for path, _ in model.named_parameters() if path.endswith("templates")]
    first, second = (path.rpartition(".")[0] for path in paths)
    model.get_submodule(second).templates = model.get_submodule(first).templates
    ws.save(model, tmp_path / "m")
    held, folded = ws.tensors(tmp_path / "m"), ws.fold(model).state_dict()
    assert {n: bits(t) for n, t in held.items()} == {n: bits(t) for n, t in folded.items()}


def test_a_layer_of_two_names(tmp_path: Path) -> None:
    model = nn.ModuleDict({"net": shared(nn.Sequential(*(nn.Linear(7, 7) for _ in range(3))), ws.Templates(2))})
    model["again"] = model["net"]
    ws.save(model, tmp_path / "m")
    held = ws.tensors(tmp_path / "m")
    assert held.keys() == {f"{part}.{layer}.{name}" for part in model for layer in "012" for name in ("weight", "bias")}
    assert held["again.1.weight"] is held["net.1.weight"]


def test_what_has_no_recipe_is_refused_as_before(tmp_path: Path) -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2, own=LoRA(1)), "blocks.*.fc1")
    ws.share_(model, ws.Templates(2), "blocks.*.fc2")
    ws.save(model, tmp_path / "m")
    with pytest.raises(FileError, match="stores what weights are made from"):
        ws.tensors(tmp_path / "m")
    assert torch.equal(ws.load(tmp_path / "m", chain().model).blocks[1].fc2.weight, model.blocks[1].fc2.weight)


def test_the_snippet_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    plain = funnel()
    model = shared(plain, ws.Templates(2, **WIDE))
    ws.save(model, tmp_path / "small.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(snippet, "files.md", "exec"), names)
    folded = ws.fold(model).state_dict()
    assert names["state"].keys() == folded.keys()
    for name, tensor in names["state"].items():
        torch.testing.assert_close(tensor, folded[name])
    plain.load_state_dict(names["state"])


# Damage


RECIPE = {"rule": ROW, "bank": "bank", "row": 1, "shape": [13, 17], "dtype": "float32"}


def signed(path: Path, recipes: Any, **tensors: Tensor) -> None:
    """A file whose checksum is right, of a bank of two templates for three layers, and what is given instead."""
    parts = {"bank.templates": torch.ones(2, 13, 19), "bank.coefficients": torch.arange(6.0).view(3, 2)}
    held = {name: t for name, t in (parts | {n.replace("_", "."): t for n, t in tensors.items()}).items() if t.numel()}
    metadata = {archive.CONTENT: json.dumps({"version": 2, "kind": "model", "plans": [], "recipes": recipes})}
    save_file(held, path, {**metadata, archive.CHECKSUM: archive._checksum(held, metadata)})


def test_the_honest_file_is_read(tmp_path: Path) -> None:
    signed(tmp_path / "m", {"weight": RECIPE, "other": RECIPE | {"row": 2, "shape": [13, 19]}})
    held = ws.tensors(tmp_path / "m")
    assert held.keys() == {"weight", "other"}
    assert torch.equal(held["weight"], torch.full((13, 17), 5.0))
    assert torch.equal(held["other"], torch.full((13, 19), 9.0))


HOSTILE: dict[str, tuple[Any, dict[str, Tensor]]] = {
    "a recipe lacks its row": ({"weight": {name: RECIPE[name] for name in RECIPE if name != "row"}}, {}),
    "a recipe says more": ({"weight": RECIPE | {"run": "true"}}, {}),
    "another rule": ({"weight": RECIPE | {"rule": "W = A[i]·T + B"}}, {}),
    "a bank that is not there": ({"weight": RECIPE | {"bank": "bunk"}}, {}),
    "a bank that is a number": ({"weight": RECIPE | {"bank": 3}}, {}),
    "a bank that is a list": ({"weight": RECIPE | {"bank": ["bank"]}}, {}),
    "a row past the last": ({"weight": RECIPE | {"row": 3}}, {}),
    "a negative row": ({"weight": RECIPE | {"row": -1}}, {}),
    "a row that is true": ({"weight": RECIPE | {"row": True}}, {}),
    "a row as a fraction": ({"weight": RECIPE | {"row": 1.0}}, {}),
    "a row as text": ({"weight": RECIPE | {"row": "1"}}, {}),
    "a shape that is wider": ({"weight": RECIPE | {"shape": [13, 23]}}, {}),
    "a shape of three dimensions": ({"weight": RECIPE | {"shape": [13, 17, 1]}}, {}),
    "a shape of one dimension": ({"weight": RECIPE | {"shape": [13]}}, {}),
    "a shape of nothing": ({"weight": RECIPE | {"shape": []}}, {}),
    "no numbers": ({"weight": RECIPE | {"shape": [13, 0]}}, {}),
    "a negative shape": ({"weight": RECIPE | {"shape": [-13, -17]}}, {}),
    "a shape as text": ({"weight": RECIPE | {"shape": "1317"}}, {}),
    "another dtype": ({"weight": RECIPE | {"dtype": "float64"}}, {}),
    "a dtype that is none": ({"weight": RECIPE | {"dtype": None}}, {}),
    "no templates": ({"weight": RECIPE}, {"bank_templates": torch.empty(0)}),
    "no coefficients": ({"weight": RECIPE}, {"bank_coefficients": torch.empty(0)}),
    "another count of templates": ({"weight": RECIPE}, {"bank_templates": torch.ones(3, 13, 19)}),
    "templates without shape": ({"weight": RECIPE | {"shape": []}}, {"bank_templates": torch.ones(2)}),
    "templates that are one number": ({"weight": RECIPE}, {"bank_templates": torch.ones(())}),
    "templates of whole numbers": (
        {"weight": RECIPE | {"dtype": "int64"}},
        {"bank_templates": torch.ones(2, 13, 19).long(), "bank_coefficients": torch.ones(3, 2).long()},
    ),
    "coefficients of another dtype": ({"weight": RECIPE}, {"bank_coefficients": torch.ones(3, 2).double()}),
    "coefficients in a row": ({"weight": RECIPE}, {"bank_coefficients": torch.ones(2)}),
    "a kernel of another size": (
        {"weight": RECIPE | {"shape": [13, 17, 2]}},
        {"bank_templates": torch.ones(2, 13, 19, 3)},
    ),
    "a weight that is there": ({"weight": RECIPE}, {"weight": torch.ones(13, 17)}),
    "a recipe for templates": ({"bank.templates": RECIPE}, {}),
    "a bank of its own": ({"a.templates": RECIPE | {"bank": "a"}}, {}),
    "a bank that comes later": (
        {"weight": RECIPE | {"bank": "a"}, "a.templates": RECIPE, "a.coefficients": RECIPE},
        {},
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_refused(name: str, tmp_path: Path) -> None:
    recipes, tensors = HOSTILE[name]
    signed(tmp_path / "m", recipes, **tensors)
    model = nn.Linear(17, 13, bias=False)
    before = state(model)
    for read in (lambda: ws.load(tmp_path / "m", model), lambda: ws.tensors(tmp_path / "m")):
        with pytest.raises(FileError):
            read()
    assert state(model) == before


@pytest.mark.parametrize("change", ["rows swapped", "a row too few", "no plan"])
def test_recipes_that_are_not_those_of_the_plan(change: str, tmp_path: Path) -> None:
    model = shared(funnel(), ws.Templates(2, **WIDE))
    ws.save(model, tmp_path / "m")
    held = archive.read(tmp_path / "m", "model")
    rows = dict(held.rows)
    plans = held.content["plans"]
    changed = {
        "rows swapped": ({**rows, "1.weight": rows["2.weight"], "2.weight": rows["1.weight"]}, plans),
        "a row too few": ({name: row for name, row in rows.items() if name != "1.weight"}, plans),
        "no plan": (rows, []),
    }
    other, said = changed[change]
    archive.write(tmp_path / "n", held.tensors, held.aliases, {"kind": "model", "plans": said}, held.coded, other)
    into = funnel()
    before = state(into)
    with pytest.raises(FileError):
        ws.load(tmp_path / "n", into)
    assert state(into) == before


def test_a_bit_flipped_in_every_byte_and_every_cut(tmp_path: Path) -> None:
    model = shared(nn.Sequential(*(nn.Linear(3, 2, bias=False) for _ in range(2))), ws.Templates(1))
    ws.save(model, tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] for at in range(0, len(whole), 13)]
    damaged += [whole[:length] for length in range(0, len(whole), 29)]
    for content in damaged:
        (tmp_path / "n").write_bytes(content)
        with pytest.raises(FileError):
            ws.tensors(tmp_path / "n")


def test_names_that_rows_have_are_taken(tmp_path: Path) -> None:
    model = shared(funnel(), ws.Templates(2, **WIDE))
    ws.save(model, tmp_path / "m")
    held = archive.read(tmp_path / "m", "model")
    with pytest.raises(FileError, match=r"under the name '1\.weight'"):
        archive.write(tmp_path / "n", {"1.weight": torch.ones(2)}, {}, {"kind": "model"}, rows=held.rows)
