"""Groups of `Tie`: one role each, one assignment for all roles of a block, nothing dropped in silence."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.zoo import (
    SHAREABLE,
    Case,
    buffers,
    chain,
    layer_used_twice,
    parameter_list,
    parametrized,
    shortcuts,
    stages,
    tied_embedding,
)
import weightshare as ws
from weightshare.surgery.sites import select, sites


def groups(model: nn.Module, spec: ws.Tie, where: object = None) -> dict[str, list[int]]:
    return {group.name: group.assignment.labels.tolist() for group in ws.plan(model, spec, where).groups}


@pytest.mark.parametrize("make", SHAREABLE.values())
@pytest.mark.parametrize("where", [None, "*"])
def test_every_chosen_site_is_in_one_group_or_left_out_with_a_reason(make: Callable[[], Case], where: object) -> None:
    found = sites(make().model)
    try_all = [site.path for site in select(found, where)]
    grouped, left = ws.Tie(rate=1).group(found, found, explicit=False)
    assert sorted([path for group in grouped for path in group.items] + [out.path for out in left]) == sorted(try_all)
    assert all(out.reason for out in left)


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_no_group_has_two_sites_of_one_block(make: Callable[[], Case]) -> None:
    grouped, _ = ws.Tie(rate=1).group(found := sites(make().model), found, explicit=False)
    assert grouped
    for group in grouped:
        before, after = group.name.split("*")
        indices = [path.removeprefix(before).removesuffix(after) for path in group.items]
        assert all(index.isdecimal() for index in indices)
        assert len(set(indices)) == len(indices)


@pytest.mark.parametrize("order", [ws.sequential, ws.strided, ws.random(seed=5)])
def test_every_role_of_a_block_gets_the_same_assignment(order: object) -> None:
    model, _ = chain()
    found = groups(model, ws.Tie(rate=2, order=order))
    assert len(found) == 6
    assert len({tuple(labels) for labels in found.values()}) == 1


def test_groups_of_different_depth_have_assignments_of_their_own() -> None:
    model, _ = stages()
    found = groups(model, ws.Tie(rate=2), "*.fc1.weight")
    assert found == {"0.0.*.fc1.weight": [0, 0, 1, 1], "1.0.*.fc1.weight": [0, 0, 1], "2.0.*.fc1.weight": [0, 0]}


def test_conv_bias_and_norm_bias_of_one_size_are_two_groups() -> None:
    model, _ = buffers()
    items = {group.items for group in ws.plan(model, ws.Tie(rate=2), "*.bias").groups}
    assert items == {("0.bias", "2.bias", "4.bias", "6.bias"), ("1.bias", "3.bias", "5.bias", "7.bias")}


def test_the_first_block_of_a_residual_stage_is_left_out() -> None:
    model, _ = shortcuts()
    plan = ws.plan(model, ws.Tie(rate=2))
    assert {group.items for group in plan.groups} == {
        (f"{stage}.1.{conv}.weight", f"{stage}.2.{conv}.weight") for stage in (0, 1) for conv in ("conv1", "conv2")
    }
    assert {left.path for left in plan.left_out} == {
        f"{stage}.0.{name}.weight" for stage in (0, 1) for name in ("conv1", "conv2", "shortcut")
    }
    assert {left.reason for left in plan.left_out} == {
        f"block '{stage}.0' differs from its siblings in parameter names, shapes or module types" for stage in (0, 1)
    }


def test_items_are_in_the_order_of_the_blocks() -> None:
    model, _ = chain(depth=11)
    (group,) = ws.plan(model, ws.Tie(rate=2), "*.fc1.bias").groups
    assert group.items == tuple(f"blocks.{index}.fc1.bias" for index in range(11))


def test_a_pattern_may_take_some_of_the_layers() -> None:
    model, _ = chain()
    plan = ws.plan(model, ws.Tie(rate=2), ["blocks.[0145].fc1.weight", "blocks.2.fc2.weight"])
    (group,) = plan.groups
    assert group.items == tuple(f"blocks.{index}.fc1.weight" for index in (0, 1, 4, 5))
    (left,) = plan.left_out
    assert (left.path, left.reason.partition(",")[0]) == ("blocks.2.fc2.weight", "the only site of its role")


def test_sites_of_other_dtypes_are_other_groups() -> None:
    model, _ = chain()
    for index in (1, 3):
        model.blocks[index].to(torch.bfloat16)
    plan = ws.plan(model, ws.Tie(rate=2), "*.fc1.weight")
    assert {group.dtype: group.items for group in plan.groups} == {
        "float32": tuple(f"blocks.{index}.fc1.weight" for index in (0, 2, 4, 5)),
        "bfloat16": ("blocks.1.fc1.weight", "blocks.3.fc1.weight"),
    }


def test_ties_of_others_are_left_out_when_nobody_asked_for_them() -> None:
    model, _ = layer_used_twice()
    plan = ws.plan(model, ws.Tie(rate=2))
    assert {left.path: left.reason for left in plan.left_out} == {
        "1.weight": "already one parameter with '4.weight'",
        "1.bias": "already one parameter with '4.bias'",
    }


def test_a_tied_embedding_beside_shared_layers_stays_as_it_is() -> None:
    model, _ = tied_embedding()
    plan = ws.plan(model, ws.Tie(rate=2))
    (left,) = plan.left_out
    assert left.path == "embed.weight"
    assert left.reason.startswith("already one parameter with 'head.weight'")


def test_the_halves_of_a_weight_norm_are_two_roles() -> None:
    model, _ = parametrized()
    assert set(groups(model, ws.Tie(rate=2))) == {
        "*.bias",
        "*.parametrizations.weight.original0",
        "*.parametrizations.weight.original1",
    }


def test_a_parameter_list_shares() -> None:
    model, _ = parameter_list()
    assert groups(model, ws.Tie(slots=[0, 1, 2, 2, 1, 0])) == {"matrices.*": [0, 1, 2, 2, 1, 0]}
