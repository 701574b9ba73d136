"""Transposed local layers against torch's, where all kernels are one, and against the defining sum, where not."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from tests.local_layers import TRANSPOSED, TRANSPOSED_CONVS, gradients, slow_transposed
from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.transposed import LocallyConnectedTranspose2d, LocallyConnectedTranspose3d

SIZES = {1: (7,), 2: (3, 5), 3: (2, 3, 5)}
CASES = {
    "1d": (1, {"kernel_size": 3}),
    "1d even": (1, {"kernel_size": 4, "stride": 3, "padding": 2, "dilation": 2, "groups": 2, "output_padding": 2}),
    "1x1": (2, {"kernel_size": 1}),
    "1x1 strided": (2, {"kernel_size": 1, "stride": (2, 3)}),
    "2d": (2, {"kernel_size": 3, "padding": 1}),
    "2d twice": (2, {"kernel_size": 2, "stride": 2}),
    "2d twice, odd": (2, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    "2d rectangular": (2, {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 3), "dilation": (1, 2)}),
    "2d stride over kernel": (2, {"kernel_size": 2, "stride": (3, 5), "output_padding": (2, 3)}),
    "2d groups": (2, {"kernel_size": 3, "groups": 2, "padding": 2, "stride": 2}),
    "2d output padding by dilation": (2, {"kernel_size": 2, "dilation": 3, "output_padding": (2, 1)}),
    "3d": (3, {"kernel_size": 3, "padding": 1}),
    "3d all": (3, {"kernel_size": (2, 1, 3), "stride": (1, 2, 3), "padding": (1, 0, 2), "dilation": (2, 1, 1)}),
}


def pair(dims, options, bias=True, dtype=torch.float64, size=None):
    conv = TRANSPOSED_CONVS[dims](4, 6, **options, bias=bias is not False, dtype=dtype)
    layer = TRANSPOSED[dims].from_conv(conv, size or SIZES[dims], bias=bias)
    return conv, layer, torch.randn(5, 4, *(size or SIZES[dims]), dtype=dtype)


def check_equal(conv, layer, x, tolerance):
    wanted = conv(x)
    assert layer(x).shape == wanted.shape
    assert layer.output_size == wanted.shape[2:]
    assert torch.allclose(layer(x), wanted, rtol=tolerance, atol=tolerance)
    probe = torch.randn_like(wanted)
    by_input, by_weights = gradients(layer, x, probe)
    conv_input, conv_weights = gradients(conv, x, probe)
    assert torch.allclose(by_input, conv_input, rtol=tolerance, atol=30 * tolerance)
    summed = layer.as_conv_weight(by_weights["weight"].flatten(0, layer.spatial - 1).sum(0))
    assert torch.allclose(summed, conv_weights["weight"], rtol=tolerance, atol=300 * tolerance)
    for name in by_weights.keys() - {"weight"}:
        biases = by_weights[name].reshape(-1, 6)
        assert torch.allclose(biases.sum(0), conv_weights[name], rtol=tolerance, atol=300 * tolerance)


@pytest.mark.parametrize("bias", [True, False, "position"])
@pytest.mark.parametrize("case", CASES)
def test_one_kernel_everywhere_is_the_transposed_convolution(case, bias):
    check_equal(*pair(*CASES[case], bias=bias), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_and_in_single_precision(case):
    check_equal(*pair(*CASES[case], dtype=torch.float32), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_combination_of_arguments(dims):
    seen = 0
    grid = product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (1, 2), (1, 2), (0, 1), (True, "position"))
    for kernel, stride, padding, dilation, groups, more, bias in grid:
        fits = more < max(stride, dilation) and 4 * stride - 2 * padding + dilation * (kernel - 1) + more + 1 > 0
        options = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        for _ in range(fits):
            check_equal(*pair(dims, options | {"output_padding": more}, bias, size=(5, 7, 5)[:dims]), 1e-11)
            seen += 1
    assert seen > 400


@pytest.mark.parametrize("case", CASES)
def test_kernels_of_their_own_are_the_defining_sum(case):
    dims, options = CASES[case]
    layer = TRANSPOSED[dims](4, 6, input_size=SIZES[dims], bias="position", **options, dtype=torch.float64)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, *SIZES[dims], dtype=torch.float64)
    wanted = slow_transposed(layer, x)
    assert torch.allclose(layer(x), wanted, rtol=0, atol=1e-12)
    probe = torch.randn_like(wanted)
    by_input, by_weights = gradients(layer, x, probe)
    x.requires_grad_()
    slow = torch.autograd.grad((slow_transposed(layer, x) * probe).sum(), [x, layer.weight, layer.bias])
    for got, want in zip((by_input, by_weights["weight"], by_weights["bias"]), slow, strict=True):
        assert torch.allclose(got, want, rtol=0, atol=1e-11)


def test_without_a_batch_and_with_an_empty_one():
    conv, layer, x = pair(2, {"kernel_size": 3, "stride": 2}, bias="position")
    assert torch.allclose(layer(x[0]), conv(x)[0], atol=1e-12)
    assert layer(x[:0]).shape == conv(x[:0]).shape


def test_channels_last_stay_last():
    conv, layer, x = pair(2, {"kernel_size": 3, "stride": 2}, dtype=torch.float32)
    for given in (x, x.to(memory_format=torch.channels_last)):
        assert layer(given).stride() == conv(given).stride()


def test_autocast_as_of_a_convolution():
    conv, layer, x = pair(2, {"kernel_size": 3, "stride": 2}, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = layer(x), conv(x)
    assert got.dtype == wanted.dtype == torch.bfloat16
    assert torch.allclose(got.float(), conv(x), atol=0.05)


def test_compiled_and_copied_it_is_the_same():
    _, layer, x = pair(2, {"kernel_size": 3, "stride": 2, "output_padding": 1}, bias="position", dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    probe = torch.randn_like(layer(x))
    wanted, got = gradients(layer, x, probe), gradients(compiled, x, probe)
    assert torch.allclose(got[0], wanted[0], atol=1e-5)
    for one, other in zip(got[1].values(), wanted[1].values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_an_output_size_as_torch_takes_it():
    conv, layer, x = pair(2, {"kernel_size": 3, "stride": 2, "output_padding": 1})
    for size in ([8, 12], (8, 12), (5, 6, 8, 12), torch.Size([8, 12])):
        assert torch.allclose(layer(x, output_size=size), conv(x, output_size=list(size)), atol=1e-12)
    with pytest.raises(ShapeMismatch, match=r"output_size=\(7, 11\), and it was made for \(8, 12\)"):
        layer(x, output_size=[7, 11])


def test_it_says_what_it_is():
    layer = LocallyConnectedTranspose2d(2, 4, 3, (5, 7), 2, 1, 1, 2, "position", 2)
    assert repr(layer) == (
        "LocallyConnectedTranspose2d(2, 4, kernel_size=(3, 3), input_size=(5, 7), stride=(2, 2), padding=(1, 1), "
        "output_padding=(1, 1), dilation=(2, 2), groups=2, bias='position')"
    )
    assert repr(LocallyConnectedTranspose3d(2, 3, 1, 5, bias=False)) == (
        "LocallyConnectedTranspose3d(2, 3, kernel_size=(1, 1, 1), input_size=(5, 5, 5), bias=False)"
    )


def test_a_new_layer_keeps_the_size_of_what_it_is_given():
    layer = LocallyConnectedTranspose2d(37, 31, 4, 23, stride=2, padding=1)
    assert float(layer.weight.detach().var()) == pytest.approx(2 * 4 / (37 * 16), rel=0.02)
    out = layer(torch.randn(11, 37, 23, 23)).detach()
    assert float(out[..., 3:-3, 3:-3].square().mean()) == pytest.approx(2, rel=0.1)


GOOD = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "input_size": 5}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"in_channels": 0}, SpecError, "in_channels=0, need a whole number of at least 1"),
        ({"groups": 4}, SpecError, "groups=4 must divide in_channels=2"),
        ({"kernel_size": (3,)}, SpecError, "kernel_size=.*need 2 whole numbers of at least 1"),
        ({"input_size": 0}, SpecError, "input_size=0"),
        ({"stride": 0}, SpecError, "stride=0"),
        ({"dilation": 0}, SpecError, "dilation=0"),
        ({"padding": "same"}, SpecError, "padding='same', need 2 whole numbers of at least 0"),
        ({"output_padding": -1}, SpecError, "output_padding=-1"),
        ({"output_padding": 1}, SpecError, r"output_padding=\(1, 1\) must be below the stride \(1, 1\) or the dil"),
        ({"bias": 0}, SpecError, "bias=0"),
        ({"dtype": torch.complex64}, SpecError, "dtype=torch.complex64"),
        ({"padding": 4}, ShapeMismatch, r"an input of \(5, 5\) would give an output of \(-1, -1\)"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_needed(change, error, said):
    with pytest.raises(error, match=f"LocallyConnectedTranspose2d: .*{said}"):
        LocallyConnectedTranspose2d(**GOOD | change)


def test_inputs_that_do_not_fit():
    layer = LocallyConnectedTranspose2d(**GOOD)
    with pytest.raises(ShapeMismatch, match="got an input of size 5×7, and it has 25 kernels for inputs of size 5×5"):
        layer(torch.zeros(1, 2, 5, 7))
    with pytest.raises(ShapeMismatch, match="got 3 channels, need 2"):
        layer(torch.zeros(1, 3, 5, 5))
    with pytest.raises(SpecError, match=r"from_conv: got Conv2d, need ConvTranspose2d\."):
        LocallyConnectedTranspose2d.from_conv(nn.Conv2d(2, 3, 3), 5)
