"""What several tests need: a model's state to the last bit, and a fresh Python to run code in."""

from collections.abc import Iterable
from dataclasses import dataclass, field
import os
from pathlib import Path
import subprocess
import sys

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

ROOT = Path(__file__).parents[1]


def bits(tensor: Tensor | None) -> bytes | None:
    """The bytes of a tensor; none where it has no numbers."""
    if tensor is None or tensor.is_meta or isinstance(tensor, UninitializedParameter):
        return None
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def identities(value: object) -> object:
    """Which object it is; of a container also which objects it holds."""
    if isinstance(value, dict):
        return id(value), tuple((key, id(held)) for key, held in value.items())
    return (id(value), tuple(map(id, value))) if isinstance(value, list | tuple) else id(value)


@dataclass(frozen=True)
class State:
    """All that a failed call must leave alone: attributes and tensors as objects, numbers and gradients as bits."""

    attributes: object
    values: object
    kept: object = field(compare=False, repr=False)


def state(model: nn.Module) -> State:
    """Take a model's state, to be compared with `==` to a later one."""
    modules = list(model.named_modules(remove_duplicate=False))
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    attributes = [
        (path, key, identities(value)) for path, module in modules for key, value in sorted(vars(module).items())
    ]
    values = [(name, id(t), t.requires_grad, bits(t), id(t.grad), bits(t.grad)) for name, t in tensors]
    kept = [[dict(vars(module)) for _, module in modules], tensors, [t.grad for _, t in tensors]]
    return State(attributes, values, kept)


def same_bits(left: Iterable[Tensor], right: Iterable[Tensor]) -> bool:
    """Whether two rows of tensors are equal to the last bit, -0.0 and NaN included."""
    return [bits(tensor) for tensor in left] == [bits(tensor) for tensor in right]


def output(model: nn.Module, example: Tensor) -> Tensor:
    """What a model computes in evaluation mode."""
    with torch.no_grad():
        return model.eval()(example)


def python(code: str, *arguments: object) -> str:
    """Run code in a new Python that sees the tests and the library; returns what it prints."""
    paths = [str(ROOT), *(path for path in sys.path if path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
