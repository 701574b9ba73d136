"""The spec `Tie`: validated when it is built, compared and printed by value."""

import pytest

from weightshare import SharingError, Tie, mean, random, strided, weighted_mean
from weightshare.depth.topology import back
from weightshare.parts import Part


@pytest.mark.parametrize(
    "rate",
    [0, -2, 0.5, float("nan"), float("inf"), -float("inf"), True, "2", [2], 1j, pytest.param(10**400, id="huge")],
)
def test_a_rate_is_a_finite_number_from_one(rate: object) -> None:
    with pytest.raises(SharingError, match="share rate"):
        Tie(rate=rate)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([], "non-empty"),
        ([0, 2], r"Slot 1 has no reader in \[0, 2\]"),
        ([1, 1], r"Slot 0 has no reader"),
        ([0, -1], "Slots count from 0"),
        ([0, 0.5], "slots are whole numbers"),
        ([0, True], "slots are whole numbers"),
        ("01", "give the slot of each layer"),
        (3, "give the slot of each layer"),
        ({0, 1}, "give the slot of each layer"),
        ([0, 2**62], "Slot 1 has no reader"),
        ([0, 10**30], "Slot 1 has no reader"),
    ],
)
def test_slots_are_whole_numbers_without_a_hole(slots: object, message: str) -> None:
    with pytest.raises(SharingError, match=message):
        Tie(slots=slots)


@pytest.mark.parametrize("given", [{}, {"rate": 2, "slots": [0, 0]}])
def test_either_a_rate_or_slots(given: dict[str, object]) -> None:
    with pytest.raises(SharingError, match="either a share rate or a list of slots"):
        Tie(**given)


@pytest.mark.parametrize("given", [{"order": strided}, {"spread": back}])
def test_slots_leave_no_room_for_order_or_spread(given: dict[str, object]) -> None:
    with pytest.raises(SharingError, match="leave order and spread out"):
        Tie(slots=[0, 0], **given)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", "strided"),
        ("order", random),
        ("order", back),
        ("fuse", "mean"),
        ("fuse", strided),
        ("spread", None),
        ("spread", mean),
    ],
)
def test_choices_are_objects_of_their_kind(field: str, value: object) -> None:
    with pytest.raises(SharingError, match=rf"Tie\({field}=.*of your own"):
        Tie(rate=2, **{field: value})


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Tie(rate=2), "Tie(rate=2)"),
        (Tie(rate=2.5, order=strided), "Tie(rate=2.5, order=strided)"),
        (Tie(slots=[0, 1, 0], fuse=mean), "Tie(slots=(0, 1, 0), fuse=mean)"),
        (Tie(rate=3, order=random(seed=5), spread=back), "Tie(rate=3, order=random(seed=5), spread=back)"),
    ],
)
def test_a_spec_is_printed_as_it_is_written(spec: Tie, text: str) -> None:
    assert repr(spec) == text


@pytest.mark.parametrize(
    "spec",
    [Tie(rate=2.5, order=random(3), fuse=weighted_mean([1.0, 2.0]), spread=back), Tie(slots=[0, 1, 0], fuse=mean)],
)
def test_a_spec_survives_its_dictionary(spec: Tie) -> None:
    assert Part.from_dict(spec.to_dict()) == spec


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Tie(rate=2).rate = 3
