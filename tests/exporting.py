"""What tests of exports need: an exporter that is not set up anew each time, and what a written graph holds."""

from collections.abc import Iterator
from contextlib import contextmanager
import functools
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np


@functools.cache
def _registry(opset_version: int = 18) -> Any:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(opset_version=opset_version)


@contextmanager
def one_registry() -> Iterator[None]:
    """Torch compiles its table of ONNX functions anew in every export, which takes a second; here once."""
    from torch.onnx._internal.exporter import _registration

    made = _registry()
    with mock.patch.object(_registration.ONNXRegistry, "from_torchlib", staticmethod(lambda **_: made)):
        yield


def initializers(path: str | Path) -> dict[str, np.ndarray]:
    """The stored tensors of an ONNX file by name, each as often as it is there."""
    import onnx
    from onnx import numpy_helper

    found = onnx.load(path).graph.initializer
    assert len({one.name for one in found}) == len(found)
    return {one.name: numpy_helper.to_array(one) for one in found}


def run_onnx(path: str | Path, *inputs: Any) -> list[np.ndarray]:
    """The outputs of an ONNX file for tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(Path(path).read_bytes(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))
