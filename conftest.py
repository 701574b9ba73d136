"""What every test and doctest has at hand; nothing here changes behaviour of the library."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

# Kernels whose compiler is not installed have no examples to run.
COMPILERS = {"cpu.py": "numba", "cuda.py": "triton", "local_cuda.py": "triton"}
collect_ignore = [f"src/weightshare/kernels/{file}" for file, name in COMPILERS.items() if find_spec(name) is None]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers in every test, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def names_of_doctests(doctest_namespace: dict[str, Any]) -> None:
    """The public names, torch and nn, as a reader of the docs has them."""
    import weightshare as ws  # here, so that the shape checks of the test run are installed before the package loads

    doctest_namespace.update({name: getattr(ws, name) for name in ws.__all__}, ws=ws, torch=torch, nn=nn)
