"""The paper's algorithms: their worst cases are worst, and they agree."""

import pytest
import torch

from tests.particles import weights
from weightshare.values.collisions import (
    end_collisions,
    imminent_collisions,
    imminent_rounds,
    search_collisions,
)

THREE = (end_collisions, imminent_collisions, search_collisions)


def test_rounds_are_few_on_random_weights_and_many_in_the_worst_case():
    assert imminent_rounds(weights("normal", 10_007), 0.01)[1] < 20
    for kind in ("cascade", "mirror"):
        assert imminent_rounds(weights(kind, 1009), 0.1)[1] > 300


@pytest.mark.parametrize("algorithm", THREE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_shape_and_type_are_kept(algorithm, dtype):
    w = weights("normal", 105).to(dtype).view(3, 5, 7)
    z = algorithm(w, 0.05)
    assert (z.shape, z.dtype) == (w.shape, w.dtype)
    assert torch.allclose(z, THREE[0](w, 0.05), rtol=0, atol=1e-14)


@pytest.mark.parametrize("algorithm", THREE)
@pytest.mark.parametrize("shape", [(0,), (), (1,), (1, 1)])
def test_one_weight_or_none_stays(algorithm, shape):
    assert torch.equal(algorithm(torch.full(shape, 0.7), 1.0), torch.full(shape, 0.7))
