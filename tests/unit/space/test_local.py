"""Local layers against torch's convolutions, where all kernels are one, and against the defining sum, where not."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from tests.local_layers import CONVS, LOCALS, gradients, slow_local
from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.local import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d

pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same.")  # said by torch for even kernels

SIZES = {1: (11,), 2: (7, 11), 3: (5, 3, 7)}
CASES = {
    "1d": (1, {"kernel_size": 3}),
    "1d even": (1, {"kernel_size": 4, "stride": 3, "padding": 2, "dilation": 2, "groups": 2}),
    "1d same": (1, {"kernel_size": 4, "padding": "same", "dilation": 3}),
    "1d reflect": (1, {"kernel_size": 5, "padding": 3, "padding_mode": "reflect", "stride": 2}),
    "1x1": (2, {"kernel_size": 1}),
    "1x1 strided": (2, {"kernel_size": 1, "stride": (2, 3), "padding": 1}),
    "2d": (2, {"kernel_size": 3, "padding": 1}),
    "2d even": (2, {"kernel_size": 2, "stride": 2, "padding": (0, 1)}),
    "2d rectangular": (2, {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 3), "dilation": (1, 2)}),
    "2d valid": (2, {"kernel_size": (2, 3), "padding": "valid"}),
    "2d same even": (2, {"kernel_size": (2, 4), "padding": "same", "dilation": (3, 1)}),
    "2d circular": (2, {"kernel_size": 3, "padding": (3, 2), "padding_mode": "circular"}),
    "2d replicate": (2, {"kernel_size": 4, "padding": 3, "padding_mode": "replicate", "stride": 2}),
    "2d reflect same": (2, {"kernel_size": (4, 3), "padding": "same", "padding_mode": "reflect"}),
    "2d groups": (2, {"kernel_size": 3, "groups": 2, "padding": 2, "stride": 2}),
    "2d whole": (2, {"kernel_size": (7, 11)}),
    "2d padding over kernel": (2, {"kernel_size": 2, "padding": 3}),
    "3d": (3, {"kernel_size": 3, "padding": 1}),
    "3d all": (3, {"kernel_size": (2, 1, 3), "stride": (1, 2, 3), "padding": (1, 0, 2), "dilation": (2, 1, 1)}),
    "3d same groups": (3, {"kernel_size": (2, 3, 4), "padding": "same", "groups": 2, "padding_mode": "replicate"}),
}


def pair(dims, options, bias=True, dtype=torch.float64, size=None):
    """A convolution with 2·2 channels in and 2·3 out, and its twin."""
    conv = CONVS[dims](4, 6, **options, bias=bias is not False, dtype=dtype)
    layer = LOCALS[dims].from_conv(conv, size or SIZES[dims], bias=bias)
    return conv, layer, torch.randn(5, 4, *(size or SIZES[dims]), dtype=dtype)


def check_equal(conv, layer, x, tolerance):
    """Output, and gradients by the input, the kernel and the bias: those of positions added up."""
    wanted = conv(x)
    got = layer(x)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    assert torch.allclose(got, wanted, rtol=tolerance, atol=tolerance)
    probe = torch.randn_like(wanted)
    by_input, by_weights = gradients(layer, x, probe)
    conv_input, conv_weights = gradients(conv, x, probe)
    scale = 1 + conv_weights["weight"].abs().max()
    assert torch.allclose(by_input, conv_input, rtol=tolerance, atol=10 * tolerance)
    summed = layer.as_conv_weight(by_weights["weight"].flatten(0, layer.spatial - 1).sum(0))
    assert torch.allclose(summed, conv_weights["weight"], rtol=tolerance, atol=float(10 * tolerance * scale))
    assert by_weights.keys() == conv_weights.keys()
    for name in by_weights.keys() - {"weight"}:
        biases = by_weights[name].reshape(-1, 6)
        assert torch.allclose(biases.sum(0), conv_weights[name], rtol=tolerance, atol=float(10 * tolerance * scale))


@pytest.mark.parametrize("bias", [True, False, "position"])
@pytest.mark.parametrize("case", CASES)
def test_one_kernel_everywhere_is_the_convolution(case, bias):
    conv, layer, x = pair(*CASES[case], bias=bias)
    check_equal(conv, layer, x, 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_and_in_single_precision(case):
    check_equal(*pair(*CASES[case], dtype=torch.float32), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_combination_of_arguments(dims, mode):
    seen = 0
    grid = product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2, "same"), (1, 2), (1, 2), (True, "position"))
    for kernel, stride, padding, dilation, groups, bias in grid:
        fits = (kernel - 1) * dilation < 5 and (padding != "same" or stride == 1)
        options = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        for _ in range(fits):
            check_equal(*pair(dims, options | {"padding_mode": mode}, bias, size=(5, 7, 5)[:dims]), 1e-11)
            seen += 1
    assert seen > 200


@pytest.mark.parametrize("bias", [True, "position"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_of_their_own_are_the_defining_sum(case, bias):
    dims, options = CASES[case]
    layer = LOCALS[dims](4, 6, input_size=SIZES[dims], bias=bias, **options, dtype=torch.float64)
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 4, *SIZES[dims], dtype=torch.float64)
    wanted = slow_local(layer, x)
    assert torch.allclose(layer(x), wanted, rtol=0, atol=1e-12)
    probe = torch.randn_like(wanted)
    by_input, by_weights = gradients(layer, x, probe)
    x.requires_grad_()
    slow = torch.autograd.grad((slow_local(layer, x) * probe).sum(), [x, layer.weight, layer.bias])
    for got, want in zip((by_input, by_weights["weight"], by_weights["bias"]), slow, strict=True):
        assert torch.allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_without_a_batch(dims):
    conv, layer, x = pair(dims, {"kernel_size": 3, "padding": 1}, bias="position")
    assert layer(x[0]).shape == conv(x[0]).shape
    assert torch.allclose(layer(x[0]), conv(x)[0], atol=1e-12)


def test_images_with_channels_last_come_out_as_from_a_convolution():
    conv, layer, x = pair(2, {"kernel_size": 3}, dtype=torch.float32)
    for given in (x, x.to(memory_format=torch.channels_last)):
        assert layer(given).stride() == conv(given).stride()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("last", [True, False])
def test_the_memory_format_is_that_of_a_convolution(dims, kernel, last):
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    conv, layer, x = pair(dims, {"kernel_size": kernel, "padding": kernel // 2}, bias="position")
    layout = formats[dims] if last else torch.contiguous_format
    x = x.to(memory_format=layout)
    assert layer(x).is_contiguous(memory_format=layout)
    assert torch.allclose(layer(x), conv(x), atol=1e-12)


@pytest.mark.parametrize("how", ["cut", "turned", "expanded", "one channel"])
def test_inputs_that_lie_in_memory_anyhow(how):
    conv, layer, x = pair(2, {"kernel_size": 3, "padding": 1})
    x = {
        "cut": torch.randn(5, 7, 9, 23, dtype=torch.float64)[:, 1:5, 2:, ::2][..., :11],
        "turned": torch.randn(11, 7, 4, 5, dtype=torch.float64).permute(3, 2, 1, 0),
        "expanded": x[:1, :, :1].expand(5, -1, 7, -1),
        "one channel": x,
    }[how]
    assert x.shape == (5, 4, 7, 11)
    assert torch.allclose(layer(x), conv(x), atol=1e-12)


def test_nothing_in_a_batch_is_nothing_out_and_gradients_of_zero():
    conv, layer, x = pair(2, {"kernel_size": 3, "stride": 2}, bias="position")
    assert layer(x[:0]).shape == conv(x[:0]).shape
    by_input, by_weights = gradients(layer, x[:0], torch.ones(()))
    assert by_input.shape == (0, 4, 7, 11)
    assert all(float(one.abs().sum()) == 0 for one in by_weights.values())


def test_a_large_batch_of_single_pixels():
    conv, layer, x = pair(2, {"kernel_size": 1}, size=(1, 1))
    x = torch.randn(4099, 4, 1, 1, dtype=torch.float64)
    check_equal(conv, layer, x, 1e-10)


def test_gradients_of_gradients():
    layer = LocallyConnected2d(2, 3, (2, 3), (3, 5), padding=1, stride=2, bias="position", dtype=torch.float64)
    x = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x,))
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(layer, {"weight": w}, (x,)), (layer.weight,))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (LocallyConnected1d(2, 3, 5, 11), "LocallyConnected1d(2, 3, kernel_size=(5,), input_size=(11,))"),
        (
            LocallyConnected2d(2, 4, 3, (5, 7), 2, "valid", 1, 2, "position", "circular"),
            "LocallyConnected2d(2, 4, kernel_size=(3, 3), input_size=(5, 7), stride=(2, 2), padding='valid', "
            "padding_mode='circular', groups=2, bias='position')",
        ),
        (
            LocallyConnected3d(2, 3, 2, 3, padding=(0, 0, 1), dilation=(1, 1, 2), bias=False),
            "LocallyConnected3d(2, 3, kernel_size=(2, 2, 2), input_size=(3, 3, 3), padding=(0, 0, 1), "
            "dilation=(1, 1, 2), bias=False)",
        ),
    ],
)
def test_it_says_what_it_is(layer, text):
    assert repr(layer) == text


def test_a_new_layer_has_the_variance_of_the_paper_and_no_biases():
    layer = LocallyConnected2d(8, 19, 3, 23, groups=1, bias="position")
    assert float(layer.weight.detach().var()) == pytest.approx(2 / (19 * 9), rel=0.01)
    assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=1e-3)
    assert not layer.bias.any()


@pytest.mark.parametrize("eps", [0.0, 0.5, 3.0])
def test_noise_on_one_kernel_keeps_the_variance(eps):
    layer = LocallyConnected2d(16, 19, 3, 23, padding=1)
    nn.init.ones_(layer.bias)
    layer.reset_parameters(eps=eps)
    assert float(layer.weight.detach().var()) == pytest.approx(2 / (19 * 9), rel=0.1)
    kernels = layer.kernels().detach().flatten(1)
    cosine = torch.nn.functional.cosine_similarity(kernels[0], kernels[1], dim=0)
    assert float(cosine) == pytest.approx(1 / (1 + eps**2), abs=0.05)
    assert not layer.bias.any()


@pytest.mark.parametrize("kind", LOCALS)
def test_from_a_convolution_with_noise(kind):
    conv = CONVS[kind](31, 37, 3)
    with torch.no_grad():
        conv.weight.add_(1.0)
    layer = LOCALS[kind].from_conv(conv, (11, 7, 5)[:kind], eps=0.3)
    one = layer.as_kernel(conv.weight.detach())
    noise = (layer.kernels().detach() * (1 + 0.3**2) ** 0.5 - one) / 0.3
    assert float(noise.std()) == pytest.approx(float(conv.weight.detach().std()), rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert torch.equal(layer.bias, conv.bias)


def test_from_a_convolution_as_it_is():
    conv = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64).eval()
    conv.weight.requires_grad_(False)
    before = torch.get_rng_state()
    layer = LocallyConnected2d.from_conv(conv, (5, 7))
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.weight.dtype == torch.float64
    assert (layer.weight.requires_grad, layer.bias.requires_grad, layer.training) == (False, True, False)
    assert layer.bias is not conv.bias
    assert torch.equal(layer.shared(layer.kernels()[3], layer.bias).weight, conv.weight)


def test_biases_can_be_added_dropped_or_copied_to_positions():
    with_bias, without = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3, bias=False)
    assert LocallyConnected2d.from_conv(with_bias, 5, bias=False).bias is None
    assert LocallyConnected2d.from_conv(without, 5).bias is None
    assert not LocallyConnected2d.from_conv(without, 5, bias="position").bias.any()
    assert torch.equal(LocallyConnected2d.from_conv(with_bias, 5, bias="position").bias, with_bias.bias.expand(3, 3, 3))


class Doubled(nn.Conv2d):
    """Computes something else than a convolution."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("other", [nn.Conv1d(2, 3, 3), nn.Linear(2, 3), Doubled(2, 3, 3), nn.LazyConv2d(3, 3)])
def test_from_anything_else_is_refused(other):
    with pytest.raises(SpecError, match=rf"from_conv: got {type(other).__name__}, need Conv2d\."):
        LocallyConnected2d.from_conv(other, 5)


GOOD = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "input_size": 5}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"in_channels": 0}, SpecError, "in_channels=0, need a whole number of at least 1"),
        ({"in_channels": 2.0}, SpecError, "in_channels=2.0, need a whole number"),
        ({"in_channels": True}, SpecError, "in_channels=True, need a whole number"),
        ({"out_channels": -1}, SpecError, "out_channels=-1, need a whole number"),
        ({"groups": 0}, SpecError, "groups=0, need a whole number"),
        ({"groups": 4}, SpecError, "groups=4 must divide in_channels=2 and out_channels=4"),
        ({"kernel_size": 0}, SpecError, "kernel_size=0, need 2 whole numbers of at least 1"),
        ({"kernel_size": (3, 3, 3)}, SpecError, r"kernel_size=\(3, 3, 3\), need 2 whole numbers"),
        ({"kernel_size": (3, "a")}, SpecError, "kernel_size="),
        ({"kernel_size": "33"}, SpecError, "kernel_size='33'"),
        ({"kernel_size": None}, SpecError, "kernel_size=None"),
        ({"kernel_size": (3, None)}, SpecError, "kernel_size="),
        ({"kernel_size": (3, 3, None)}, SpecError, "kernel_size="),
        ({"input_size": (5, 0)}, SpecError, r"input_size=\(5, 0\), need 2 whole numbers"),
        ({"input_size": True}, SpecError, "input_size=True"),
        ({"input_size": np.ones(2)}, SpecError, "input_size="),
        ({"stride": 0}, SpecError, "stride=0, need 2"),
        ({"stride": 1.5}, SpecError, "stride=1.5, need 2"),
        ({"dilation": (1, 0)}, SpecError, "dilation="),
        ({"padding": -1}, SpecError, "padding=-1, need 2 whole numbers of at least 0"),
        ({"padding": "full"}, SpecError, "padding='full', need numbers, 'same' or 'valid'"),
        ({"padding": "same", "stride": 2}, SpecError, r"padding='same' goes with stride 1, got \(2, 2\)"),
        ({"padding_mode": "mirror"}, SpecError, "padding_mode='mirror', need one of zeros, reflect"),
        ({"bias": 1}, SpecError, r"bias=1, need True \(per channel\), False or 'position'"),
        ({"bias": 0}, SpecError, "bias=0, need True"),
        ({"bias": None}, SpecError, "bias=None, need True"),
        ({"bias": np.ones(2)}, SpecError, "bias=array"),
        ({"bias": "positions"}, SpecError, "bias='positions', need True"),
        ({"dtype": torch.complex64}, SpecError, "dtype=torch.complex64, need floating-point numbers"),
        ({"dtype": torch.int8}, SpecError, "dtype=torch.int8, need floating-point numbers"),
        ({"kernel_size": 7}, ShapeMismatch, r"a kernel of \(7, 7\) .* does not fit into inputs of size \(5, 5\)"),
        ({"dilation": 3}, ShapeMismatch, "does not fit into inputs"),
        ({"padding": 5, "padding_mode": "reflect"}, ShapeMismatch, "'reflect' can add at most 4 .* got padding 5"),
        ({"padding": 6, "padding_mode": "circular"}, ShapeMismatch, "'circular' can add at most 5 .* got padding 6"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_needed(change, error, said):
    with pytest.raises(error, match=f"LocallyConnected2d: .*{said}"):
        LocallyConnected2d(**GOOD | change)


@pytest.mark.parametrize("size", [(5, 7), [5, 7], torch.Size([5, 7]), np.array([5, 7]), (np.int64(5), 7)])
def test_sizes_of_any_whole_numbers(size):
    layer = LocallyConnected2d(np.int64(2), 3, np.int32(3), size)
    assert layer.weight.shape == (3, 5, 1, 18, 3)
    assert [type(one) for one in (layer.in_channels, *layer.input_size, *layer.kernel_size)] == [int] * 5


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 2, 5, 6), r"got an input of size 5×6, and it has 9 kernels for inputs of size 5×5"),
        ((2, 3, 5, 5), "got 3 channels, need 2"),
        ((5, 5), r"got an input of shape \(5, 5\), need \(batch, 2, 5, 5\), or without the batch"),
        ((1, 2, 2, 5, 5), r"got an input of shape \(1, 2, 2, 5, 5\), need \(batch, 2, 5, 5\)"),
        ((3, 5, 5), "got 3 channels, need 2"),
    ],
)
def test_inputs_that_do_not_fit(shape, said):
    with pytest.raises(ShapeMismatch, match=f"LocallyConnected2d: {said}"):
        LocallyConnected2d(**GOOD)(torch.zeros(shape))


def test_the_input_goes_by_the_name_that_it_has_in_torch():
    assert LocallyConnected2d(**GOOD)(input=torch.randn(2, 2, 5, 5)).shape == (2, 4, 3, 3)
