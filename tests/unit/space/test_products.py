"""The three products of a local layer against sums written out, in every way in which they can be computed."""

import inspect

import pytest
import torch
from torch.nn.functional import conv2d

from tests.trilinear import CASES, Case, naive
from weightshare.space import products
from weightshare.space.products import Geometry, correlate, forward, spread

SMALL = {name: CASES[name] for name in ("1d", "stride", "groups", "rectangle, even, low below high", "3d")}
BY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
BY_SMALL = pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)


@pytest.fixture(params=["all at once", "a few positions", "one position"])
def chunks(request, monkeypatch):
    """How many positions are gathered at a time."""
    budget = {"all at once": 1 << 22, "a few positions": 5000, "one position": 1}[request.param]
    monkeypatch.setattr(products, "CHUNK_BYTES", {"cpu": budget})


@pytest.fixture(params=["added up", "gathered"])
def way(request, monkeypatch):
    """How the gradient of the input is computed where there are two ways."""
    monkeypatch.setattr(products, "GATHER_FROM", {"added up": 1 << 20, "gathered": 0}[request.param])


def ours(case, x, w, g):
    rest = (case.geometry.flat, case.groups)
    return forward(x, w, *rest), spread(g, w, list(case.size), *rest), correlate(x, g, *rest)


@BY_CASE
@pytest.mark.usefixtures("chunks", "way")
def test_against_sums(case):
    operands = case.operands()
    for found, expected in zip(ours(case, *operands), naive(case, *operands), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [1, products.GATHER_FROM - 1, products.GATHER_FROM])
def test_both_ways_agree_whatever_the_batch(batch, monkeypatch):
    case = CASES["3x3"]._replace(batch=batch)
    _, w, g = case.operands()
    chosen = spread(g, w, list(case.size), case.geometry.flat, 1)
    for least in (0, 1 << 20):
        monkeypatch.setattr(products, "GATHER_FROM", least)
        torch.testing.assert_close(spread(g, w, list(case.size), case.geometry.flat, 1), chosen)


@BY_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types(case, dtype):
    operands = case.operands(dtype)
    close = {torch.float32: 1e-5}.get(dtype, 2e-2)
    for found, expected in zip(ours(case, *operands), naive(case, *(t.double() for t in operands)), strict=True):
        assert found.dtype == dtype
        assert float((found.double() - expected).abs().max()) <= close * float(expected.abs().max())


@BY_SMALL
def test_any_memory_format(case):
    operands = case.operands()
    expected = ours(case, *operands)
    for strange in (lambda t: t.contiguous(), lambda t: t.flip(0).flip(0), lambda t: t.mT.contiguous().mT):
        for found, same in zip(ours(case, *map(strange, operands)), expected, strict=True):
            torch.testing.assert_close(found, same, rtol=1e-12, atol=1e-12)
    every = [t[:1].expand(t.shape) for t in operands]
    for found, same in zip(ours(case, *every), naive(case, *every), strict=True):
        torch.testing.assert_close(found, same, rtol=1e-12, atol=1e-12)


@BY_CASE
def test_what_comes_out_lies_with_channels_last_and_is_new(case):
    operands = case.operands()
    for found, like in zip(ours(case, *operands), (operands[2], operands[0], operands[1]), strict=True):
        assert found.shape == like.shape
        assert (found if like is operands[1] else found.movedim(1, -1)).is_contiguous()
        assert found.untyped_storage().data_ptr() not in {t.untyped_storage().data_ptr() for t in operands}


@BY_CASE
def test_nothing_in_a_batch(case):
    out, by_x, by_w = ours(case._replace(batch=0), *case._replace(batch=0).operands())
    assert out.shape == (0, case.groups * case.outer, *case.positions)
    assert by_x.shape == (0, case.groups * case.inner, *case.size)
    assert not by_w.any()


def test_a_convolution_where_all_kernels_are_one():
    case = CASES["groups"]
    x, w, _ = case.operands()
    w = w[:1, :1].expand(w.shape)
    kernel = w[0, 0].unflatten(1, (3, 3, -1)).movedim((3, 4), (2, 1)).flatten(0, 1)
    expected = conv2d(x, kernel, padding=1, groups=case.groups)
    torch.testing.assert_close(forward(x, w, case.geometry.flat, case.groups), expected)


@BY_SMALL
@pytest.mark.usefixtures("way")
def test_derivatives_of_both_orders(case):
    x, w, g = (t.requires_grad_() for t in tiny(case).operands())
    rest, size = (case.geometry.flat, case.groups), list(case.size)
    for function, operands in (
        (lambda a, b: forward(a, b, *rest), (x, w)),
        (lambda a, b: spread(a, b, size, *rest), (g, w)),
        (lambda a, b: correlate(a, b, *rest), (x, g)),
    ):
        assert torch.autograd.gradcheck(function, operands, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, operands, fast_mode=True)


def test_derivatives_number_by_number():
    case = Case((3, 2), (2, 2), (1, 1), (1, 1), (1, 0), (0, 1), 1, 1, 2, 2)
    x, w, g = (t.requires_grad_() for t in case.operands())
    rest = (case.geometry.flat, 1)
    assert torch.autograd.gradcheck(lambda a, b: forward(a, b, *rest), (x, w))
    assert torch.autograd.gradcheck(lambda a, b: spread(a, b, [3, 2], *rest), (g, w))
    assert torch.autograd.gradcheck(lambda a, b: correlate(a, b, *rest), (x, g))


def test_only_what_is_needed_is_computed(monkeypatch):
    case = CASES["3x3"]
    x, w, _ = case.operands()
    monkeypatch.setattr(products, "spread", None)
    out = forward(x, w.requires_grad_(), case.geometry.flat, 1)
    assert torch.autograd.grad(out.sum(), w)[0].shape == w.shape


@BY_SMALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_operators_of_torch(case, dtype):
    x, w, g = (t.requires_grad_() for t in case.operands(dtype))
    rest = (case.geometry.flat, case.groups)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    close = {"rtol": 2e-2, "atol": 2e-1} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    if "rtol" not in inspect.signature(torch.library.opcheck).parameters:  # torch before 2.7
        checks, close = checks[:-1], {}
    for operator, arguments in (
        (forward, (x, w, *rest)),
        (spread, (g, w, list(case.size), *rest)),
        (correlate, (x, g, *rest)),
    ):
        found = torch.library.opcheck(operator, arguments, test_utils=checks, **close)
        assert found == dict.fromkeys(checks, "SUCCESS")


@BY_SMALL
def test_compiled(case):
    operands = case.operands()

    def all_three(x, w, g):
        return ours(case, x, w, g)

    compiled = torch.compile(all_three, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(*operands), all_three(*operands), strict=True):
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()


@BY_CASE
def test_how_the_input_sees_the_positions(case):
    """`turned` describes the transpose as a local layer; strides have none."""
    turned = case.geometry.turned(case.size, case.positions)
    spans = [d * (k - 1) for d, k in zip(case.dilation, case.kernel, strict=True)]
    around = [span - width for span, *widths in zip(spans, case.low, case.high, strict=True) for width in widths]
    assert (turned is not None) == (set(case.stride) == {1} and min(around) >= 0)
    assert turned is None or turned.positions(case.positions) == case.size


def test_a_geometry_comes_back_from_its_numbers():
    for case in CASES.values():
        assert Geometry.of(case.geometry.flat, case.groups) == case.geometry


def tiny(case):
    """With fewer channels, where every number is moved in turn."""
    return case._replace(inner=1, outer=2)
