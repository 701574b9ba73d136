"""Per-patch projections: the layer against a loop over tokens, its lattices, and how it sleeps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import same_bits
from weightshare.errors import ShapeMismatch, SpecError
from weightshare.space.lattice import Lattice
from weightshare.space.measure import space_sharing
from weightshare.space.patches import PatchLinear
from weightshare.space.plasticity import Hebbian
from weightshare.space.sleep import Sleep

BIASES = pytest.mark.parametrize("bias", [True, False, "position"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random(layer: PatchLinear) -> PatchLinear:
    """With other biases than 0 and other weights for each token, whatever the start is."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def naive(layer: PatchLinear, x: Tensor) -> Tensor:
    """`Z'_i = Z_i U_i`, token by token."""
    rows = [x[:, i] @ layer.weight[i, 0] for i in range(layer.tokens)]
    if layer.bias is not None:
        rows = [row + layer.bias.expand(layer.tokens, -1)[i] for i, row in enumerate(rows)]
    return torch.stack(rows, 1)


# The layer


@BIASES
def test_the_layer_is_a_product_for_each_token(bias: Any) -> None:
    layer = random(PatchLinear(3, 7, tokens=5, bias=bias, dtype=torch.float64))
    x = torch.randn(11, 5, 3, dtype=torch.float64)
    assert torch.allclose(layer(x), naive(layer, x), atol=1e-12)


@BIASES
def test_gradients(bias: Any) -> None:
    layer = random(PatchLinear(2, 3, tokens=5, bias=bias, dtype=torch.float64))
    x = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


@BIASES
def test_any_leading_dimensions_or_none(bias: Any) -> None:
    layer = random(PatchLinear(3, 7, tokens=5, bias=bias))
    x = torch.randn(2, 11, 5, 3)
    expected = torch.stack([layer(row) for row in x])
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert torch.allclose(layer(x[0, 0]), expected[0, 0], atol=1e-6)
    assert layer(x[:0]).shape == (0, 11, 5, 7)


def test_the_output_is_contiguous_whatever_the_input_is() -> None:
    layer = random(PatchLinear(3, 7, tokens=5))
    x = torch.randn(3, 5, 11).permute(2, 1, 0)
    assert not x.is_contiguous()
    assert layer(x).is_contiguous()
    assert torch.allclose(layer(x), layer(x.contiguous()), atol=1e-6)


def test_autocast_gives_its_type() -> None:
    layer, x = random(PatchLinear(3, 7, tokens=5, bias="position")), torch.randn(2, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), layer(x), atol=0.1)


@BIASES
def test_it_compiles_to_one_graph_with_the_same_gradients(bias: Any) -> None:
    layer, x = random(PatchLinear(3, 7, tokens=5, bias=bias)), torch.randn(2, 5, 3)
    expected = layer(x)
    gradients = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = compiled(x)
    assert torch.allclose(found, expected, atol=1e-6)
    for one, other in zip(torch.autograd.grad(found.square().sum(), list(layer.parameters())), gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4, 3), (5, 2, 3), (3,), (2, 5, 1, 3)])
def test_another_input_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match="need \\(batch, 5, 3\\): it has one weight for each of 5 tokens"):
        PatchLinear(3, 7, tokens=5)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"in_features": 0}, "in_features=0"),
        ({"out_features": 2.0}, "out_features=2.0"),
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": True}, "tokens=True"),
        ({"prefix": -1}, "prefix=-1"),
        ({"prefix": 5}, "prefix=5 of tokens=5 leaves no patch"),
        ({"bias": "token"}, "bias='token'"),
        ({"bias": None}, "bias=None"),
    ],
)
def test_values_that_it_cannot_have(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PatchLinear(**{"in_features": 3, "out_features": 7, "tokens": 5} | values)


@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_and_back_to_the_bit(bias: bool) -> None:
    linear, x = nn.Linear(3, 7, bias=bias).eval(), torch.randn(2, 5, 3)
    linear.weight.requires_grad_(False)
    layer = PatchLinear.from_linear(linear, 5)
    assert torch.allclose(layer(x), linear(x), atol=1e-6)
    assert not layer.weight.requires_grad
    assert not layer.training
    back = layer.shared(layer.kernels()[0], layer.bias)
    assert type(back) is nn.Linear
    assert back.state_dict().keys() == linear.state_dict().keys()
    assert same_bits(back.state_dict().values(), linear.state_dict().values())


def test_biases_for_each_token() -> None:
    linear, x = nn.Linear(3, 7, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    layer = PatchLinear.from_linear(linear, 5, bias="position")
    assert layer.bias is not None
    assert layer.bias.shape == (5, 7)
    assert layer.weight.dtype == torch.float64
    assert torch.allclose(layer(x), linear(x))
    added = PatchLinear.from_linear(nn.Linear(3, 7, bias=False), 5, bias=True)
    assert added.bias is not None
    assert not added.bias.any()


def test_noise_is_of_the_size_that_is_asked_for() -> None:
    linear = nn.Linear(31, 37)
    layer = PatchLinear.from_linear(linear, 41, eps=0.5)
    spread = float((layer.kernels().std(0).mean() / linear.weight.std()).detach())
    assert spread == pytest.approx(0.5 / 1.25**0.5, rel=0.03)
    with pytest.raises(SpecError, match="eps"):
        PatchLinear.from_linear(linear, 41, eps=-0.1)


OTHERS = [nn.Conv1d(3, 7, 1), nn.LazyLinear(7), nn.modules.linear.NonDynamicallyQuantizableLinear(3, 7)]


@pytest.mark.parametrize("other", OTHERS)
def test_from_another_layer(other: nn.Module) -> None:
    with pytest.raises(SpecError, match=r"need a plain nn\.Linear"):
        PatchLinear.from_linear(other, 5)


def test_the_start_is_that_of_a_linear_layer() -> None:
    layer = PatchLinear(101, 103, tokens=7, bias="position")
    assert layer.bias is not None
    bound = 101**-0.5
    for parameter in layer.parameters():
        assert 0.99 * bound < float(parameter.detach().abs().max()) <= bound
    assert space_sharing(layer).all < 0.5
    layer.reset_parameters(eps=0.0)
    assert space_sharing(layer).all == float("inf")
    assert torch.equal(layer.bias[0], layer.bias[6])
    layer.reset_parameters(eps=1.0)
    assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)


# Lattices and sleep


def test_all_tokens_are_one_class_and_a_prefix_can_be_apart() -> None:
    assert Lattice().assignment(PatchLinear(3, 7, tokens=5)).labels.tolist() == [0] * 5
    layer = PatchLinear(3, 7, tokens=5, prefix=2)
    assert Lattice().assignment(layer).labels.tolist() == [0] * 5
    assert sorted(map(sorted, Lattice(borders="apart").assignment(layer).readers)) == [[0, 1], [2, 3, 4]]


@pytest.mark.parametrize("prefix", [0, 2])
def test_instant_sleep_takes_the_mean_over_all_tokens(prefix: int) -> None:
    layer = random(PatchLinear(3, 7, tokens=5, bias="position", prefix=prefix))
    assert layer.bias is not None
    means = layer.weight.detach().mean(0), layer.bias.detach().mean(0)
    Sleep().now_(nn.Sequential(layer))
    for parameter, mean in zip(layer.parameters(), means, strict=True):
        assert torch.equal(parameter, parameter[:1].expand_as(parameter))
        assert torch.allclose(parameter[0], mean, atol=1e-6)


def test_sleep_with_the_prefix_apart() -> None:
    layer = random(PatchLinear(3, 7, tokens=5, prefix=1))
    before = layer.weight.detach().clone()
    Sleep(lattice=Lattice(borders="apart")).now_(nn.Sequential(layer))
    assert torch.equal(layer.weight[0], before[0])
    assert torch.equal(layer.weight[1], layer.weight[4])
    assert torch.allclose(layer.weight[1], before[1:].mean(0), atol=1e-6)


def test_hebbian_sleep_is_equation_4_over_tokens() -> None:
    """Stepped by hand on the patterns of the layer's own seed: all tokens see one `x`."""
    layer = random(PatchLinear(3, 7, tokens=5, dtype=torch.float64))
    rule = Hebbian(lr=0.1, gamma=0.01, iterations=3, patterns=13)
    start = layer.weight.detach()[:, 0].clone()
    generator = torch.Generator().manual_seed(0)
    now = start.clone()
    for _ in range(3):
        x = torch.randn(1, 13, 3, generator=generator, dtype=torch.float64)[0]
        z = x @ now
        now = now - 0.1 * (x.T @ (z - z.mean(0)) / 13 + 0.01 * (now - start))
    Sleep(mode=rule).now_(nn.Sequential(layer))
    assert torch.allclose(layer.weight[:, 0], now, atol=1e-12)
    assert float((now - start).norm()) > 0.1


def test_hebbian_sleep_leaves_a_prefix_that_is_apart() -> None:
    layer = random(PatchLinear(3, 7, tokens=5, prefix=1))
    before = layer.weight.detach().clone()
    Sleep(mode="hebbian").now_(nn.Sequential(layer))
    assert torch.equal(layer.weight[0], before[0])
    assert float(layer.weight[1:].detach().std(0).mean()) < 0.01 * float(before[1:].std(0).mean())
