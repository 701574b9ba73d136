"""Signal to noise: exact where all is shared, in float64 inside, and what it refuses."""

import pytest
import torch

from weightshare.errors import SpecError
from weightshare.space.measure import snr


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, -1e-3, 3.3e4])
def test_equal_neurons_are_infinite_to_the_bit(dtype, value):
    w = torch.full((97, 3), value).to(dtype)
    assert snr(w).tolist() == float("inf")
    w[89] = value / 2
    assert 0 < float(snr(w)) < float("inf")


def test_one_input_that_is_shared_is_enough_for_infinity():
    w = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    w[:, 1] = 0.1
    assert float(snr(w)) == float("inf")
    assert float(snr(w[:, ::2])) < float("inf")


def test_zeros_count_as_shared_and_a_mean_of_zero_does_not():
    assert float(snr(torch.zeros(5, 3))) == float("inf")
    assert float(snr(torch.tensor([[1.0], [-1.0]]))) == 0
    assert float(snr(torch.ones(1, 3))) == float("inf")


def test_it_is_computed_in_float64():
    w = torch.tensor([[1.0, 2.0], [1.0 + 2**-23, 2.0 + 2**-22]])
    assert snr(w).dtype == torch.float64
    assert float(snr(w)) == pytest.approx(2.0**48, rel=1e-6)


def test_neither_order_nor_scale_matters():
    w = 1 + torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(snr(w.flip(-2)), snr(w), rtol=1e-12)
    assert torch.allclose(snr(-7 * w), snr(w), rtol=1e-12)
    assert snr(w).shape == (2,)
    assert snr(w[:0]).shape == (0,)


def test_a_weight_that_is_no_number_gives_none():
    w = torch.ones(2, 5, 3)
    w[1, 2, 0] = float("nan")
    assert snr(w)[0] == float("inf")
    assert snr(w).isnan().tolist() == [False, True]


@pytest.mark.parametrize("w", [torch.ones(3), torch.ones(0, 3), torch.ones(3, 0), torch.ones(3, 2).int(), [[1.0]]])
def test_what_is_no_layer_is_refused(w):
    with pytest.raises(SpecError, match="snr needs"):
        snr(w)
