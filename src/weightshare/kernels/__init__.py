"""Compiled twins of slow functions, one file per backend; nothing else imports numba or triton.

| file | runs on | needs |
|---|---|---|
| `plain.py` | any device | torch |
| `cpu.py` | processor | numba (`pip install 'weightshare[fast]'`) |
| `cuda.py` | graphics card | triton, which comes with torch there |
| `local_cuda.py` | graphics card | likewise; the products of local layers, `local` says whether it serves |

The first three take and return tensors and have functions of one name and meaning; `on` says which file serves a
device. None is loaded by `import weightshare`. They know nothing about sharing: they sort, pool, count and multiply
numbers.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad


def on(device: torch.device | None) -> ModuleType:
    """The kernels for tensors on a device: the compiled ones where they can be had, else, and for `None`, `plain`."""
    if device is None:
        from weightshare.kernels import plain  # compilers follow this, and warn of what is cached

        return plain
    return _module(device.type)


def followed(*tensors: Tensor) -> bool:
    """Whether something follows what is computed from tensors, so that it has to be torch's own operations: gradients,
    a transform of torch.func, forward-mode derivatives, a compiler, or a tensor's own class.
    """
    return (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)) or traced(*tensors)


def traced(*tensors: Tensor) -> bool:
    """The same but for gradients: then what has a backward pass of its own serves too."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors)


@cache
def _module(kind: str) -> ModuleType:
    compiled = {"cpu": ("numba", "cpu"), "cuda": ("triton", "cuda")}.get(kind)
    if compiled is not None and find_spec(compiled[0]) is not None:
        return import_module(f"weightshare.kernels.{compiled[1]}")
    return import_module("weightshare.kernels.plain")


def local(first: Tensor, second: Tensor) -> ModuleType | None:
    """The compiled products of local layers where they serve two operands, else nothing: torch's own have to do."""
    found = _local(first.device.type)
    return found if found is not None and found.serves(first, second) else None


@cache
def _local(kind: str) -> ModuleType | None:
    if kind != "cuda" or find_spec("triton") is None:
        return None
    return import_module("weightshare.kernels.local_cuda")
