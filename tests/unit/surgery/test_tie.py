"""Tie and untie by path: one object under several names, and back."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tests.support import bits, state
from tests.zoo import chain
from weightshare.errors import ModelChanged, ShapeMismatch
from weightshare.surgery import edit
from weightshare.surgery.edit import common_slot, parameter_at, transaction

TIE = ("blocks.0.fc1.weight", "blocks.2.fc1.weight", "blocks.3.fc1.weight")


def tie(model: nn.Module, ties: Sequence[Sequence[str]], compare: bool = True) -> list[str]:
    with transaction(model) as edits:
        return edit.tie(edits, ties, compare)


def untie(model: nn.Module, ties: Sequence[Sequence[str]]) -> None:
    with transaction(model) as edits:
        edit.untie(edits, ties)


def equal_chain() -> nn.Module:
    model, _ = chain()
    for path in TIE[1:]:
        model.get_parameter(path).data.copy_(model.get_parameter(TIE[0]))
    return model


def test_tie_keeps_the_first_paths_object() -> None:
    model = equal_chain()
    owner = model.blocks[0].fc1.weight
    assert tie(model, [TIE]) == list(TIE[1:])
    assert all(model.get_parameter(path) is owner for path in TIE)


def test_a_tie_that_holds_is_left_alone() -> None:
    model = equal_chain()
    tie(model, [TIE])
    before = state(model)
    assert tie(model, [TIE]) == []
    assert state(model) == before


def test_different_numbers_are_refused_and_nothing_changes() -> None:
    model = equal_chain()
    model.blocks[3].fc1.weight.data[0, 0] += 1
    before = state(model)
    with pytest.raises(ModelChanged, match=r"'blocks\.3\.fc1\.weight' to 'blocks\.0\.fc1\.weight'.*different numbers"):
        tie(model, [TIE])
    assert state(model) == before


def test_without_comparing_the_first_numbers_are_kept() -> None:
    model, _ = chain()
    numbers = bits(model.blocks[0].fc1.weight)
    tie(model, [TIE], compare=False)
    assert [bits(model.get_parameter(path)) for path in TIE] == [numbers] * 3


@pytest.mark.parametrize("replacement", [torch.ones(5, 7), torch.ones(7, 5, dtype=torch.float64)])
def test_another_shape_or_dtype_is_refused(replacement: torch.Tensor) -> None:
    model = equal_chain()
    model.blocks[3].fc1.weight = nn.Parameter(replacement)
    before = state(model)
    with pytest.raises(ModelChanged, match=r"got \(.*the slot holds \(7, 5\) torch\.float32"):
        tie(model, [TIE], compare=False)
    assert state(model) == before


def test_numbers_are_not_lost_to_a_tensor_without_numbers() -> None:
    model, _ = chain()
    model.blocks[0].to("meta")
    before = state(model)
    with pytest.raises(ModelChanged):
        tie(model, [TIE])
    assert state(model) == before


def test_equal_copies_with_nan_are_tied() -> None:
    model, _ = chain()
    for path in TIE:
        nn.init.constant_(model.get_parameter(path), float("nan"))
    assert tie(model, [TIE]) == list(TIE[1:])


def test_a_missing_path_is_named() -> None:
    model = equal_chain()
    before = state(model)
    with pytest.raises(ModelChanged, match=r"Sequential has no parameter 'blocks\.9\.fc1\.weight'"):
        tie(model, [TIE, ("blocks.1.fc1.weight", "blocks.9.fc1.weight")])
    assert state(model) == before


@pytest.mark.parametrize("path", ["blocks", "blocks.0.fc1", "nothing", "stem.weight.T", ""])
def test_only_parameters_are_parameters(path: str) -> None:
    model, _ = chain()
    with pytest.raises(ModelChanged, match="has no parameter"):
        parameter_at(model, path)


def test_untie_gives_equal_and_separate_parameters() -> None:
    model = equal_chain()
    tie(model, [TIE])
    owner = model.blocks[0].fc1.weight
    owner.requires_grad_(False)
    untie(model, [TIE])
    found = [model.get_parameter(path) for path in TIE]
    assert found[0] is owner
    assert len({id(tensor) for tensor in found}) == len({tensor.data_ptr() for tensor in found}) == 3
    assert {bits(tensor) for tensor in found} == {bits(owner)}
    assert not any(tensor.requires_grad for tensor in found)


def test_untie_keeps_what_hangs_on_a_parameter() -> None:
    model = equal_chain()
    tie(model, [TIE])
    model.blocks[0].fc1.weight.no_decay = "kept"
    untie(model, [TIE])
    assert [model.get_parameter(path).no_decay for path in TIE] == ["kept"] * 3


def test_untie_forgets_the_gradient_that_all_readers_gave() -> None:
    model = equal_chain()
    tie(model, [TIE])
    model.blocks[0].fc1.weight.grad = torch.ones(7, 5)
    untie(model, [TIE])
    assert all(model.get_parameter(path).grad is None for path in TIE)


def test_untie_keeps_the_gradient_of_a_slot_with_one_reader() -> None:
    model, _ = chain()
    model.stem.weight.grad = torch.ones(5, 3)
    untie(model, [("stem.weight",)])
    assert torch.equal(model.stem.weight.grad, torch.ones(5, 3))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (torch.ones(3, 2), "shape"),
        (torch.ones(2, 3, dtype=torch.float64), "dtype"),
        (torch.ones(2, 3, device="meta"), "device"),
    ],
)
def test_what_cannot_be_one_slot_is_said(other: torch.Tensor, what: str) -> None:
    with pytest.raises(ShapeMismatch, match=f"Cannot tie 'b' to 'a': got {what}"):
        common_slot(["a", "b"], [nn.Parameter(torch.ones(2, 3)), nn.Parameter(other)])


def test_a_frozen_tensor_and_a_trained_one_cannot_be_one_slot() -> None:
    tensors = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)]
    with pytest.raises(ShapeMismatch, match="got requires_grad False, the slot holds True"):
        common_slot(["a", "b"], tensors)
