"""`Tie(slots={...})`: every list of blocks shares in its own way."""

from typing import Any

import pytest
from torch import nn

from tests.zoo import Residual
from weightshare.depth.tie import Tie
from weightshare.errors import SpecError
from weightshare.parts import Part
from weightshare.planning import Plan, make_plan


def stages() -> nn.Module:
    """Two stages; the first block of the second one differs."""
    front = nn.Sequential(*(Residual(3, 5) for _ in range(3)))
    back = nn.Sequential(nn.Linear(3, 3), *(Residual(3, 7) for _ in range(4)))
    return nn.ModuleDict({"front": front, "back": back, "head": nn.Linear(3, 2)})


def test_each_list_shares_in_its_own_way() -> None:
    model = stages()
    plan = make_plan(model, Tie(slots={"front": [0, 1, 0], "back": [0, 2, 1, 1, 2]}), None)
    labels = {group.name: group.assignment.labels.tolist() for group in plan.groups}
    assert {name: row for name, row in labels.items() if "fc1.weight" in name} == {
        "front.*.fc1.weight": [0, 1, 0],
        "back.*.fc1.weight": [0, 1, 1, 0],  # numbered anew without block 0, which is no block of that kind
    }
    assert len(labels) == 12
    plan.apply_(model)
    assert model["back"][1].fc2.weight is model["back"][4].fc2.weight
    assert model["back"][2].fc2.weight is not model["back"][1].fc2.weight


def test_a_list_that_is_not_named_is_left_out_or_an_error() -> None:
    plan = make_plan(stages(), Tie(slots={"front": [0, 0, 0]}), None)
    assert {group.name.partition(".")[0] for group in plan.groups} == {"front"}
    reasons = [left.reason for left in plan.left_out if left.path == "back.1.fc1.weight"]
    assert "slots are given for 'front', not for the blocks of 'back'" in reasons[0]
    with pytest.raises(SpecError, match="not for the blocks of 'back'"):
        make_plan(stages(), Tie(slots={"front": [0, 0, 0]}), ["front", "back"])


def test_they_survive_json_and_equal_their_pairs() -> None:
    spec = Tie(slots={"front": [0, 1, 0], "back": [0, 0, 0, 0, 0]})
    assert spec == Tie(slots=[("front", (0, 1, 0)), ("back", (0, 0, 0, 0, 0))]) == Part.from_dict(spec.to_dict())
    assert repr(spec) == "Tie(slots=(('front', (0, 1, 0)), ('back', (0, 0, 0, 0, 0))))"
    plan = make_plan(stages(), spec, None)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        ({"front": [0, 2]}, "Slot 1 has no reader"),
        ({"front": []}, "needs a non-empty row"),
        ({"front": 0}, "give the slot of each layer"),
        ({"front": "00"}, "give the slot of each layer"),
        ({0: [0, 0]}, "a mapping from paths to lists"),
        ([("front", [0]), 0], "a mapping from paths to lists"),
        ([("front", [0]), ("front", [0])], "each path needs one list"),
        ({"front": {"a": [0]}}, "each path needs one list"),
        ({}, "needs a non-empty row"),
    ],
)
def test_bad_slots(slots: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Tie(slots=slots)


def test_slots_that_do_not_fit_the_model() -> None:
    with pytest.raises(SpecError, match=r"names \['middle'\], the pattern matches blocks in \['back', 'front'\]"):
        make_plan(stages(), Tie(slots={"front": [0, 0, 0], "middle": [0, 0]}), None)
    with pytest.raises(SpecError, match="'front' is given 2 slots, and it has a block 2"):
        make_plan(stages(), Tie(slots={"front": [0, 0]}), "front")
