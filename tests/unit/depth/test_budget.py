"""A budget of stored numbers: never exceeded, as large as it can be, as even as it can be; what is refused."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest
import torch
from torch import nn

import weightshare as ws
from weightshare.depth.budget import allocate, in_numbers
from weightshare.errors import FileError, NoMatch, SpecError
from weightshare.planning import Plan


def stages() -> nn.Module:
    """Two lists of blocks, of 5 layers of 49 numbers and 3 of 121, and a head."""
    torch.manual_seed(3)
    first = nn.Sequential(*(nn.Linear(7, 7, bias=False) for _ in range(5)))
    second = nn.Sequential(*(nn.Linear(11, 11, bias=False) for _ in range(3)))
    return nn.ModuleDict({"first": first, "second": second, "head": nn.Linear(11, 2)})


NUMBERS = 5 * 49 + 3 * 121 + 24
GROUPS = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 60)), min_size=1, max_size=5)


def stored(groups: list[tuple[int, int]], counts: list[int]) -> int:
    return sum(count * (layers + numel) for (layers, numel), count in zip(groups, counts, strict=True))


def slowly(groups: list[tuple[int, int]], room: int) -> list[int]:
    """One template after the other, each to the group that is furthest behind of all that have room for it."""
    counts = [1] * len(groups)
    while True:
        left = room - stored(groups, counts)
        waiting = [
            (count / layers, at)
            for at, ((layers, numel), count) in enumerate(zip(groups, counts, strict=True))
            if count < layers and layers + numel <= left
        ]
        if not waiting:
            return counts
        counts[min(waiting)[1]] += 1


@given(GROUPS, st.integers(0, 900))
def test_it_is_kept_used_up_and_spread_evenly(groups: list[tuple[int, int]], more: int) -> None:
    room = stored(groups, [1] * len(groups)) + more
    counts = allocate(groups, room)
    left = room - stored(groups, counts)
    assert left >= 0
    found = list(zip(groups, counts, strict=True))
    assert all(1 <= count <= layers for (layers, _), count in found)
    assert [one for one, count in found if count < one[0] and sum(one) <= left] == []
    assert counts == slowly(groups, room)


def test_equal_groups_get_equal_counts() -> None:
    assert allocate([(5, 7)] * 3, room=3 * 2 * 12) == [2, 2, 2]
    assert allocate([(5, 7)] * 3, room=3 * 2 * 12 + 11) == [2, 2, 2]
    assert allocate([(5, 7)] * 3, room=10**9) == [5, 5, 5]
    assert allocate([(4, 7), (8, 3)], room=6 * 11) == [2, 4]
    assert allocate([], room=3) == []


def test_one_template_too_many() -> None:
    with pytest.raises(SpecError, match="stores 24 numbers, there is room for 23"):
        allocate([(5, 7)] * 2, room=23)


def test_a_fraction_is_of_what_is_stored_now() -> None:
    assert in_numbers(0.29, 100) == 29
    assert in_numbers(1.0, 101) == 101
    assert in_numbers(3, 101) == 3


@pytest.mark.parametrize("budget", [0.5, 0.9, 1.0, 231, 232, 285, 286, 409, 410, NUMBERS, 10**6])
def test_plans_keep_it(budget: Any) -> None:
    model = stages()
    plan = ws.share_(model, ws.Templates(budget=budget))
    numbers = in_numbers(budget, NUMBERS)
    left = numbers - sum(tensor.numel() for tensor in model.parameters())
    assert plan.stored_after == numbers - left
    assert left >= 0
    for group in plan.groups:
        assert group.templates == len(group.items) or len(group.items) + group.numel > left
    assert f"{left:,} numbers of the budget are left over" in str(plan)
    assert Plan.from_json(plan.to_json()) == plan


def test_the_counts_of_groups() -> None:
    """At first one template each, 24 + 54 + 124; then the group of more layers is behind."""
    counts = {}
    for budget in (202, 255, 256, 309, 310, 379, 380, 433, 434):
        plan = ws.plan(stages(), ws.Templates(budget=budget))
        counts[budget] = [group.templates for group in plan.groups]
    assert counts == {
        202: [1, 1],
        255: [1, 1],
        256: [2, 1],
        309: [2, 1],
        310: [3, 1],
        379: [4, 1],
        380: [2, 2],
        433: [2, 2],
        434: [3, 2],
    }


def test_a_budget_over_widths() -> None:
    plan = ws.plan(stages(), ws.Templates(budget=0.7, within="model", across_widths=True), ["first", "second"])
    (group,) = plan.groups
    assert (len(group.items), group.shape, group.templates) == (8, (11, 11), 3)
    assert plan.stored_after == 24 + 3 * (8 + 121)
    assert "31 numbers of the budget are left over: no group has room for one more template." in str(plan)


def test_pretrained_layers_and_their_error() -> None:
    plan = ws.plan(stages(), ws.Templates(budget=10**4, init="from_pretrained"))
    assert [group.error for group in plan.groups] == [0.0, 0.0]
    assert "each layer has a template of its own" in str(plan)
    plan = ws.plan(stages(), ws.Templates(budget=380, init="from_pretrained"))
    assert [0.1 < group.error < 1 for group in plan.groups] == [True, True]


def test_too_small_a_budget_says_what_it_would_need() -> None:
    needed = r"may store 201 of 632 numbers.* 2 groups it stores 202, of which 24 lie outside.* at least budget=202"
    with pytest.raises(SpecError, match=needed):
        ws.plan(stages(), ws.Templates(budget=201))
    ws.plan(stages(), ws.Templates(budget=202))
    with pytest.raises(NoMatch):
        ws.plan(stages(), ws.Templates(budget=1), "head")


@pytest.mark.parametrize("budget", [0, -1, 0.0, -0.5, 1.5, float("nan"), float("inf"), True, "0.5", 2**62, 1j])
def test_what_is_no_budget(budget: Any) -> None:
    with pytest.raises(SpecError, match="how many numbers the whole model may store"):
        ws.Templates(budget=budget)


def test_templates_or_a_budget() -> None:
    with pytest.raises(SpecError, match="not both"):
        ws.Templates(2, budget=0.5)
    with pytest.raises(SpecError, match="or a budget instead"):
        ws.Templates()


def test_an_edited_plan_is_refused(tmp_path: Any) -> None:
    model = stages()
    plan = ws.plan(model, ws.Templates(budget=256))
    edited = Plan.from_json(plan.to_json().replace('"templates": 2,', '"templates": 6,'))
    with pytest.raises(SpecError, match=r"6 templates for 'first.*weight', of 5 layers"):
        edited.apply_(model)
    assert not [name for name in model.state_dict() if "weightshare" in name]
    plan.apply_(model)
    ws.save(model, tmp_path / "m")
    again = ws.load(tmp_path / "m", stages())
    assert torch.equal(again["first"][3].weight, model["first"][3].weight)
    with pytest.raises(FileError):
        ws.load(tmp_path / "m", nn.Linear(2, 3))
