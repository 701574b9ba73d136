"""What a plan warns of: a shared batch norm, and stages, or an encoder and a decoder, that are tied to one another."""

import json
import warnings

import pytest
import torch
from torch import nn

from tests.zoo import Residual, buffers, chain, module_dict, nested_lists, stages
import weightshare as ws
from weightshare.errors import FileError, SharingWarning
from weightshare.space.lattice import Lattice
from weightshare.surgery.blocks import lists_inside, places
from weightshare.surgery.sites import sites

BATCH_NORM = "Batch norm is shared"


def halves(depth: int = 4) -> nn.ModuleList:
    """An encoder and a decoder of one structure, by number."""
    parts = [nn.ModuleDict({"layers": nn.ModuleList([Residual(5, 7) for _ in range(depth)])}) for _ in range(2)]
    return nn.ModuleList(parts)


def mixer() -> nn.Module:
    return ws.models.convmixer(7, 4, 2, 3, classes=5)


def test_a_shared_batch_norm_is_warned_of_once_and_in_the_plan() -> None:
    with pytest.warns(SharingWarning, match=BATCH_NORM) as caught:
        plan = ws.plan(mixer(), ws.Tie(rate=2))
    assert [str(one.message) for one in caught] == list(plan.notes)
    assert len(plan.notes) == 1
    for said in (
        "blocks.*.depthwise_norm.weight blocks.*.depthwise_norm.bias blocks.*.pointwise_norm.weight",
        "other means and variances",
        "diverged",
        "running statistics are buffers",
        "'!blocks.*.depthwise_norm', '!blocks.*.pointwise_norm'",
    ):
        assert said in plan.notes[0]
    assert f"\nNote: {BATCH_NORM}" in str(plan)


def test_the_advice_helps() -> None:
    where = ["*", "!blocks.*.depthwise_norm", "!blocks.*.pointwise_norm"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = ws.plan(mixer(), ws.Tie(rate=2), where)
    assert plan.notes == ()
    assert "Warning" not in str(plan)


def test_a_batch_norm_of_another_library_is_known_by_its_buffers() -> None:
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(7))
            self.register_buffer("running_mean", torch.zeros(7))

    with pytest.warns(SharingWarning, match=r"Batch norm is shared \(\*\.scale\)"):
        ws.plan(nn.Sequential(*(Running() for _ in range(4))), ws.Tie(rate=2))


@pytest.mark.parametrize(
    ("spec", "where"),
    [(ws.Tie(rate=2), "[0246]"), (ws.Tie(rate=1), None), (ws.Tie(slots=[0, 1, 2, 3]), "[1357]")],
    ids=["no batch norm", "a slot for each", "a slot for each by list"],
)
def test_nothing_is_warned_of_where_batch_norm_stays(spec: ws.Tie, where: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ws.plan(buffers().model, spec, where).notes == ()


def test_layer_norm_is_no_batch_norm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ws.plan(chain().model, ws.Tie(rate=2), nn.LayerNorm).notes == ()


def test_applying_says_nothing_a_second_time() -> None:
    model = mixer()
    with pytest.warns(SharingWarning, match=BATCH_NORM):
        plan = ws.plan(model, ws.Tie(rate=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.apply_(model)
        again = ws.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.notes == plan.notes


def test_running_statistics_stay_each_layers_own() -> None:
    model = mixer()
    ws.share_(model, ws.Tie(rate=4))
    norms = [block.pointwise_norm for block in model.blocks]
    assert len({id(norm.weight) for norm in norms}) == 1
    assert len({id(norm.running_mean) for norm in norms}) == 4


def test_an_encoder_tied_to_a_decoder_is_shown_with_both_names() -> None:
    plan = ws.plan(halves(), ws.Tie(rate=2))
    assert plan.groups[0].items == ("0.layers.0.norm.weight", "1.layers.0.norm.weight")
    (note,) = plan.notes
    assert note.startswith("'0' and '1' hold lists of blocks themselves, as stages do, or an encoder and a decoder.")
    assert "ties '0.layers.0' with '1.layers.0'" in note
    assert "plan(model.get_submodule('0'), ...)" in note
    assert f"\nNote: {note}" in str(plan)


def test_what_it_advises_shares_inside_each() -> None:
    model = halves()
    for part in model:
        plan = ws.share_(part, ws.Tie(rate=2))
        assert plan.notes == ()
    assert model[0].layers[0].fc1.weight is model[0].layers[1].fc1.weight
    assert model[0].layers[0].fc1.weight is not model[1].layers[0].fc1.weight


def test_stages_deeper_in_the_model_are_named_by_their_paths() -> None:
    model = nn.ModuleDict({"body": nn.ModuleList([nn.Sequential(*(Residual(5, 3) for _ in range(3))) for _ in "abc"])})
    (note,) = ws.plan(model, ws.Tie(rate=3)).notes
    assert note.startswith("'body.0' and 'body.1' hold lists")
    assert "ties 'body.0.0' with 'body.1.0'" in note


def test_stages_that_share_with_nobody_are_not_warned_of() -> None:
    assert ws.plan(halves(), ws.Tie(rate=1)).notes == ()


@pytest.mark.parametrize("make", [chain, stages, module_dict, nested_lists])
def test_plain_blocks_are_not_warned_of(make: object) -> None:
    assert ws.plan(make().model, ws.Tie(rate=2)).notes == ()


@pytest.mark.parametrize(
    ("inside", "lists"),
    [
        (lambda: nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)), ()),
        (lambda: nn.Sequential(*(nn.Linear(5, 5) for _ in range(3))), ("mlp",)),
        (lambda: nn.Sequential(Residual(5, 3), Residual(5, 3)), ("mlp",)),
        (lambda: nn.Sequential(Residual(5, 3), Residual(5, 7)), ()),
        (lambda: nn.ModuleList([nn.Sequential(Residual(5, 3), Residual(5, 3)) for _ in range(2)]), ("mlp",)),
    ],
    ids=["perceptron", "three layers", "two blocks", "two unlike blocks", "lists in lists: the outer one"],
)
def test_lists_inside_a_block(inside: object, lists: tuple[str, ...]) -> None:
    model = nn.ModuleList([nn.ModuleDict({"norm": nn.LayerNorm(5), "mlp": inside()}) for _ in range(3)])
    assert lists_inside(places(sites(model))["0.norm.weight"]) == lists


def test_a_rate_that_is_no_whole_number_says_what_it_came_to() -> None:
    plan = ws.plan(chain(depth=6).model, ws.Tie(rate=2.5), "blocks.*.weight")
    assert plan.notes == ("rate=2.5 is no whole number, and slots are: 6 layers read 3 slots, 2 a slot.",)
    assert "Note: rate=2.5 is no whole number" in str(plan)


@pytest.mark.parametrize("spec", [ws.Tie(rate=4), ws.Tie(rate=2.0), ws.Tie(slots=[0, 0, 0, 1, 1, 2])])
def test_whole_rates_and_lists_of_slots_need_no_such_note(spec: ws.Tie) -> None:
    assert ws.plan(chain(depth=6).model, spec, "blocks").notes == ()


def test_plans_of_older_versions_have_no_notes() -> None:
    data = json.loads(ws.plan(halves(), ws.Tie(rate=2)).to_json())
    assert len(data["notes"]) == 1
    del data["notes"]
    assert ws.Plan.from_json(json.dumps(data)).notes == ()


@pytest.mark.parametrize("notes", [3, "text", [3], {"a": 1}, None])
def test_notes_that_are_none_are_refused(notes: object) -> None:
    data = json.loads(ws.plan(chain().model, ws.Tie(rate=2)).to_json())
    with pytest.raises(FileError, match="notes"):
        ws.Plan.from_json(json.dumps(data | {"notes": notes}))


def test_other_specs_have_none() -> None:
    assert ws.LowRank(rank=2).notes([], ()) == []
    assert Lattice().notes([], ()) == []
