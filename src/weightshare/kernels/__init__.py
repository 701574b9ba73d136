"""Compiled twins of slow functions, one file per backend; nothing else imports numba or triton.

| file | runs on | needs |
|---|---|---|
| `plain.py` | any device | torch |
| `cpu.py` | processor | numba (`pip install 'weightshare[fast]'`) |
| `cuda.py` | graphics card | triton, which comes with torch there |

All take and return tensors and have functions of one name and meaning; `on` says which file serves a device. None is
loaded by `import weightshare`. They know nothing about sharing: they sort, pool and count numbers.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch


def on(device: torch.device) -> ModuleType:
    """The module of kernels for tensors on a device: the compiled one where it can be had, else `plain`."""
    return _module(device.type)


@cache
def _module(kind: str) -> ModuleType:
    compiled = {"cpu": ("numba", "cpu"), "cuda": ("triton", "cuda")}.get(kind)
    if compiled is not None and find_spec(compiled[0]) is not None:
        return import_module(f"weightshare.kernels.{compiled[1]}")
    return import_module("weightshare.kernels.plain")
