"""Reports: what a model stores, shares and computes, and whether the sharing still holds."""

from collections.abc import Callable
import json

import pytest
import torch
from torch import nn

from tests.support import state
from tests.zoo import SHAREABLE, Case, chain, tied_embedding
import weightshare as ws


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_logical_numbers_stay_when_stored_ones_shrink(make: Callable[[], Case]) -> None:
    model, _ = make()
    before = ws.report(model)
    plan = ws.share_(model, ws.Tie(rate=2))
    after = ws.report(model)
    assert (before.logical, before.stored) == (after.logical, plan.stored_before)
    assert (after.stored, after.bytes) == (plan.stored_after, plan.bytes_after)


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_reporting_does_not_change_the_model(make: Callable[[], Case]) -> None:
    model, example = make()
    ws.share_(model, ws.Tie(rate=2))
    model(example)  # recurrent layers rebuild their second list of weights in the first pass
    before = state(model)
    ws.report(model, example)
    assert state(model) == before


def test_numbers_by_hand() -> None:
    model, example = chain(depth=2)
    nn.init.constant_(model.stem.weight, 3.0)
    ws.share_(model, ws.Tie(rate=2), "blocks.*.fc?")
    report = ws.report(model, example)
    outside = 15 + 5 + 55 + 11 + 2 * 10
    assert report.stored == outside + 35 + 7 + 35 + 5
    assert report.logical == outside + 2 * 82
    assert report.distinct == report.stored - 14 - 2 * (4 + 4)
    assert report.bytes == 4 * report.stored
    assert report.macs == 2 * (15 + 2 * 70 + 55)
    assert report.model == "Sequential"


def test_groups_say_what_is_read_where() -> None:
    model, _ = chain()
    ws.share_(model.blocks, ws.Tie(rate=2, order=ws.strided), "*.fc1.weight")
    (group,) = ws.report(model).groups
    assert (group.name, group.shape, group.layers, group.slots) == ("blocks.*.fc1.weight", (7, 5), 6, 3)
    assert group.labels == (0, 1, 2, 0, 1, 2)
    assert group.intact


def test_an_undone_tie_is_said() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.fc?.weight")
    model.blocks[1].fc1.weight = nn.Parameter(torch.ones(7, 5))
    report = ws.report(model)
    assert [group.intact for group in report.groups] == [False, True]
    text = str(report)
    assert text.count("UNTIED") == 1
    assert "call weightshare.retie_(model)" in text


def test_ties_of_others_are_listed_apart() -> None:
    model, _ = tied_embedding()
    ws.share_(model, ws.Tie(rate=2))
    assert ws.report(model).other_ties == (("embed.weight", "head.weight"),)
    assert "Also one parameter: embed.weight head.weight" in str(ws.report(model))


def test_macs_are_counted_on_request_only() -> None:
    model, example = chain()
    assert ws.report(model).macs is None
    assert "MACs" not in str(ws.report(model))
    assert "sharing does not lower them" in str(ws.report(model, example))


def test_sharing_does_not_lower_macs() -> None:
    model, example = chain()
    before = ws.report(model, example).macs
    ws.share_(model, ws.Tie(rate=6))
    assert ws.report(model, example).macs == before


def test_it_prints_what_sharing_saves() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=6))
    report = ws.report(model)
    assert f"{1 - report.stored / report.logical:.1%}" in str(report)
    assert "0.0%" in str(ws.report(chain().model))


def test_json_has_every_field() -> None:
    model, example = chain()
    ws.share_(model, ws.Tie(rate=2))
    report = ws.report(model, example)
    data = json.loads(report.to_json())
    assert set(data) == set(vars(report))
    assert data["groups"][0]["labels"] == [0, 0, 1, 1, 2, 2]


def test_kernels_that_cancel_have_no_signal() -> None:
    layer = ws.LocallyConnected1d(1, 1, 1, input_size=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -1.0]).view_as(layer.weight))
    report = ws.report(layer)
    noise = json.loads(report.to_json(), parse_constant=pytest.fail)["local"][0]["noise_over"]
    assert 1e299 < noise < float("inf")
    assert "1e-300" in str(report)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ws.SharingError, match="has no parameters"):
        ws.report(nn.ReLU())


def test_a_model_whose_tensors_are_empty_is_printed() -> None:
    model = nn.ParameterList([nn.Parameter(torch.empty(0, 3))])
    assert "stored" in str(ws.report(model))


@pytest.mark.parametrize(("side", "within"), [(3, "–"), (7, "∞")])
def test_modules_of_one_position_have_no_ratio(side: int, within: str) -> None:
    conv = nn.Conv1d(1, 2, 3, padding=1)
    (line,) = (row for row in str(ws.report(ws.LocallyConnected1d.from_conv(conv, side))).splitlines() if " 3 " in row)
    assert line.split()[-2:] == [within, "∞"]
