"""Distinct values of a tensor, whatever its dtype."""

import pytest
import torch
from torch import nn

from weightshare.surgery.count import distinct, distinct_up_to, distinct_values

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_both_signs_are_one_value(dtype: torch.dtype) -> None:
    assert distinct(torch.tensor([0.0, -0.0, 1.0, -1.0, 1.0], dtype=dtype)) == 3


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_repeated_nan_is_one_value(dtype: torch.dtype) -> None:
    assert distinct(torch.tensor([float("nan"), float("nan"), float("inf"), 2.0], dtype=dtype)) == 3


@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbouring_numbers_are_two_values(dtype: torch.dtype) -> None:
    one = torch.ones(1, dtype=dtype)
    assert distinct(torch.cat([one, one + torch.finfo(dtype).eps, one])) == 2


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers(dtype: torch.dtype) -> None:
    assert distinct(torch.tensor([1 + 2j, 1 - 2j, 1 + 2j, 0j, complex(-0.0, 0.0)], dtype=dtype)) == 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
def test_integers(dtype: torch.dtype) -> None:
    assert distinct(torch.tensor([3, 5, 3, 7], dtype=dtype)) == 3


def test_truth_values() -> None:
    assert distinct(torch.tensor([True, False, True])) == 2


def test_eight_bit_floats() -> None:
    assert distinct(torch.tensor([1.0, 1.0, 2.0, 3.0]).to(torch.float8_e4m3fn)) == 3


def test_any_shape_and_stride() -> None:
    assert distinct(torch.arange(6.0).reshape(2, 3).T) == 6


def test_no_number_has_no_value() -> None:
    assert distinct(torch.empty(0)) == 0


def test_a_shared_tensor_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [2.0, 3.0]])
    model[1].weight = model[0].weight
    assert distinct_values(model) == 3


def test_values_are_counted_tensor_by_tensor() -> None:
    model = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))])
    assert distinct_values(model) == 2


@pytest.mark.parametrize("most", [1, 3, 5, 200])
def test_the_count_goes_no_further_than_is_asked(most: int) -> None:
    for found in (1, 3, 60):
        tensor = torch.arange(240).remainder(found).float()
        assert distinct_up_to(tensor, most) == min(found, most)
        assert distinct_up_to(tensor.sort().values, most) == min(found, most)
    assert distinct_up_to(torch.zeros(0), most) == 0
