"""Plans: pure values that say what will be shared."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.support import state
from tests.zoo import SHAREABLE, Case, chain, half, stages, tied_embedding
import weightshare as ws
from weightshare.errors import NoMatch


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_planning_does_not_change_the_model(make: Callable[[], Case]) -> None:
    model, _ = make()
    before = state(model)
    ws.plan(model, ws.Tie(rate=2, fuse=ws.mean))
    assert state(model) == before


def test_planning_twice_gives_equal_plans() -> None:
    model, _ = chain()
    plans = [ws.plan(model, ws.Tie(rate=2, order=ws.random(seed=3))) for _ in range(2)]
    assert plans[0] == plans[1]
    assert hash(plans[0]) == hash(plans[1])


def test_other_specs_give_other_plans() -> None:
    model, _ = chain()
    assert ws.plan(model, ws.Tie(rate=2)) != ws.plan(model, ws.Tie(rate=2, fuse=ws.mean))


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_numbers_of_the_plan_are_those_of_the_model(make: Callable[[], Case]) -> None:
    model, _ = make()
    plan = ws.plan(model, ws.Tie(rate=2))
    assert plan.stored_before == sum(parameter.numel() for parameter in model.parameters())
    assert plan.bytes_before == sum(parameter.nbytes for parameter in model.parameters())
    plan.apply_(model)
    assert plan.stored_after == sum(parameter.numel() for parameter in model.parameters())
    assert plan.bytes_after == sum(parameter.nbytes for parameter in model.parameters())
    assert plan.stored_after < plan.stored_before


def test_counts_by_hand() -> None:
    model, _ = chain()
    plan = ws.plan(model, ws.Tie(rate=2), "*.fc1.weight")
    assert plan.stored_before == 15 + 5 + 6 * (10 + 35 + 7 + 35 + 5) + 55 + 11
    assert plan.stored_before - plan.stored_after == 3 * 35


def test_bytes_of_halves() -> None:
    plan = ws.plan(half().model, ws.Tie(rate=2), "*.fc1.weight")
    assert plan.bytes_before - plan.bytes_after == 3 * 35 * 2


def test_a_shared_tensor_is_counted_once_before() -> None:
    model, _ = tied_embedding()
    assert ws.plan(model, ws.Tie(rate=2)).stored_before == 65 + 4 * 92


def test_ties_name_the_readers_of_each_slot() -> None:
    model, _ = chain()
    plan = ws.plan(model, ws.Tie(slots=[0, 1, 0, 1, 2, 0]), "*.fc2.bias")
    readers = [(0, 2, 5), (1, 3), (4,)]
    assert plan.ties == tuple(tuple(f"blocks.{index}.fc2.bias" for index in slot) for slot in readers)


def test_a_meta_model_can_be_planned_for() -> None:
    model, _ = chain()
    plan = ws.plan(model, ws.Tie(rate=2))
    assert ws.plan(model.to("meta"), ws.Tie(rate=2)) == plan


def test_a_plan_holds_no_tensor_of_the_model() -> None:
    model, _ = chain()
    text = ws.plan(model, ws.Tie(rate=2)).to_json()
    with torch.no_grad():
        model.blocks[0].fc1.weight.fill_(3)
    assert ws.plan(model, ws.Tie(rate=2)).to_json() == text


def test_it_prints_groups_counts_and_what_was_left_out() -> None:
    model, _ = stages()
    text = str(ws.plan(model, ws.Tie(rate=2, order=ws.strided), ["*.fc1.weight", "0.1.weight"]))
    assert text.startswith("Tie(rate=2, order=strided) where ['*.fc1.weight', '0.1.weight']")
    lines = [line.split() for line in text.splitlines()]
    assert ["0.0.*.fc1.weight", "3×5", "0–3", "2", "0", "1", "0", "1", "60", "30"] in lines
    assert ["2.0.*.fc1.weight", "3×11", "0–1", "1", "0", "0", "66", "33"] in lines
    assert "Left out, 1: 0.1.weight: in no repeated block" in text
    assert "bytes in memory before" in text


@pytest.mark.parametrize(
    ("blocks", "shown"),
    [
        ([0, 1, 2, 5], "0–2, 5"),
        ([0, 1, 2, 3, 4, 6, 7, 8], "0–4, 6–8"),
        ([0, 2, 4, 6, 8, 10], "0–10 by 2"),
        ([0, 2, 4, 7, 9, 11, 12], "7 of 0–12"),
    ],
)
def test_layers_that_do_not_follow_each_other_show_their_gaps(blocks: list[int], shown: str) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3, bias=False) for _ in range(13)))
    plan = ws.plan(model, ws.Tie(rate=len(blocks)), [str(block) for block in blocks])
    row = next(line for line in str(plan).splitlines() if line.startswith("*.weight"))
    assert f"  {shown}  " in row


def test_a_plan_for_all_says_everywhere() -> None:
    model, _ = chain()
    assert str(ws.plan(model, ws.Tie(rate=2))).splitlines()[0] == "Tie(rate=2) everywhere"
    assert str(ws.plan(model, ws.Tie(rate=2), "blocks")).splitlines()[0] == "Tie(rate=2) where 'blocks'"
    assert str(ws.plan(model, ws.Tie(rate=2), lambda site: True)).splitlines()[0] == "Tie(rate=2) where <lambda>"


def test_a_column_with_nothing_in_it_is_left_out() -> None:
    model, _ = chain()
    assert "error of the start" not in str(ws.plan(model, ws.Templates(2), "*.fc1"))
    assert "error of the start" in str(ws.plan(model, ws.Templates(2, init="from_pretrained"), "*.fc1"))


def test_a_group_without_its_first_block_says_which_layers_it_has() -> None:
    first, block = torch.nn.Linear(3, 5), lambda: torch.nn.Linear(3, 3)
    text = str(ws.plan(torch.nn.Sequential(first, block(), block(), block()), ws.Tie(rate=2), "*.weight"))
    assert "1–3" in text
    assert "Left out, 1: 0.weight: block '0' differs from its siblings" in text


def test_lines_are_not_wider_than_a_page() -> None:
    model, _ = chain(depth=100, width=2, hidden=3)
    lines = str(ws.plan(model, ws.Tie(rate=3))).splitlines()
    assert max(len(line) for line in lines[:-1]) <= 118


def test_a_model_whose_tensors_are_empty_is_printed() -> None:
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.empty(0, 3)) for _ in range(4)])
    assert "whole model" in str(ws.plan(model, ws.Tie(rate=2)))


def test_planning_minds_no_default_device() -> None:
    model, _ = chain()
    plan = ws.plan(model, ws.Tie(rate=2))
    with torch.device("meta"):
        assert ws.plan(model, ws.Tie(rate=2)) == plan
        assert ws.Plan.from_json(plan.to_json()) == plan


def test_the_signature_is_of_names_shapes_dtypes_and_ties() -> None:
    def of(change: Callable[[nn.Module], object]) -> str:
        model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "list": nn.Sequential(*equal_layers())})
        change(model)
        return ws.plan(model, ws.Tie(rate=2), "list").signature

    changes = {
        "none": lambda model: None,
        "names": lambda model: model.update({"c": model.pop("b")}),
        "shapes": lambda model: model.update({"b": nn.Linear(3, 4)}),
        "dtypes": lambda model: model["b"].double(),
        "ties": lambda model: setattr(model["b"], "weight", model["a"].weight),
    }
    found = [of(change) for change in changes.values()]
    assert len(set(found)) == len(found)
    assert {len(one) for one in found} == {32}
    assert of(changes["none"]) == found[0]


def equal_layers() -> list[nn.Module]:
    return [nn.Linear(2, 2, bias=False) for _ in range(2)]


def test_what_was_left_out_is_listed_as_far_as_can_be_read() -> None:
    model = nn.Sequential(*(nn.Linear(width, width + 1) for width in range(1, 8)))
    with pytest.raises(NoMatch) as refused:
        ws.plan(model, ws.Tie(rate=2))
    text = str(refused.value)
    assert text.count("': ") == 4
    assert text.endswith(f"; and {14 - 4} more.")
