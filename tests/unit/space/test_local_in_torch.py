"""Local layers among torch's own tools: types, autocast, compile, export, copies, `torch.func`, other devices."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from tests.local_layers import CONVS, LOCALS, gradients
from weightshare.space.local import LocallyConnected2d


def pair(bias=True, **options):
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias is not False, **options)
    layer = LocallyConnected2d.from_conv(conv, (7, 11), bias=bias)
    return conv, layer, torch.randn(2, 3, 7, 11, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parameters_of_any_type(dtype):
    conv, layer, x = pair("position", dtype=dtype)
    assert layer(x).dtype == dtype
    assert torch.allclose(layer(x).double(), conv(x).double(), atol=40 * torch.finfo(dtype).eps)
    assert {one.dtype for one in layer.double().parameters()} == {torch.float64}
    made = LocallyConnected2d(3, 5, 3, 7, bias="position", dtype=dtype)
    assert {one.dtype for one in made.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("bias", [True, False, "position"])
def test_autocast_as_of_a_convolution(dtype, bias):
    conv, layer, x = pair(bias, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = layer(x), conv(x)
    assert got.dtype == wanted.dtype
    assert torch.allclose(got.double(), conv(x).double(), atol=0.05)
    probe = torch.randn(2, 5, 7, 11)
    by_input, by_weights = gradients(layer, x, probe)
    with torch.autocast("cpu", torch.bfloat16):
        cast_input, cast_weights = gradients(layer, x, probe)
    assert {one.dtype for one in (cast_input, *cast_weights.values())} == {dtype}
    assert torch.allclose(cast_input.double(), by_input.double(), atol=0.1)
    assert torch.allclose(cast_weights["weight"].double(), by_weights["weight"].double(), atol=0.1)


def test_integers_and_other_types_are_refused_as_by_a_convolution():
    conv, layer, x = pair()
    for other in (x.double(), x.to(torch.int64), x.half()):
        with pytest.raises(RuntimeError):
            conv(other)
        with pytest.raises(RuntimeError):
            layer(other)


@pytest.mark.parametrize("kind", LOCALS)
def test_compiled_it_is_the_same(kind):
    layer = LOCALS[kind].from_conv(CONVS[kind](3, 5, 3, padding=1, stride=2), (7, 5, 3)[:kind], bias="position")
    x = torch.randn(2, 3, *(7, 5, 3)[:kind])
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    probe = torch.randn_like(layer(x))
    wanted, got = gradients(layer, x, probe), gradients(compiled, x, probe)
    assert torch.allclose(compiled(x), layer(x), atol=1e-6)
    assert torch.allclose(got[0], wanted[0], atol=1e-5)
    for one, other in zip(got[1].values(), wanted[1].values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_compiled_under_autocast():
    _, layer, x = pair("position")
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x).dtype == torch.bfloat16
        assert torch.allclose(compiled(x).float(), layer(x).float(), atol=0.02)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_copies(copied):
    _, layer, x = pair("position")
    if_saved = io.BytesIO()
    torch.save(layer, if_saved)
    if_saved.seek(0)
    twin = {
        "deepcopy": lambda: copy.deepcopy(layer),
        "pickle": lambda: pickle.loads(pickle.dumps(layer)),
        "torch.save": lambda: torch.load(if_saved, weights_only=False),
    }[copied]()
    assert repr(twin) == repr(layer)
    assert torch.equal(twin(x), layer(x))
    with torch.no_grad():
        twin.weight.zero_()
    assert layer.weight.any()


def test_its_state_is_two_tensors():
    _, layer, x = pair("position")
    twin = LocallyConnected2d(3, 5, 3, (7, 11), padding=1, bias="position")
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        LocallyConnected2d(3, 5, 3, (11, 7), padding=1, bias="position").load_state_dict(layer.state_dict())


def test_on_no_device_it_has_shapes():
    layer = LocallyConnected2d.from_conv(nn.Conv2d(3, 5, 3, device="meta"), (7, 11), eps=0.1)
    assert layer(torch.empty(2, 3, 7, 11, device="meta")).shape == (2, 5, 5, 9)
    assert layer.shared(layer.kernels()[0], layer.bias).weight.is_meta
    filled = layer.to_empty(device="cpu")
    filled.reset_parameters()
    assert filled(torch.zeros(2, 3, 7, 11)).shape == (2, 5, 5, 9)


def test_called_with_other_parameters():
    _, layer, x = pair("position")
    weights = {name: 2 * one for name, one in layer.named_parameters()}
    assert torch.allclose(torch.func.functional_call(layer, weights, (x,)), 2 * layer(x), atol=1e-6)


def test_exported():
    _, layer, x = pair()
    exported = torch.export.export(nn.Sequential(layer), (x,)).module()
    assert torch.equal(exported(x), layer(x))


def test_averaged_weights():
    _, layer, x = pair()
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(layer))
    with torch.no_grad():
        layer.weight.mul_(3)
    averaged.update_parameters(nn.Sequential(layer))
    averaged.update_parameters(nn.Sequential(layer))
    assert torch.equal(averaged(x), layer(x))


def test_checkpointed_gradients_are_the_same():
    from torch.utils.checkpoint import checkpoint

    _, layer, x = pair()
    x.requires_grad_()
    wanted = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight])
    got = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), [x, layer.weight])
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
