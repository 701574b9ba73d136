"""What is measured is what the slow formulas say of the weight that is read."""

import pytest
import torch
from torch import nn

from tests.support import state
from tests.zoo import buffers, chain, complex_weights, parametrized
import weightshare as ws
from weightshare.errors import NoMatch, SpecError
from weightshare.values.measure import value_sharing


def few(shape: tuple[int, ...], values: int) -> torch.Tensor:
    return torch.randint(values, shape) / 8 - 0.25


def test_rows_are_what_the_definitions_say() -> None:
    net = nn.Sequential(nn.Linear(11, 13), nn.Conv2d(3, 5, (2, 7)))
    for layer, values in zip(net, (5, 3), strict=True):
        layer.weight = nn.Parameter(few(tuple(layer.weight.shape), values))
    rows = value_sharing(net)
    assert [row.path for row in rows] == ["0.weight", "1.weight"]
    for row, layer in zip(rows, net, strict=True):
        w = layer.weight.detach().reshape(-1).double()
        assert row.numel == len(w)
        assert row.distinct == len(set(w.tolist()))
        assert row.zeros == sum(x == 0 for x in w.tolist()) / len(w)
        assert row.penalty == pytest.approx(float(torch.pdist(w[:, None], 1).sum()) / (len(w) - 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zeros_of_both_signs_are_one_value(dtype: torch.dtype) -> None:
    net = nn.Linear(5, 3, bias=False)
    net.weight = nn.Parameter(torch.tensor([[0.0, -0.0, 2.0, 2.0, 0.0]] * 3, dtype=dtype))
    (row,) = value_sharing(net)
    assert (row.distinct, row.zeros) == (2, 0.6)


def test_norms_biases_and_buffers_are_left_out() -> None:
    assert [row.path for row in value_sharing(buffers().model)] == ["0.weight", "2.weight", "4.weight", "6.weight"]


def test_a_pattern_may_name_a_bias() -> None:
    rows = value_sharing(chain().model, where="blocks.*.fc1")
    assert [row.path.rpartition(".")[2] for row in rows] == ["weight", "bias"] * 6


def test_a_clustered_weight_is_measured_as_it_is_read() -> None:
    model, _ = chain()
    before = {row.path: row for row in value_sharing(model)}
    ws.share_(model, ws.Codebook(clusters=3))
    held = state(model)
    rows = value_sharing(model)
    assert {row.path for row in rows} == set(before)
    assert {row.distinct for row in rows} == {3}
    assert state(model) == held
    assert {row.path: row for row in value_sharing(ws.fold(model))} == {row.path: row for row in rows}


def test_tied_weights_are_measured_once() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "blocks")
    assert len(value_sharing(model)) == 2 + 2 * 3


@pytest.mark.parametrize("make", [complex_weights, parametrized])
def test_nothing_to_measure(make) -> None:
    with pytest.raises(NoMatch, match=r"no parameter|is a weight of real numbers"):
        value_sharing(make().model)


def test_numbers_that_are_none() -> None:
    with pytest.raises(SpecError, match="meta"):
        value_sharing(nn.Linear(5, 3, device="meta"))
    net = nn.Linear(5, 3)
    net.weight.data[1, 1] = float("nan")
    with pytest.raises(SpecError, match="NaN"):
        value_sharing(net)
