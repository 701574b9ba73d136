"""Fusions against their formulas, written out in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.support import bits, python
from weightshare import first, mean, weighted_mean
from weightshare.depth.fuse import Fusion
from weightshare.errors import SpecError

FACTORS = (0.5, -2.0, 3.0, 0.25, 1.0, 7.0, -0.125)
LAYERS = (1, 2, 5)
FUSIONS = [first, mean, weighted_mean([1.0] * 7)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


def stacked(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(len(LAYERS), *shape, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)


def exact(weights: Tensor, factors: Sequence[float]) -> Tensor:
    """`1/r Σ a_i W_i`, one term after the other, in double precision."""
    total = torch.zeros(weights.shape[1:], dtype=torch.complex128 if weights.is_complex() else torch.float64)
    for factor, weight in zip(factors, weights, strict=True):
        total = total + factor * weight.to(total.dtype)
    return total / len(weights)


def test_first_is_the_first_reader() -> None:
    weights = stacked(3, 5)
    assert torch.equal(first(weights, LAYERS, 7), weights[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_is_rounded_once(dtype: torch.dtype) -> None:
    weights = stacked(3, 5, dtype=dtype)
    found = mean(weights, LAYERS, 7)
    torch.testing.assert_close(found, exact(weights, [1, 1, 1]).to(dtype), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_mean_takes_the_factor_of_each_layer(dtype: torch.dtype) -> None:
    weights = stacked(3, 5, dtype=dtype)
    expected = exact(weights, [FACTORS[layer] for layer in LAYERS]).to(dtype)
    torch.testing.assert_close(
        weighted_mean(FACTORS)(weights, LAYERS, 7), expected, rtol=float(torch.finfo(dtype).eps), atol=1e-15
    )


def test_weighted_mean_is_not_normalised() -> None:
    weights = stacked(3, 5)
    twice = weighted_mean([2.0] * 7)(weights, LAYERS, 7)
    torch.testing.assert_close(twice, 2 * mean(weights, LAYERS, 7))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_weighted_mean_of_biases_is_the_plain_mean(shape: tuple[int, ...]) -> None:
    weights = stacked(*shape)
    assert torch.equal(weighted_mean(FACTORS)(weights, LAYERS, 7), mean(weights, LAYERS, 7))


@pytest.mark.parametrize("fusion", [first, mean])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("readers", [2, 3, 5, 7])
def test_equal_weights_fuse_to_themselves_bit_for_bit(fusion: Fusion, dtype: torch.dtype, readers: int) -> None:
    weight = stacked(11, 13, dtype=dtype)[0]
    fused = fusion(torch.stack([weight] * readers), range(readers), 7)
    assert bits(fused) == bits(weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_equal_weights_with_factors_of_one_fuse_to_themselves(dtype: torch.dtype) -> None:
    weight = stacked(11, 13, dtype=dtype)[0]
    fused = weighted_mean([1.0] * 7)(torch.stack([weight] * 3), LAYERS, 7)
    assert bits(fused) == bits(weight)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_weights_are_not_changed_and_not_shared(fusion: Fusion) -> None:
    weights = stacked(3, 5)
    before = weights.clone()
    fused = fusion(weights, LAYERS, 7)
    fused.add_(1)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_and_shape_stay(fusion: Fusion, dtype: torch.dtype) -> None:
    fused = fusion(stacked(2, 3, 5, dtype=dtype), LAYERS, 7)
    assert (fused.dtype, fused.shape) == (dtype, (2, 3, 5))


def test_large_halves_do_not_overflow_on_the_way() -> None:
    weights = torch.full((3, 5), 60000.0, dtype=torch.float16)
    assert torch.equal(mean(weights, LAYERS, 7), weights[0])


@pytest.mark.parametrize("shape", [(3, 5), (5,)])
def test_one_factor_for_each_layer_of_the_group(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="weighted_mean has 3 weights, the group has 7 layers"):
        weighted_mean([1.0, 2.0, 3.0])(stacked(*shape), LAYERS, 7)


@pytest.mark.parametrize("factors", [[], [float("nan")], [1.0, float("inf")], [-float("inf")]])
def test_factors_are_finite(factors: list[float]) -> None:
    with pytest.raises(SpecError, match="weighted_mean needs one finite weight for each layer"):
        weighted_mean(factors)


def test_factors_that_are_no_numbers_are_refused() -> None:
    """In a Python of its own: here the shape checks would refuse them first."""
    code = """
import weightshare as ws
for factors in ([None], ["a"], 3, [[1.0, 2.0]], [10**400], [1j]):
    try:
        ws.weighted_mean(factors)
    except ws.SharingError as error:
        print(error)
"""
    lines = python(code).splitlines()
    assert len(lines) == 6
    assert all(line.startswith("weighted_mean needs one finite weight for each layer") for line in lines)


def test_a_fusion_is_printed_as_it_is_written() -> None:
    assert [repr(fusion) for fusion in (first, mean)] == ["first", "mean"]
    assert repr(weighted_mean([1.0, 2.5])) == "weighted_mean(weights=(1.0, 2.5))"
