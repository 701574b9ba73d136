"""Loops in a chain: found by search, against all ways that there are; the modules that run them."""

import copy
import io
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from weightshare.depth.kinds import parallel
from weightshare.depth.loops import Looped, Run, Scaled, find_loops, loop_text


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def best(labels: str) -> tuple[int, int]:
    """Of all ways to cut a chain: the most blocks saved, and then the fewest runs, negative."""
    if not labels:
        return 0, 0
    found = []
    for length in range(1, len(labels) + 1):  # a run that is no loop
        saved, runs = best(labels[length:])
        found.append((saved, runs - 1))
        passes = 2
        while labels[: length * passes] == labels[:length] * passes and length * passes <= len(labels):
            saved, runs = best(labels[length * passes :])
            found.append((saved + (passes - 1) * length, runs - 1))
            passes += 1
    return max(found)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6])
def test_no_way_saves_more(length: int) -> None:
    for letters in product("abc", repeat=length):
        labels = "".join(letters)
        runs = find_loops(labels)
        assert "".join(labels[at] for run in runs for at in run.blocks) == labels
        assert all(
            labels[run.start : run.start + run.length] * run.passes
            == labels[run.start : run.start + run.length * run.passes]
            for run in runs
        )
        assert (sum((run.passes - 1) * run.length for run in runs), -len(runs)) == best(labels)


def test_a_long_chain_is_cut_at_once() -> None:
    labels = ["in", *["a", "b"] * 60, "c", *["d"] * 70, "out"]
    assert find_loops(labels) == (Run(0, 1), Run(1, 2, 60), Run(121, 1), Run(122, 1, 70), Run(192, 1))
    assert loop_text([str(at) for at in range(193)], find_loops(labels)) == "0 → 60 × (1 → 2) → 121 → 70 × (122) → 192"


def chain() -> tuple[nn.Sequential, Looped]:
    """`a b c b c d`, once as a plain chain and once as a loop; the second `b` and `c` have biases of their own."""
    blocks = {name: nn.Linear(5, 5) for name in ("a", "b", "c", "again", "last", "d")}
    blocks["again"].weight, blocks["last"].weight = blocks["b"].weight, blocks["c"].weight
    plain = nn.Sequential()
    for name, block in blocks.items():
        plain.add_module(name, block)
    return plain, Looped(blocks, [Run(0, 1), Run(1, 2, passes=2), Run(5, 1)])


def test_a_loop_runs_as_the_chain_does() -> None:
    plain, looped = chain()
    x = torch.randn(3, 5)
    assert torch.equal(looped(x), plain(x))
    assert looped.extra_repr() == "a → 2 × (b → c) → d"
    assert sum(tensor.numel() for tensor in looped.parameters()) == 4 * 25 + 6 * 5
    assert looped.state_dict().keys() == plain.state_dict().keys()
    assert len(looped) == 6
    assert looped[3] is plain[3]
    assert torch.equal(looped[1:3](x), plain[1:3](x))


def test_a_loop_is_copied_pickled_exported_and_compiled() -> None:
    _, looped = chain()
    x = torch.randn(3, 5)
    wanted = looped(x)
    twin = copy.deepcopy(looped)
    assert twin[1].weight is twin[3].weight
    stream = io.BytesIO()
    torch.save(looped, stream)
    stream.seek(0)
    read = torch.load(stream, weights_only=False)
    exported = torch.export.export(looped, (x,)).module()
    compiled = torch.compile(looped, backend="aot_eager", fullgraph=True)
    for model in (twin, read, exported, compiled):
        torch.testing.assert_close(model(x), wanted)


SCALED = {
    "linear": (lambda: nn.Linear(5, 3), (2, 5)),
    "positions": (lambda: nn.Linear(5, 3), (2, 7, 5)),
    "no bias": (lambda: nn.Linear(5, 3, bias=False), (2, 5)),
    "conv1d": (lambda: nn.Conv1d(5, 3, 2), (2, 5, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="reflect"), (2, 4, 5, 7)),
    "one image": (lambda: nn.Conv2d(5, 3, 2, stride=2), (5, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 5, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(5, 3, 2, stride=2), (2, 5, 3, 7)),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("factor", [-1.0, 2.5])
def test_a_scaled_layer_is_the_layer_of_a_scaled_weight(name: str, factor: float) -> None:
    make, shape = SCALED[name]
    layer = make().double()
    wanted = copy.deepcopy(layer)
    with torch.no_grad():
        wanted.weight.mul_(factor)
    assert Scaled.fits(layer)
    scaled = Scaled(layer, nn.Parameter(torch.tensor(factor).double()))
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(scaled(x), wanted(x))
    torch.testing.assert_close(scaled.weight, wanted.weight)
    scaled(x).square().sum().backward()
    wanted(x).square().sum().backward()
    torch.testing.assert_close(scaled.layer.weight.grad, factor * wanted.weight.grad)
    torch.testing.assert_close(scaled.scale.grad, (wanted.weight.grad * wanted.weight).sum() / factor)
    biases = [one.bias if one.bias is None else one.bias.grad for one in (scaled, wanted)]
    torch.testing.assert_close(*biases) if wanted.bias is not None else None
    assert (scaled.bias is None) == (wanted.bias is None)


class Standardised(nn.Conv2d):
    """Takes no notice of the size of its weight, so a factor has nothing to stand for."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


@pytest.mark.parametrize("layer", [Standardised(2, 2, 1), nn.Embedding(3, 2), nn.MultiheadAttention(4, 2)])
def test_layers_that_are_not_linear_in_their_weight(layer: nn.Module) -> None:
    assert not Scaled.fits(layer)


def test_kinds_are_parallel_each_to_each() -> None:
    """The first and the third are close to the second, and not to each other."""
    angles = torch.tensor([0.0, 0.08, 0.16, 3.2, 1.5])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    cosines = rows @ rows.mT
    assert parallel(cosines, 0.995) == [0, 0, 1, 0, 2]
    assert parallel(cosines, 0.9) == [0, 0, 0, 0, 1]
    assert parallel(cosines, 0.0) == [0, 0, 0, 0, 0]
    cosines[1] = cosines[:, 1] = float("nan")  # a row of zeros has no direction
    assert parallel(cosines, 0.0) == [0, 1, 0, 0, 0]
