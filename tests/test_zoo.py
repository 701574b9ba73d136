"""The zoo itself: every module runs on its example, so a test that uses it tests the library and not the zoo."""

from collections.abc import Callable

import pytest
import torch

from tests.support import output, same_bits, state
from tests.zoo import SHAREABLE, Case, chain, lazy


@pytest.mark.parametrize("make", [*SHAREABLE.values(), lazy])
def test_every_module_runs_on_its_example(make: Callable[[], Case]) -> None:
    model, example = make()
    assert torch.isfinite(output(model, example)).all()


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
