"""Events of exporters: the file computes the same, and holds each stored tensor once; the model is as it was."""

from pathlib import Path
import tempfile

import numpy as np
import torch
from torch import nn

from tests.contract.trial import Partition, Trial, gradients
from tests.exporting import initializers, one_registry
from tests.support import output, state
from weightshare.files.checkpoint import owners
from weightshare.files.export import to_onnx, to_torch_export


def export(trial: Trial) -> None:
    """A program of `torch.export`: the ties of the model are one tensor in it, and it runs with torch alone."""
    shared = trial.shared()
    wanted, model = output(shared.model, shared.example), shared.model.train()
    before = state(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        made = to_torch_export(model, shared.example, path)
        loaded = torch.export.load(path)
        assert made.file_bytes == path.stat().st_size
    assert state(model) == before
    assert not [node for node in loaded.graph.nodes if str(node.target).startswith("weightshare.")]  # our operators
    room = 1e-2 if wanted.dtype == torch.bfloat16 else 1e-5
    with torch.no_grad():
        torch.testing.assert_close(loaded.module()(shared.example), wanted, rtol=room, atol=room)
    assert _together({name: t.untyped_storage().data_ptr() for name, t in loaded.state_dict.items()}) == _together(
        {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    )


def onnx(trial: Trial) -> None:
    """An ONNX file, run in onnxruntime: one initializer of equal bits for each stored tensor, no other floats."""
    shared = trial.shared()
    # A recurrent layer that was given weights renews its second list when it next runs or is copied, unshared too.
    output(shared.model, shared.example)
    model = shared.model.train()
    before = state(model)
    with tempfile.TemporaryDirectory() as folder, one_registry():
        path = Path(folder) / "model.onnx"
        made = to_onnx(model, shared.example, path)
        stored = initializers(path)
    assert state(model) == before
    assert made.difference is not None
    floats = {name: array for name, array in stored.items() if np.issubdtype(array.dtype, np.floating)}
    owned = {name: tensor for name, tensor in owners(model)[0].items() if tensor.is_floating_point()}
    assert set(owned) - _unread(model, shared.example) <= set(floats) <= set(owned)
    for name, array in floats.items():
        assert array.tobytes() == owned[name].detach().numpy().tobytes()


def _unread(model: nn.Module, example: torch.Tensor) -> set[str]:
    """Parameters that no forward pass reads."""
    return {name for name, gradient in gradients(model.eval(), example).items() if gradient is None}


def _together(keys: dict[str, int]) -> Partition:
    """Which names lead to one thing."""
    names: dict[int, set[str]] = {}
    for name, key in keys.items():
        names.setdefault(key, set()).add(name)
    return frozenset(map(frozenset, names.values()))
