"""Exports: what is written runs elsewhere, is as small as what is stored, and is refused whole where it cannot be."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from tests.exporting import initializers, one_registry, run_onnx
from tests.support import output, state
from tests.zoo import chain, channels_last, lazy, transposed
import weightshare as ws
from weightshare.errors import FileError, ModelChanged, SpecError
from weightshare.experiments.studies.exporting import METHODS, forms, measure
from weightshare.files import export
from weightshare.files.compact import pack
from weightshare.files.export import to_onnx, to_torch_export
from weightshare.space.composed import composed_forward, composed_spread
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from weightshare.space.products import forward, spread


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with one_registry():
        yield


@pytest.mark.parametrize("name", METHODS)
def test_the_folded_network_of_each_method_is_as_small_as_what_it_stores_and_computes_the_same(name):
    found, images = forms(name)
    row = measure(name, "folded", found["folded"], images, program=False)
    assert row.difference <= 1e-5
    assert row.as_small


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("unshared", "proximal")])
def test_the_shared_network_of_each_method_too(name):
    found, images = forms(name)
    row = measure(name, "shared", found["shared"], images)
    assert row.difference <= 1e-5
    assert row.as_small


@pytest.mark.parametrize("clusters", [2, 6, 19, 40, 100, 300])
def test_weights_of_few_values_are_packed_to_the_bit(clusters, tmp_path):
    """1, 3, 5, 6, 7 and 9 bits; 71·61 labels are no whole number of bytes."""
    net = nn.Linear(71, 61, bias=False)
    labels = torch.arange(71 * 61).remainder(clusters).view(61, 71)
    net.weight = nn.Parameter(torch.randn(clusters)[labels])
    made = to_onnx(net, torch.eye(71), tmp_path / "net.onnx")
    assert abs(made.tensor_bytes - made.stored_bytes) < 250  # what says how to unpack
    assert made.tensor_bytes < 0.4 * net.weight.nbytes
    (found,) = run_onnx(tmp_path / "net.onnx", torch.eye(71))
    assert np.array_equal(found, net.weight.detach().numpy().T)  # a product with the identity gives the weights


def test_labels_of_a_codebook_are_packed_as_files_pack_them(tmp_path):
    net = nn.Sequential(nn.Linear(71, 61))
    ws.share_(net, ws.Codebook(clusters=6, init="quantiles"))
    made = to_onnx(net, torch.randn(2, 71), tmp_path / "net.onnx")
    index = net.state_dict()["0.parametrizations.weight.0.index"]
    stored = initializers(tmp_path / "net.onnx")["0.parametrizations.weight.0.index.index"]
    wanted = pack(index, bits=3)
    assert stored.reshape(-1)[: len(wanted)].tobytes() == wanted.numpy().tobytes()
    assert made.tensor_bytes < made.stored_bytes + 250


def test_a_dynamic_batch_takes_any_length_even_from_an_example_of_one(tmp_path):
    net, _ = chain()
    ws.share_(net, ws.Tie(rate=2))
    x = torch.randn(7, 3)
    made = to_onnx(net, torch.randn(1, 3), tmp_path / "net.onnx", dynamic_batch=True)
    to_torch_export(net, torch.randn(1, 3), tmp_path / "net.pt2", dynamic_batch=True)
    assert made.difference is not None
    wanted = output(net, x)
    np.testing.assert_allclose(run_onnx(tmp_path / "net.onnx", x)[0], wanted, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(x), wanted)


class Pair(nn.Module):
    """Two inputs by name, two outputs in a dictionary."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, left, right):
        return {"sum": self.layer(left + right), "drop": self.drop(left)}


def test_named_inputs_several_outputs_and_training_mode(tmp_path):
    net = Pair().train()
    before = state(net)
    example = {"left": torch.randn(2, 3), "right": torch.randn(2, 3)}
    made = to_onnx(net, example, tmp_path / "net.onnx", dynamic_batch=True)
    assert made.difference <= 1e-6
    assert to_torch_export(net, example, tmp_path / "net.pt2").difference <= 1e-6
    assert state(net) == before  # dropout was off in the export, and is on again
    assert net.training


@pytest.mark.parametrize("make", [transposed, channels_last])
def test_weights_that_are_not_contiguous_are_written_once_with_their_strides_and_without_a_warning(make, tmp_path):
    """Torch warns of each, tied or not; here a warning is an error."""
    net, example = make()
    ws.share_(net, ws.Tie(rate=2))
    made = to_torch_export(net, example, tmp_path / "net.pt2")
    assert made.difference == 0
    assert made.tensor_bytes == made.stored_bytes
    found = torch.export.load(tmp_path / "net.pt2").state_dict
    entries = net.state_dict()
    assert {name: t.stride() for name, t in found.items()} == {name: t.stride() for name, t in entries.items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in entries.items())
    assert not all(tensor.is_contiguous() for tensor in found.values())


class Remembering(nn.Module):
    """Recurrent, and it keeps what it computed: in a program that would be lost."""

    def __init__(self, remembers):
        super().__init__()
        self.layers = nn.ModuleList([nn.GRU(3, 3) for _ in range(2)])
        self.remembers = remembers
        self.last = None

    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(x)
        if self.remembers:
            self.last = x
        return x


def test_the_second_list_of_recurrent_layers_is_no_cause_for_a_warning(tmp_path):
    net = Remembering(remembers=False)
    ws.share_(net, ws.Tie(rate=2))
    made = to_torch_export(net, torch.randn(2, 5, 3), tmp_path / "net.pt2")
    assert made.difference <= 1e-6
    assert made.tensor_bytes == made.stored_bytes
    lone = to_torch_export(nn.GRU(3, 3), torch.randn(2, 5, 3), tmp_path / "lone.pt2")
    assert lone.tensor_bytes == made.tensor_bytes  # two layers, stored as one


def test_what_a_recurrent_network_keeps_itself_is_still_told(tmp_path):
    net = Remembering(remembers=True)
    with pytest.raises(FileError, match=r"cannot trace Remembering: .*self\.last.* assigned during export"):
        to_torch_export(net, torch.randn(2, 5, 3), tmp_path / "net.pt2")


class Branching(nn.Module):
    """Control flow that depends on numbers."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def broken_tie():
    net, _ = chain()
    ws.share_(net, ws.Tie(rate=2))
    net.blocks[1].fc1.weight = nn.Parameter(torch.zeros_like(net.blocks[1].fc1.weight))
    return net


REFUSED = {
    "control flow": (Branching, torch.randn(2, 3), FileError, "cannot trace Branching: .*depends on numbers"),
    "meta": (lambda: nn.Linear(3, 5, device="meta"), torch.randn(2, 3), FileError, "'weight'.*meta device"),
    "lazy": (lambda: lazy().model, torch.randn(2, 5), FileError, "'0.weight'.*no shape yet"),
    "example": (lambda: nn.Linear(3, 5), torch.randn(2, 7), SpecError, "cannot run on the example"),
    "kind of example": (lambda: nn.Linear(3, 5), 3, SpecError, "need a tensor"),
    "untied": (broken_tie, torch.randn(2, 3), ModelChanged, "retie_"),
}


@pytest.mark.parametrize("write", [to_onnx, to_torch_export])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_and_the_file_is_as_it_was(case, write, tmp_path):
    make, example, error, message = REFUSED[case]
    (tmp_path / "file").write_text("old")
    with pytest.raises(error, match=message):
        write(make(), example, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_in_the_way_and_a_file_in_place_of_a_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("old")
    for path in (tmp_path, tmp_path / "file" / "net.pt2"):
        with pytest.raises(FileError, match="Cannot write"):
            to_torch_export(nn.Linear(3, 5), torch.randn(2, 3), path)


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    honest = export._converted

    def wrong(program, source):
        source.outputs = [one + 1 for one in source.outputs]
        return honest(program, source)

    monkeypatch.setattr(export, "_converted", wrong)
    with pytest.raises(FileError, match="computes something else in onnxruntime: an output differs by 1"):
        to_onnx(nn.Linear(3, 5), torch.randn(2, 3), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_file_of_onnx_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MOST_BYTES", 79)
    with pytest.raises(FileError, match="80 bytes of tensors, one ONNX file holds 79"):
        to_onnx(nn.Linear(3, 5), torch.randn(2, 3), tmp_path / "net.onnx")


def missing(monkeypatch, name):
    honest = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *rest: None if asked == name else honest(asked))


def test_missing_packages_are_named(tmp_path, monkeypatch):
    missing(monkeypatch, "onnxscript")
    with pytest.raises(FileError, match=r"needs onnxscript. Run: pip install 'weightshare\[export\]'"):
        to_onnx(nn.Linear(3, 5), torch.randn(2, 3), tmp_path / "net.onnx")


def test_without_onnxruntime_the_result_says_that_nothing_was_run(tmp_path, monkeypatch):
    missing(monkeypatch, "onnxruntime")
    made = to_onnx(nn.Linear(3, 5), torch.randn(2, 3), tmp_path / "net.onnx")
    assert made.difference is None
    assert "onnxruntime is not installed" in str(made)
    assert len(initializers(made.path)) == 2


LAYERS = {
    "strides": LocallyConnected1d(6, 9, 3, 11, stride=2, padding=1, groups=3),
    "dilation": LocallyConnected2d(4, 6, (3, 2), (7, 8), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
    "even": LocallyConnected2d(4, 6, (3, 2), (7, 5), padding="same"),
    "three axes": LocallyConnected3d(2, 3, 2, (3, 5, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_of_plain_operations_equal_those_of_the_library(name):
    layer = LAYERS[name].double()
    x = torch.randn(2, layer.in_channels, *layer.input_size, dtype=torch.float64)
    w = torch.randn_like(layer.weight)
    numbers = (layer._geometry, layer.groups)
    out = forward(x, w, *numbers)
    torch.testing.assert_close(composed_forward(x, w, *numbers), out)
    g = torch.randn_like(out)
    back = spread(g, w, list(layer.input_size), *numbers)
    torch.testing.assert_close(composed_spread(g, w, list(layer.input_size), *numbers), back)
    assert back.abs().max() > 0.1
