"""Assignments: every slot has a reader, and the labels say it all."""

import pytest
import torch

from weightshare import SharingError
from weightshare.sharing import Assignment


def test_slots_and_readers() -> None:
    assignment = Assignment.of([0, 1, 0, 2, 1])
    assert len(assignment) == 5
    assert assignment.slots == 3
    assert assignment.readers == ((0, 2), (1, 4), (3,))


def test_the_matrix_has_one_entry_a_row() -> None:
    assignment = Assignment.of([0, 1, 0])
    assert assignment.matrix.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_items_read_their_slot_through_the_matrix() -> None:
    slots = torch.randn(3, 7)
    labels = [2, 0, 1, 0]
    torch.testing.assert_close(Assignment.of(labels).matrix @ slots, slots[labels])


def test_assignments_are_values() -> None:
    assert Assignment.of([0, 1, 0]) == Assignment(torch.tensor([0, 1, 0])) != Assignment.of([0, 1, 1])
    assert hash(Assignment.of([0, 1, 0])) == hash(Assignment(torch.tensor([0, 1, 0])))
    assert Assignment.of([0]) != Assignment.of([0, 0])
    assert Assignment.of([0]) != (0,)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "non-empty"),
        ([1], "Slot 0 has no reader"),
        ([0, 2, 3], "Slot 1 has no reader"),
        ([0, -1], "Slots count from 0"),
        pytest.param([2**62, 0], "Slot 1 has no reader", id="more slots than memory"),
        pytest.param([10**30, 0], "Slot 1 has no reader", id="beyond int64"),
    ],
)
def test_a_list_with_a_hole_is_refused(labels: list[int], message: str) -> None:
    with pytest.raises(SharingError, match=message):
        Assignment.of(labels)


@pytest.mark.parametrize("labels", [[0.5, 1.0], ["0"], [None], [[0, 1]]])
def test_slots_are_whole_numbers(labels: list[object]) -> None:
    with pytest.raises(SharingError):
        Assignment.of(labels)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1], dtype=torch.int32), torch.tensor([[0]]), torch.tensor([0.0])])
def test_a_tensor_of_labels_is_a_row_of_int64(labels: torch.Tensor) -> None:
    with pytest.raises(SharingError, match="non-empty row of int64"):
        Assignment(labels)
