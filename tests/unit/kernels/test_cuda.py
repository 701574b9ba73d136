"""The triton kernels, run by triton's interpreter on the processor: they count and read what `plain` does."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

CODE = """
import torch
from weightshare import kernels
from weightshare.kernels import cuda, plain
import weightshare as ws

nothing = torch.empty(0, dtype=torch.float64)
child = torch.full((13,), -1, dtype=torch.int32)
child[[5, 7]] = torch.tensor([0, 1], dtype=torch.int32)
lows = torch.tensor([-0.9, 0.4], dtype=torch.float64)
scales = torch.tensor([(5 << plain.UNIT) / 0.5, 0.0], dtype=torch.float64)
scale = (13 << plain.UNIT) / 8
torch.manual_seed(0)
for dtype in (torch.float32, torch.float64):
    flat = torch.randn(5_003, dtype=dtype)
    for grid in (
        plain.Grid(-4.0, scale, 13, nothing.int(), nothing, nothing, 1),
        plain.Grid(-4.0, scale, 13, child, lows, scales, 5),
        plain.Grid(-4.0, scale, 13, child, lows, 0 * scales, 1),
    ):
        assert torch.equal(cuda.count(flat, grid), plain.count(flat, grid))
        table = torch.rand(grid.leaves, 2, dtype=dtype)
        out, same = torch.empty_like(flat), torch.empty_like(flat)
        cuda.read(flat, grid, table, out)
        plain.read(flat, grid, table, same)
        assert torch.allclose(out, same, rtol=0, atol=1e-6)
    assert torch.equal(cuda.extremes(flat, grid, 2), plain.extremes(flat, grid, 2))

w = torch.randn(5_003)
w[7] = 1e3
z, bound = ws.prox_pairwise_binned(w, 0.01)
kernels._module = lambda kind: cuda
again, same = ws.prox_pairwise_binned(w, 0.01)
assert bound == same
assert torch.allclose(z, again, rtol=0, atol=1e-6)
print("compared")
"""


def test_under_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["compared"], done.stderr
