"""Comparisons: what lies in the same memory, and how far outputs are apart."""

import math

import pytest
import torch
from torch import nn

from weightshare.surgery.compare import error_text, output_error, overlap, ratio, same_bits


def test_what_lies_in_the_same_memory_is_named() -> None:
    held = torch.zeros(4, 6)
    assert overlap({"b": held[2:], "a": held[:2]}) is None
    assert overlap({"a": held[:3], "b": held[2:]}) == ("a", "b")
    assert overlap({"even": held[:, ::2], "odd": held[:, 1::2]}) == ("even", "odd")
    assert overlap({"a": held, "the same object": held}) is None


def test_what_has_no_memory_lies_nowhere() -> None:
    held = torch.zeros(3)
    for one in (torch.empty(3, device="meta"), held[:0], torch.zeros(3).to_sparse()):
        other = one.detach()
        assert overlap({"a": one, "b": other}) is None


@pytest.mark.parametrize("kind", [torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.complex128])
def test_bits_are_compared_whatever_they_mean(kind: torch.dtype) -> None:
    left = torch.arange(5).to(kind)
    assert same_bits(left, left.clone())
    assert same_bits(left[::2], left[::2].clone())
    assert not same_bits(left, left.flip(0))
    if kind.is_floating_point:
        assert same_bits(left * math.nan, left * math.nan)
        assert not same_bits(torch.zeros(3, dtype=kind), -torch.zeros(3, dtype=kind))
    assert not same_bits(torch.zeros(3, dtype=torch.float16), torch.zeros(3))
    assert not same_bits(torch.zeros(3), torch.zeros(3, dtype=torch.float16))


def test_an_error_is_over_all_numbers_of_an_output() -> None:
    before = {"a": torch.tensor([3.0, 0.0]), "b": [torch.tensor([4.0]), torch.tensor([7]), torch.zeros(0)], "c": "text"}
    after = {"a": torch.tensor([3.0, 1.0]), "b": [torch.tensor([4.0]), torch.tensor([9]), torch.zeros(0)], "c": "text"}
    assert output_error(before, after) == pytest.approx(0.2)
    assert output_error(before, before) == 0.0
    assert output_error([torch.tensor([1])], [torch.tensor([2])]) is None
    with pytest.raises(ValueError, match="shorter"):
        output_error([torch.ones(1), torch.ones(1)], [torch.ones(1)])
    assert output_error(torch.zeros(2), torch.zeros(2)) == 0.0
    assert output_error(torch.zeros(2), torch.ones(2)) == math.inf
    assert ratio(0.25, 4.0) == 0.25


def test_errors_in_a_table() -> None:
    assert [error_text(error) for error in (None, 0.0, 0.012345)] == ["", "equal", "1.23e-02"]


def test_halves_are_compared_in_double() -> None:
    left = nn.Parameter(torch.full((1,), 1.0, dtype=torch.float16))
    assert output_error(left, left.detach() + 2**-10) == pytest.approx(2**-10)
