"""The zoo itself: every module runs on its example, so a test that uses it tests the library and not the zoo."""

from collections.abc import Callable

import pytest
import torch

from tests.support import output, same_bits, state
from tests.zoo import (
    ZOO,
    Case,
    Tagged,
    chain,
    channels_last,
    complex_weights,
    double,
    frozen,
    half,
    scalars,
    subclass,
    transposed,
    unused,
)


@pytest.mark.parametrize("make", ZOO.values())
def test_every_module_runs_on_its_example(make: Callable[[], Case]) -> None:
    model, example = make()
    assert torch.isfinite(output(model, example)).all()


@pytest.mark.parametrize(
    ("make", "holds"),
    [
        (half, lambda tensor: tensor.dtype == torch.bfloat16),
        (double, lambda tensor: tensor.dtype == torch.float64),
        (complex_weights, lambda tensor: tensor.dtype == torch.complex64),
        (frozen, lambda tensor: not tensor.requires_grad),
        (scalars, lambda tensor: tensor.ndim == 0),
        (scalars, lambda tensor: tensor.shape == (1,)),
        (transposed, lambda tensor: not tensor.is_contiguous()),
        (channels_last, lambda tensor: not tensor.is_contiguous()),
        (subclass, lambda tensor: type(tensor) is Tagged),
    ],
)
def test_every_module_has_what_its_name_says(make: Callable[[], Case], holds: Callable[[torch.Tensor], bool]) -> None:
    """In the layers of every block, so that sharing meets it."""
    assert len([tensor for tensor in make().model.parameters() if holds(tensor)]) >= 4


def test_the_unused_parameters_get_no_gradient() -> None:
    model, example = unused()
    model(example).sum().backward()
    assert {name.partition(".")[2] for name, p in model.named_parameters() if p.grad is None} == {
        "unused.weight",
        "unused.bias",
    }


def test_state_sees_one_changed_bit() -> None:
    model, _ = chain()
    before = state(model)
    with torch.no_grad():
        model.stem.weight[0, 0] *= -1
    assert state(model) != before


def test_state_sees_a_replaced_object() -> None:
    model, _ = chain()
    before = state(model)
    model.stem.weight = torch.nn.Parameter(model.stem.weight.detach().clone())
    assert state(model) != before


def test_state_sees_an_attribute_and_a_gradient() -> None:
    model, _ = chain()
    before = state(model)
    model.stem.note = "new"
    with_attribute = state(model)
    model.stem.weight.grad = torch.zeros_like(model.stem.weight)
    assert before != with_attribute != state(model)


def test_same_bits_tells_zeros_apart() -> None:
    assert not same_bits([torch.tensor(0.0)], [torch.tensor(-0.0)])
