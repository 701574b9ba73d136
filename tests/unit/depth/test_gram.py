"""Least squares over activations: Gram matrices of every kind of layer, and the weight against torch's solver."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.banked import Net
from tests.support import state
import weightshare as ws
from weightshare.depth.fuse import LeastSquares, least_squares
from weightshare.depth.gram import grams, nearest
from weightshare.depth.transform import LoRA
from weightshare.errors import SpecError

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 7), (11, 5)),
    "tokens": (lambda: nn.Linear(5, 7, bias=False), (3, 11, 5)),
    "conv1d": (lambda: nn.Conv1d(6, 9, 3, stride=2, padding=1, dilation=2, groups=3), (5, 6, 13)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 3)), (3, 4, 11, 13)),
    "same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same", groups=2), (3, 4, 7, 5)),
    "reflect": (lambda: nn.Conv2d(3, 5, 3, padding=2, padding_mode="reflect"), (2, 3, 7, 5)),
    "circular": (lambda: nn.Conv1d(3, 5, 3, padding=1, padding_mode="circular"), (5, 3, 11)),
    "replicate": (lambda: nn.Conv2d(3, 5, (1, 3), padding=(0, 1), padding_mode="replicate", stride=3), (2, 3, 7, 11)),
    "depthwise": (lambda: nn.Conv2d(5, 5, 3, groups=5), (2, 5, 7, 11)),
    "one image": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 7, 11)),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("name", LAYERS)
def test_grams_give_the_size_of_any_output(name: str) -> None:
    """`‖X Wᵀ‖²` of any weight is what the layer itself puts out: `Σ_g tr(W_g G_g W_gᵀ)` times the rows."""
    make, shape = LAYERS[name]
    layer = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    [gram] = grams(nn.Sequential(layer), ["0.weight"], [x, 2 * x]).values()
    layer.bias = None
    out = layer(x).detach()
    rows = out.numel() / layer.weight.shape[0]
    weight = layer.weight.detach().reshape(len(gram), -1, gram.shape[-1])
    found = torch.einsum("goi,gij,goj->", weight, gram, weight)
    torch.testing.assert_close(found, (1 + 4) * out.square().sum() / (2 * rows))


@pytest.mark.parametrize("name", LAYERS)
def test_the_nearest_weight_is_that_of_least_squares(name: str) -> None:
    """Two layers with inputs of their own: no step from the answer lowers `Σ_i ‖layer_i(x_i) - layer(x_i)‖²`."""
    make, shape = LAYERS[name]
    layers = [make().double() for _ in range(2)]
    inputs = [torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64) * 3 + 1]
    for layer in layers:
        layer.bias = None
    held = [grams(nn.Sequential(layer), ["0.weight"], [x])["0.weight"] for layer, x in zip(layers, inputs, strict=True)]
    weights = torch.stack([layer.weight.detach() for layer in layers])
    found = nearest(torch.stack(held), weights, weights.mean(0), 1e-10).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for layer, x in zip(layers, inputs, strict=True):
        made = torch.func.functional_call(make().double(), {"weight": found, **_no_bias(make())}, (x,))
        total = total + (made - layer(x).detach()).square().sum()
    [gradient] = torch.autograd.grad(total, [found])
    assert gradient.abs().max() < 1e-6 * (1 + total.item())


def _no_bias(layer: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros_like(bias).double() for name, bias in layer.named_parameters() if name == "bias"}


def test_against_stacked_inputs() -> None:
    """The answer of `torch.linalg.lstsq` on all rows of both layers."""
    inputs = [torch.randn(13, 5, dtype=torch.float64) for _ in range(3)]
    weights = torch.randn(3, 7, 5, dtype=torch.float64)
    outputs = [x @ weight.T for x, weight in zip(inputs, weights, strict=True)]
    wanted = torch.linalg.lstsq(torch.cat(inputs), torch.cat(outputs)).solution.T
    gram = torch.stack([(x.T @ x)[None] / 13 for x in inputs])
    torch.testing.assert_close(nearest(gram, weights, weights.mean(0), 1e-13), wanted)


def test_a_strong_ridge_and_silence_give_the_mean() -> None:
    weights = torch.randn(3, 7, 5, dtype=torch.float64)
    gram = torch.eye(5, dtype=torch.float64).expand(3, 1, 5, 5) * torch.tensor([1.0, 5.0, 9.0])[:, None, None, None]
    torch.testing.assert_close(nearest(gram, weights, weights.mean(0), 1e9), weights.mean(0), rtol=1e-6, atol=1e-6)
    silent = torch.zeros(3, 1, 5, 5)
    torch.testing.assert_close(nearest(silent, weights, weights.mean(0), 0.01), weights.mean(0))


@pytest.mark.parametrize("order", [ws.sequential, ws.strided, ws.random(1)])
def test_a_network_is_fused_by_its_assignment(order: Any) -> None:
    """Matrices by the inputs of their own slot's readers; biases by the mean; outputs no worse than the mean's."""
    plain, x = Net(6).double(), torch.randn(17, 3, dtype=torch.float64)
    shared = Net(6).double()
    shared.load_state_dict(plain.state_dict())
    paths = [f"blocks.{at}.fc1.weight" for at in range(6)]
    known = grams(plain, paths, [x])
    plan = ws.plan(shared, ws.Tie(rate=2, order=order, fuse=LeastSquares(1e-9)), "blocks.*.fc1.*")
    plan.apply_(shared, batches=[x])
    labels = next(group for group in plan.groups if group.name.endswith("weight")).assignment.labels.tolist()
    for label in range(3):
        readers = [layer for layer, other in enumerate(labels) if other == label]
        weights = torch.stack([plain.get_parameter(paths[layer]).detach() for layer in readers])
        total = sum(known[paths[layer]][0] for layer in readers)
        sought = sum(known[paths[layer]][0] @ weight.T for layer, weight in zip(readers, weights, strict=True))
        wanted = torch.linalg.solve(total, sought).T  # type: ignore[arg-type]
        found = shared.get_parameter(paths[readers[0]]).detach()
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        biases = torch.stack([plain.blocks[layer].fc1.bias.detach() for layer in readers])
        torch.testing.assert_close(shared.blocks[readers[0]].fc1.bias.detach(), biases.mean(0))
    assert shared.training


def test_with_transforms() -> None:
    """What the fusion loses is what the transform starts from, so full rank loses nothing."""
    model, x = Net().double(), torch.randn(5, 3, dtype=torch.float64)
    wanted = model(x).detach()
    ws.share_(model, ws.Tie(rate=2, fuse=least_squares, own=LoRA(5)), ["*.fc1.weight", "*.fc2.weight"], batches=[x])
    torch.testing.assert_close(model(x), wanted)


class Odd(nn.Module):
    """A network that wants two arguments, one by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(4)])

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(input=x)) * scale
        return x


def test_batches_by_name() -> None:
    model = Odd()
    batch = {"x": torch.randn(7, 5), "scale": torch.tensor(2.0)}
    ws.share_(model, ws.Tie(rate=2, fuse=least_squares), batches=(batch for _ in range(2)))
    assert model.layers[0].weight is model.layers[1].weight


def test_layers_that_never_run_take_the_mean() -> None:
    model = Net(4)
    model.run = lambda block, x: x
    before = [block.fc1.weight.detach().clone() for block in model.blocks]
    ws.share_(model, ws.Tie(rate=4, fuse=least_squares), "*.fc1.weight", batches=[torch.randn(2, 3)])
    torch.testing.assert_close(model.blocks[0].fc1.weight.detach(), torch.stack(before).mean(0))


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (None, r"give apply_ batches"),
        ([], "at least one batch"),
        ([torch.zeros(2, 4)], "cannot run on"),
        (["words"], r"cannot run on|is a str"),
        ([{"y": torch.zeros(2, 3)}], "cannot run on"),
        ([3], "is of type int"),
        (3, r"batches=int: need a list"),
        (torch.zeros(2, 3), r"batches=Tensor: need a list"),
        ({"x": torch.zeros(2, 3)}, r"batches=dict: need a list"),
    ],
)
def test_batches_that_are_none(batches: Any, said: str) -> None:
    model = Net()
    before = state(model)
    with pytest.raises(SpecError, match=said):
        ws.share_(model, ws.Tie(rate=2, fuse=least_squares), batches=batches)
    assert state(model) == before


def test_batches_for_nothing() -> None:
    model = Net()
    before = state(model)
    for fusion in (ws.mean, ws.through(ws.mean)):
        with pytest.raises(SpecError, match="reads no batches"):
            ws.share_(model, ws.Tie(rate=2, fuse=fusion), batches=[torch.zeros(2, 3)])
    assert state(model) == before


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_inputs_without_bound_are_refused(number: float) -> None:
    model = Net()
    before = state(model)
    with pytest.raises(SpecError, match="finite"):
        ws.share_(model, ws.Tie(rate=2, fuse=least_squares), batches=[torch.full((2, 3), number)])
    assert state(model) == before


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_ridges_that_are_none(ridge: Any) -> None:
    with pytest.raises(SpecError, match="ridge"):
        LeastSquares(ridge)
