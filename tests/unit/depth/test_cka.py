"""Linear CKA against the equations written out, and what it must not depend on."""

from collections.abc import Sequence
import math

import pytest
import torch
from torch import Tensor, nn

from tests.support import state
from weightshare.depth.cka import centred, cka
from weightshare.errors import NoMatch, SpecError


def hsic(k: Tensor, m: Tensor) -> float:
    """Song 2012, eq. 5, term by term."""
    n = len(k)
    k, m = (gram.detach().clone().fill_diagonal_(0) for gram in (k, m))
    one = torch.ones(n, dtype=k.dtype)
    terms = (
        torch.trace(k @ m),
        (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)),
        -2 / (n - 2) * (one @ k @ m @ one),
    )
    return float(sum(terms)) / (n * (n - 3))


def slow_cka(batches_x: Sequence[Tensor], batches_y: Sequence[Tensor]) -> float:
    """Nguyen 2021, eq. 2."""
    grams = [(x @ x.T, y @ y.T) for x, y in zip(batches_x, batches_y, strict=True)]
    cross, own_x, own_y = (
        sum(terms) / len(grams) for terms in zip(*((hsic(a, b), hsic(a, a), hsic(b, b)) for a, b in grams), strict=True)
    )
    return cross / math.sqrt(own_x * own_y)


def net(seed: int, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 7))


def test_every_pair_is_the_equation() -> None:
    a, b = net(0).double(), net(1, width=11).double()
    torch.manual_seed(2)
    batches = [torch.randn(13, 3, dtype=torch.float64) + 5, torch.randn(7, 3, dtype=torch.float64)]
    found = cka(a, b, batches, layers="*")
    assert found.rows == found.columns == ("0", "1", "2", "3", "4")
    for i in range(5):
        for j in range(5):
            x, y = [a[: i + 1](batch) for batch in batches], [b[: j + 1](batch) for batch in batches]
            assert found.values[i, j].item() == pytest.approx(slow_cka(x, y), rel=1e-9)


def test_centring_gives_the_unbiased_estimate() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(11, 3, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    k, m = x @ x.T, y @ y.T
    assert (centred(k) * centred(m)).sum().item() / (11 * 8) == pytest.approx(hsic(k, m), rel=1e-12)
    torch.testing.assert_close(centred(k).sum(0), torch.zeros(11, dtype=torch.float64))


def test_it_is_unbiased_where_the_biased_one_is_not() -> None:
    """Independent wide representations of few examples: the usual estimate is near 1, this one near 0."""
    torch.manual_seed(0)
    x, y = torch.randn(300, 11, 211, dtype=torch.float64), torch.randn(300, 11, 211, dtype=torch.float64)
    unbiased = [hsic(a @ a.T, b @ b.T) for a, b in zip(x, y, strict=True)]
    own = sum(hsic(a @ a.T, a @ a.T) for a in x) / 300
    assert abs(sum(unbiased) / 300) < 0.01 * own


def test_rotations_and_scales_of_a_layer_are_the_same() -> None:
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(5, 5))[0]
    a = nn.Sequential(nn.Identity(), nn.Linear(5, 5, bias=False), nn.Linear(5, 5))
    with torch.no_grad():
        a[1].weight.copy_(3 * rotation)
        a[2].weight.copy_(torch.diag(torch.tensor([9.0, 1.0, 0.0, 0.0, 0.0])))
    found = cka(a, a, [torch.randn(53, 5) for _ in range(5)], layers="*")
    torch.testing.assert_close(found.values.diagonal(), torch.ones(3, dtype=torch.float64))
    assert found.values[0, 1].item() == pytest.approx(1, abs=1e-5)
    assert found.values[0, 2].item() < 0.8


def test_batches_of_other_sizes_agree() -> None:
    a, b = net(0), net(1)
    torch.manual_seed(2)
    images = torch.randn(1680, 3)
    small, large = (cka(a, b, images.split(size), layers=["2", "4"]).values for size in (16, 560))
    torch.testing.assert_close(small, large, rtol=0, atol=0.02)


def test_blocks_by_default_in_order_and_positions_are_features() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(12)))
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 2, 1), "blocks": blocks})
    model.forward = lambda x: model["blocks"](model["stem"](x))
    images = torch.randn(5, 3, 7, 7)
    found = cka(model, model, [images])
    assert found.rows == tuple(f"blocks.{index}" for index in range(12))
    x, y = blocks[:1](model["stem"](images)).flatten(1), blocks[:2](model["stem"](images)).flatten(1)
    assert found.values[0, 1].item() == pytest.approx(slow_cka([x.double()], [y.double()]), rel=1e-4)
    assert str(found).startswith("linear CKA: 12 × 12 layers, from ")


def test_a_layer_that_runs_twice_is_two() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    loop = nn.Sequential(layer, nn.Tanh(), layer)
    plain = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    plain[0].weight, plain[0].bias, plain[2].weight, plain[2].bias = layer.weight, layer.bias, layer.weight, layer.bias
    batch = torch.randn(11, 3)
    found = cka(loop, plain, [batch], layers=nn.Linear)
    assert found.rows == found.columns == ("0", "2")
    torch.testing.assert_close(found.values.diagonal(), torch.ones(2, dtype=torch.float64))


def test_the_network_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].eval()
    before = state(model)
    cka(model, model, [torch.randn(5, 3)], layers="*")
    assert state(model) == before
    with pytest.raises(SpecError):
        cka(model, model, [torch.randn(5, 2)], layers="*")
    assert state(model) == before
    assert [module.training for module in model] == [True, True, False]


def test_constant_outputs_have_no_similarity() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.init.zeros_(model[1].weight)
    found = cka(model, model, [torch.randn(5, 3)], layers="*").values
    assert found.isnan().tolist() == [[False, True], [True, True]]


class Odd(nn.Module):
    """Gives what no measure takes."""

    def __init__(self, gives: object) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, x: Tensor) -> object:
        return self.gives


@pytest.mark.parametrize(
    ("model", "batches", "text"),
    [
        (net(0), [torch.randn(5, 2)], "cannot run on batch 0"),
        (
            net(0),
            [(torch.randn(5, 3), torch.zeros(5))],
            "of inputs and labels, give the inputs alone",
        ),
        (net(0), [torch.randn(5, 3), "images"], "cannot run on batch 1"),
        (net(0), [7], "batch 0 is of type int"),
        (net(0), [torch.randn(3, 3)], "batches of 4 examples or more"),
        (net(0), [], "no batch"),
        (nn.Sequential(nn.Linear(3, 3), Odd("text")), [torch.randn(5, 3)], "gives str"),
        (nn.Sequential(nn.Linear(3, 3), Odd(torch.zeros(5, 2).long())), [torch.randn(5, 3)], "torch.int64"),
        (
            nn.Sequential(nn.Linear(3, 3), nn.Flatten(0, 1)),
            [torch.randn(5, 3)],
            "gives 15 examples where others",
        ),
    ],
)
def test_what_cannot_be_compared_is_an_error(model: nn.Module, batches: list[object], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        cka(model, model, batches, layers="*")


def test_networks_of_other_batches_and_patterns_are_errors() -> None:
    a = net(0)
    b = nn.Sequential(nn.Linear(3, 3), nn.Unflatten(0, (5, 2)))
    with pytest.raises(SpecError, match="10 and 5 examples"):
        cka(a, b, [torch.randn(10, 3)], layers="*", layers_b="1")
    with pytest.raises(NoMatch, match="matches no module"):
        cka(a, a, [torch.randn(5, 3)], layers="blocks.*")
    with pytest.raises(NoMatch, match="no repeated blocks"):
        cka(nn.Linear(3, 5), a, [torch.randn(5, 3)])
