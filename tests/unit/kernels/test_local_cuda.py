"""The triton products of local layers against sums, in triton's interpreter and, where there is one, on a card."""

import os
import subprocess
import sys

import pytest
import torch

from tests.support import ROOT
from tests.trilinear import CASES, Case, naive

pytest.importorskip("triton")

CODE = '''
import sys

import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder

from tests.trilinear import CASES, naive
from tests.unit.kernels.test_local_cuda import CLOSE, LARGER
from weightshare import kernels
from weightshare.kernels import local_cuda
from weightshare.space.products import correlate, forward, spread

multiply = InterpreterBuilder.create_dot


def widened(self, a, b, *rest):
    """The interpreter holds bfloat16 as whole numbers, and multiplies these."""
    if a.dtype.scalar == tl.bfloat16:
        a, b = self.cast_impl(a, tl.float32), self.cast_impl(b, tl.float32)
    return multiply(self, a, b, *rest)


InterpreterBuilder.create_dot = widened
calls = []


def local(first, second):
    calls.append(local_cuda.serves(first, second))
    return local_cuda if calls[-1] else None


def three(case, x, w, g):
    rest = (case.geometry.flat, case.groups)
    return forward(x, w, *rest), spread(g, w, list(case.size), *rest), correlate(x, g, *rest)


def strange(t):
    return t.contiguous() if t.shape[-1] % 2 else t.mT.contiguous().mT


torch.manual_seed(0)
for name in sys.argv[1:]:
    case = (CASES | LARGER)[name]
    if name in LARGER:
        local_cuda.ROWS, local_cuda.COLUMNS, local_cuda.DEPTH = 16, 16, 16
    for dtype, close in CLOSE.items():
        operands = case.operands(dtype)
        kernels.local, calls[:] = local, []
        found = three(case, *operands)
        moved = three(case, *map(strange, operands)) if name == "3x3" else found
        assert set(calls) == {len(case.size) < 3}, name
        for one, same, expected in zip(found, moved, naive(case, *(t.double() for t in operands)), strict=True):
            assert one.dtype == dtype, name
            assert one.shape == expected.shape and one.stride() == same.stride(), name
            assert torch.equal(one, same), name
            off = float((one.double() - expected).abs().max())
            assert off <= close * float(expected.abs().max()), (name, dtype, off)
        none = case._replace(batch=0)
        out, by_x, by_w = three(none, *none.operands(dtype))
        assert out.numel() == by_x.numel() == 0 and not by_w.any(), name

assert not local_cuda.serves(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1).double())
assert not local_cuda.serves(torch.zeros(1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double())
kernels.local = local
x, w, _ = (t.requires_grad_() for t in CASES["stride"].operands(torch.float32))
forward(x, w, CASES["stride"].geometry.flat, 1).square().sum().backward()
assert x.grad.shape == x.shape and w.grad.shape == w.shape
print("compared")
'''
CLOSE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LARGER = {
    "several blocks of everything": Case((1, 2), (2, 3), (1, 1), (1, 1), (1, 1), (0, 1), 2, 11, 19, 37),
    "several blocks, stride": Case((3, 2), (3, 3), (2, 1), (1, 2), (1, 2), (1, 2), 1, 23, 17, 19),
    "powers of two": Case((2, 1), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 1, 32, 16, 32),
}
"""Where a product is cut into blocks, of 16 in the interpreter."""

needs_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card here")


def check_interpreted(names):
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CODE, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == ["compared"], done.stderr


def test_a_few_under_the_interpreter():
    check_interpreted(["1d, even kernel, stride, more behind", "more padding than kernel", "3d"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES | LARGER)
def test_under_the_interpreter(name):
    check_interpreted([name])


COMPILE = """
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.trilinear import CASES
from weightshare.kernels import local_cuda

types = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
compiled = 0


def instead(kernel, places, tensors, scalars, shape, inner, outer, steps, blocks, lying):
    \"\"\"Compile, for a card that need not be there, what would be launched.\"\"\"
    global compiled
    constants = local_cuda._constants(shape, inner, outer) | blocks
    values = [*tensors, *scalars, *lying, *local_cuda._two(shape.low, 0)]
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {n: types[v.dtype] if torch.is_tensor(v) else "i32" for n, v in zip(names, values, strict=True)}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    for capability in (80, 90):
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert made.asm["cubin"]
        compiled += 1


local_cuda._launch = instead
for name in sys.argv[1:]:
    case = CASES[name]
    for dtype in types:
        x, w, g = case.operands(dtype)
        local_cuda.forward(x, w, case.geometry)
        local_cuda.spread(g, w, case.size, case.geometry)
        local_cuda.correlate(x, g, case.geometry)
print(compiled)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="triton brings its assembler for Linux alone")
def test_compiled_for_cards_that_are_not_here():
    names = ["3x3", "1d, even kernel, stride, more behind", "stride divides dilation"]
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.split() == [str(len(names) * 2 * 3 * 2)], done.stderr


@needs_a_card
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("case", (CASES | LARGER).values(), ids=CASES | LARGER)
def test_on_a_card(case, dtype):
    from weightshare import kernels
    from weightshare.space.products import correlate, forward, spread

    operands = case.operands(dtype)
    x, w, g = (t.cuda() for t in operands)
    assert (kernels.local(x, w) is None) == (len(case.size) == 3)
    rest = (case.geometry.flat, case.groups)
    found = forward(x, w, *rest), spread(g, w, list(case.size), *rest), correlate(x, g, *rest)
    for one, expected in zip(found, naive(case, *(t.double() for t in operands)), strict=True):
        off = float((one.cpu().double() - expected).abs().max())
        assert off <= CLOSE[dtype] * float(expected.abs().max())
