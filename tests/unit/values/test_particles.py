"""Granularity: which weights of a parameter meet, on layers of every kind."""

import pytest
import torch
from torch import nn

from tests.particles import exact
from tests.support import bits
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values import proximal
from weightshare.values.particles import Particles

LAYERS = {
    "linear": lambda: nn.Linear(5, 7),
    "conv1d": lambda: nn.Conv1d(3, 5, 7),
    "conv2d": lambda: nn.Conv2d(3, 5, (2, 7)),
    "grouped": lambda: nn.Conv2d(6, 10, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(7, 7, 3, groups=7),
    "conv3d": lambda: nn.Conv3d(2, 3, (2, 3, 5)),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, (2, 7)),
    "transposed, grouped": lambda: nn.ConvTranspose2d(6, 10, 3, groups=2),
    "channels last": lambda: nn.Conv2d(3, 5, (2, 7)).to(memory_format=torch.channels_last),
}
CONVOLUTIONS = [name for name in LAYERS if name != "linear"]


def units(layer: nn.Module, index: torch.Tensor) -> list[torch.Tensor]:
    """The weights of each output unit, found by asking which of them change what it computes: the slow twin."""
    weight = layer.weight
    sides = () if isinstance(layer, nn.Linear) else (8,) * (weight.ndim - 2)
    channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    example = torch.rand(1, channels, *sides) + 0.5
    with torch.no_grad():
        layer.bias.zero_()
    outputs = layer(example).transpose(0, 1).flatten(1).sum(1) if sides else layer(example)[0]
    return [index[torch.autograd.grad(out, weight, retain_graph=True)[0] != 0] for out in outputs]


def alone(layer: nn.Module, granularity, strength: float = 0.3) -> torch.Tensor:
    """The layer's weight after one step of the map."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    ws.Proximal(strength, granularity=granularity).attach_(optimizer, layer, where="weight")
    optimizer.step()
    return layer.weight.detach()


def check_problems(layer: nn.Module, granularity, problems) -> None:
    start = layer.weight.detach().double().clone()
    got = alone(layer, granularity)
    assert sum(len(problem) for problem in problems) == start.numel()
    for problem in problems:
        wanted = exact(start.flatten()[problem], 0.03)
        assert torch.allclose(got.flatten()[problem].double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_the_weights_of_one_output_unit(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    index = torch.arange(layer.weight.numel()).view(layer.weight.shape)
    problems = units(layer, index)
    assert len({len(problem) for problem in problems}) == 1
    check_problems(layer, "row", problems)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_filter_is_the_row_of_a_convolution(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    twin = LAYERS[name]()
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(alone(layer, "filter"), alone(twin, "row"))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_taps_are_the_weights_at_one_offset(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    index = torch.arange(layer.weight.numel()).view(layer.weight.shape)
    check_problems(layer, "tap", index.flatten(2).permute(2, 0, 1).flatten(1))


@pytest.mark.parametrize("sort_free", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_one_problem(name, sort_free, monkeypatch):
    monkeypatch.setattr(proximal, "SORT_FREE_FROM", 1 if sort_free else 1 << 62)
    torch.manual_seed(0)
    layer = LAYERS[name]()
    start = layer.weight.detach().clone()
    got = alone(layer, "layer")
    assert torch.allclose(got.double(), exact(start, 0.03).view(start.shape), rtol=0, atol=1e-4)
    assert got.stride() == start.stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_index_tensors_move_what_they_name_and_nothing_else(layout):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, (2, 7)).to(memory_format=layout)
    start = layer.weight.detach().flatten()
    groups = [
        torch.tensor([0, 17, 44, 3]),
        torch.tensor([], dtype=torch.int64),
        torch.arange(100, 207, dtype=torch.int32),
    ]
    got = alone(layer, groups, strength=3.0).flatten()
    named = torch.cat(groups).long()
    others = torch.ones(210, dtype=torch.bool).index_fill(0, named, False)
    assert bits(got[others]) == bits(start[others])
    for group in (groups[0], groups[2].long()):
        assert torch.allclose(got[group].double(), exact(start[group], 0.3), rtol=0, atol=1e-6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    clusters = ws.Proximal(9.0, granularity=groups).attach_(optimizer, layer, where="weight").finish()["weight"]
    assert bool((clusters.flatten()[others] == -1).all())
    assert clusters.flatten()[groups[0]].tolist() == [0] * 4
    assert clusters.flatten()[groups[2].long()].tolist() == [1] * 107


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([torch.tensor([0, 35])], "indices go from 0 to 35, 'weight' has 35"),
        ([torch.tensor([-1])], "indices go from -1"),
        ([torch.tensor([0, 1]), torch.tensor([1])], "in two groups"),
        ([torch.tensor([2, 2])], "in two groups"),
        ([torch.tensor([0.5])], "need one row of integers"),
        ([torch.tensor([True])], "need one row of integers"),
        ([torch.tensor([[1]])], "need one row of integers"),
    ],
)
def test_index_tensors_that_are_wrong(groups, said):
    layer = nn.Linear(5, 7)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(SpecError, match=said):
        ws.Proximal(1.0, granularity=groups).attach_(optimizer, layer, where="weight")
    assert not optimizer._optimizer_step_post_hooks


def test_what_does_not_fit_a_parameter():
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match="index tensors are for one parameter"):
        ws.Proximal(1.0, granularity=[torch.tensor([0])]).attach_(optimizer, model)
    for name in ("filter", "tap"):
        with pytest.raises(SpecError, match=r"'0.weight' \(7, 5\) has no kernel"):
            ws.Proximal(1.0, granularity=name).attach_(optimizer, model)
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (0,), (1,)])
@pytest.mark.parametrize("granularity", ["layer", "row"])
def test_empty_and_single_weights(shape, granularity):
    particles = Particles("w", shape, None, granularity)
    w = torch.ones(shape)
    assert particles.read(w).numel() == w.numel()
    particles.write(w, torch.full((w.numel(),), 2.0))
    assert bool((w == 2).all())
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(shape))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(1.0, granularity=granularity).attach_(optimizer, model, where="w")
    optimizer.step()
    assert handle.finish()["w"].shape == shape
    assert handle.measure()["w"]["weights"] == w.numel()


def test_autograd_knows_that_a_weight_was_moved():
    layer = nn.Linear(5, 7)
    kept = layer.weight.square().sum()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    ws.Proximal(1.0).attach_(optimizer, layer)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()
