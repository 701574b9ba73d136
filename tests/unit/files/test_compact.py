"""Files with codebooks: exact to the bit, small, readable without us; what is damaged or hostile is refused."""

import json
from pathlib import Path
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor, nn

from tests.reading import rebuilt, unpacked
from tests.support import ROOT, bits, output
from tests.zoo import chain
import weightshare as ws
from weightshare.files import archive, compact
from weightshare.files.recipes import decode
from weightshare.files.sizes import Size, sizes
from weightshare.training.snapshot import Progress, generators, write_snapshot


def quantised(model: nn.Module, values: int, seed: int = 0) -> nn.Module:
    """Weights of few values, as training with the pairwise penalty leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (tensor for tensor in model.parameters() if tensor.ndim > 1):
            levels = torch.randn(values, generator=generator)
            tensor.copy_(levels[torch.randint(values, tensor.shape, generator=generator)])
    return model


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(31, 37), nn.ReLU(), nn.Linear(37, 41))


def stored(path: Path) -> dict[str, Tensor]:
    return load_file(path)


# Packing


@given(st.integers(1, 16).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 2**n - 1), max_size=40))))
def test_labels_are_packed_as_written_down_and_come_back(drawn: tuple[int, list[int]]) -> None:
    width, labels = drawn
    row = torch.tensor(labels, dtype=torch.int32)
    packed = compact.pack(row, width)
    stream = "".join(f"{label:0{width}b}"[::-1] for label in labels)
    wanted = [int(stream[at : at + 8][::-1], 2) for at in range(0, len(stream), 8)]
    assert packed.dtype == torch.uint8
    assert packed.tolist() == wanted
    assert compact.unpack(packed, width, len(labels)).tolist() == labels
    assert unpacked(packed, width, len(labels)).tolist() == labels


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("count", [1, 2, 17, 200, compact.MOST_IN_TABLE, compact.MOST_IN_TABLE + 1])
def test_labels_found_by_a_table_are_those_of_a_search(kind, count):
    bound = torch.iinfo(kind)
    drawn = torch.Generator().manual_seed(count)
    values = torch.randint(max(bound.min, -(2**62)), min(bound.max, 2**62), (count,), generator=drawn).to(kind).unique()
    flat = values[torch.randint(len(values), (5000,), generator=drawn)]
    assert torch.equal(compact._nearly(values, flat), torch.searchsorted(values, flat, out_int32=True))
    other = torch.arange(0, 100).to(kind)
    assert {*compact._nearly(values, other).tolist()} <= {*range(len(values))}


BITS = {torch.float16: 16, torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}


@given(st.sampled_from(list(BITS)), st.data())
def test_any_bits_come_back(dtype: torch.dtype, data: st.DataObject) -> None:
    """Infinities, both zeros, numbers below the normal ones, and every NaN."""
    whole = {16: torch.int16, 32: torch.int32, 64: torch.int64}[BITS[dtype]]
    limits = torch.iinfo(whole)
    patterns = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=1, max_size=5, unique=True))
    picks = data.draw(st.lists(st.sampled_from(patterns), min_size=3, max_size=9))
    w = torch.tensor(picks, dtype=whole).repeat(199).view(dtype).view(199, -1)
    coded = compact.code(w)
    assert coded is not None
    parts = coded.entries("w")
    again = decode("file", parts, {"w": json.loads(json.dumps(coded.recipe()))}, archive.RULES)["w"].dense
    assert bits(again) == bits(w)
    assert again.dtype == dtype
    assert parts["w.codebook"].nbytes + parts["w.index"].nbytes == sum(coded.sizes[:2]) < w.nbytes // 2


# Which weights


@pytest.mark.parametrize(
    ("tensor", "few"),
    [
        (torch.zeros(13, 17), True),
        (torch.zeros(11, 11), False),
        (torch.randn(101, 103), False),
        (torch.randint(9, (101, 103)).float(), True),
        (torch.randint(9, (101, 103)).double(), True),
        (torch.randint(9, (101, 103)).bfloat16(), True),
        (torch.arange(300.0).repeat(101, 1).half(), False),
        (torch.zeros(10403), False),
        (torch.randint(9, (101, 103)), False),
        (torch.zeros(101, 103, dtype=torch.complex64), False),
        (torch.zeros(101, 103, device="meta"), False),
        (torch.zeros(0, 103), False),
        (torch.zeros(1).expand(101, 103), True),
        (torch.randint(9, (101, 103)).float().T, True),
    ],
)
def test_weights_of_few_values_alone_are_coded(tensor: Tensor, few: bool) -> None:
    coded = compact.code(tensor)
    assert (coded is not None) == few
    assert [bits(found.dense) for found in [coded] if found] == [bits(tensor)] * few


def test_rare_values_that_no_sample_sees() -> None:
    w = torch.zeros(1009, 1013)
    w.view(-1)[5::100_003] = torch.arange(11.0) + 1
    coded = compact.code(w)
    assert coded is not None
    assert len(coded.codebook) == 12
    assert torch.equal(coded.dense, w)


def test_a_sample_tells_most_weights_of_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    honest = torch.searchsorted
    monkeypatch.setattr(torch, "searchsorted", lambda *a, **k: (looked.append(len(a[1])), honest(*a, **k))[1])
    assert compact.code(torch.randn(1009, 1013)) is None
    assert looked == []


# Files


@pytest.mark.parametrize("values", [1, 2, 3, 16, 17, 256])
def test_a_folded_model(values: int, tmp_path: Path) -> None:
    model = quantised(network(), values)
    with torch.no_grad():
        model[0].weight[3, 5], model[0].weight[7, 11] = -0.0, float("nan")
    ws.save(model, tmp_path / "m")
    assert {"0.weight.codebook", "0.weight.index", "0.bias"} <= set(stored(tmp_path / "m"))
    for held in (ws.tensors(tmp_path / "m"), rebuilt(tmp_path / "m")):
        assert {name: bits(t) for name, t in held.items()} == {n: bits(t) for n, t in model.state_dict().items()}
    other = ws.load(tmp_path / "m", network())
    assert bits(other[0].weight) == bits(model[0].weight)
    assert type(other[0]) is nn.Linear


def test_the_size_that_is_promised(tmp_path: Path) -> None:
    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(196, 784), nn.ReLU(), nn.Linear(784, 1568), nn.ReLU(), nn.Linear(1568, 10))

    plain = ws.save(mlp(), tmp_path / "p")
    assert "0.weight" in stored(tmp_path / "p")
    for values, most in ((256, 0.27), (16, 0.14)):
        model = quantised(mlp(), values)
        assert ws.save(model, tmp_path / "m") <= most * plain
        ws.share_(model, ws.Codebook())
        assert ws.save(model, tmp_path / "m") <= most * plain


@pytest.mark.parametrize("spec", [ws.Codebook(), ws.Codebook(clusters=7, init="quantiles", zeros="keep")])
def test_a_shared_model_comes_back_shared(spec: ws.Codebook, tmp_path: Path) -> None:
    model, x = quantised(network(), 13), torch.randn(3, 31)
    plan = ws.share_(model, spec)
    ws.save(model, tmp_path / "m")
    assert not [name for name in stored(tmp_path / "m") if "parametrizations" in name]
    assert {name: bits(t) for name, t in rebuilt(tmp_path / "m").items()} == {
        name: bits(t) for name, t in ws.fold(model).state_dict().items()
    }
    other = ws.load(tmp_path / "m", network())
    assert bits(output(other, x)) == bits(output(model, x))
    assert {n: bits(t) for n, t in other.state_dict().items()} == {n: bits(t) for n, t in model.state_dict().items()}
    assert ws.report(other) == ws.report(model)
    assert repr(other) == repr(model)
    twin = quantised(network(), 13, seed=1)
    plan.apply_(twin)
    before = [id(tensor) for tensor in twin.parameters()]
    assert bits(output(ws.load(tmp_path / "m", twin), x)) == bits(output(model, x))
    assert [id(tensor) for tensor in twin.parameters()] == before
    ws.unshare_(other)
    assert bits(output(other, x)) == bits(output(model, x))


def test_trained_values_that_meet_stay_two(tmp_path: Path) -> None:
    model = quantised(network(), 5)
    ws.share_(model, ws.Codebook())
    with torch.no_grad():
        model[0].parametrizations.weight.original.fill_(0.5)
    ws.save(model, tmp_path / "m")
    other = ws.load(tmp_path / "m", network())
    assert other[0].parametrizations.weight.original.tolist() == [0.5] * 5
    assert torch.equal(other[0].parametrizations.weight[0].index, model[0].parametrizations.weight[0].index)


def test_plans_of_parts_come_back(tmp_path: Path) -> None:
    model, x = chain()
    quantised(model, 3)
    ws.share_(model.blocks, ws.Codebook(), "*.fc1")
    ws.share_(model, ws.Tie(rate=2), "*.fc2")
    ws.save(model, tmp_path / "m")
    other = ws.load(tmp_path / "m", chain().model)
    assert ws.report(other) == ws.report(model)
    assert bits(output(other, x)) == bits(output(model, x))


def test_tied_weights_of_few_values_are_coded_once(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(41, 41) for _ in range(4)))
    quantised(model, 5)
    ws.share_(model, ws.Tie(rate=2))
    ws.save(model, tmp_path / "m")
    assert [name for name in stored(tmp_path / "m") if name.endswith("codebook")] == [
        "0.weight.codebook",
        "2.weight.codebook",
    ]
    held = ws.tensors(tmp_path / "m")
    assert held["1.weight"] is held["0.weight"]
    other = ws.load(tmp_path / "m", nn.Sequential(*(nn.Linear(41, 41) for _ in range(4))))
    assert other[3].weight is other[2].weight
    assert torch.equal(other[3].weight, model[3].weight)


def test_a_model_that_has_such_names_itself_is_stored_dense(tmp_path: Path) -> None:
    model = nn.Module()
    model.table = nn.ParameterList([torch.zeros(37, 41)])
    model.table.add_module("0_", nn.Module())
    inner = nn.Module()
    inner.register_buffer("index", torch.ones(3))
    model.table._modules["0"] = inner  # beside the parameter of that name
    assert list(model.state_dict()) == ["table.0", "table.0.index"]
    ws.save(model, tmp_path / "m")
    assert set(stored(tmp_path / "m")) == {"table.0", "table.0.index"}


def test_the_bytes_of_each_tensor(tmp_path: Path) -> None:
    model = quantised(network(), 3)
    ws.save(model, tmp_path / "m")
    assert sizes(tmp_path / "m") == [
        Size("0.bias", 37 * 4, 0, 0),
        Size("0.weight", 31 * 37 * 4, 3 * 4, -(-31 * 37 * 2 // 8)),
        Size("2.bias", 41 * 4, 0, 0),
        Size("2.weight", 37 * 41 * 4, 3 * 4, -(-37 * 41 * 2 // 8)),
    ]
    assert [size.stored for size in sizes(tmp_path / "m")] == [148, 12 + 287, 164, 12 + 380]
    save_file({"a": torch.ones(3)}, tmp_path / "foreign")
    assert sizes(tmp_path / "foreign") == [Size("a", 12, 0, 0)]


def test_versions(tmp_path: Path) -> None:
    """Files without recipes are those that older readers know; files with recipes are refused by them."""
    for model, version in ((network(), 1), (quantised(network(), 3), 2)):
        ws.save(model, tmp_path / "m")
        with safe_open(tmp_path / "m", "pt") as file:
            assert json.loads(file.metadata()[archive.CONTENT])["version"] == version


def test_snapshots_of_training_are_not_coded(tmp_path: Path) -> None:
    model = quantised(network(), 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    write_snapshot(tmp_path / "s", model, optimizer, Progress({}), [generators()])
    assert not [name for name in stored(tmp_path / "s") if name.endswith((".codebook", ".index"))]


def test_the_snippet_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert "import weightshare" not in snippet
    model, _ = chain(width=31, hidden=37)
    quantised(model, 5)
    ws.share_(model, ws.Tie(rate=2), "blocks")
    ws.save(model, tmp_path / "small.safetensors")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(snippet, "files.md", "exec"), names)
    assert {n: bits(t) for n, t in names["state"].items()} == {n: bits(t) for n, t in model.state_dict().items()}
    chain(width=31, hidden=37).model.load_state_dict(names["state"])
