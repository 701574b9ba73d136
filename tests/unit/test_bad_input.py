"""Bad input: an error of our own that says what to do, and a model that is what it was to the last bit."""

from collections.abc import Callable
import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.support import state
from tests.zoo import Case, chain, layer_used_twice, lazy, stages, tied_embedding
import weightshare as ws
from weightshare.errors import AlreadyShared, NoMatch, ShapeMismatch, SharingError, SpecError

Make = Callable[[], Case]


def check_refused(make: Make, error: type[Exception], message: str, where: object = None, **spec: Any) -> None:
    """Sharing raises `error`, an error of ours, and the model is not changed."""
    model = make().model
    before = state(model)
    with pytest.raises(error, match=message) as caught:
        ws.share_(model, ws.Tie(**spec), where)
    assert isinstance(caught.value, SharingError)
    assert state(model) == before


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("blocks.*.fc3", r"where='blocks\.\*\.fc3' matches no parameter.*Nearest paths: .*'blocks\.\*\.fc"),
        (["blocks", "stm"], r"where='stm'.*'stem'"),
        (nn.Conv2d, "where=Conv2d matches no parameter"),
        (lambda site: False, "where=<lambda> matches no parameter"),
        ("stem", r"Nothing that where='stem' matches can be shared.*'stem\.weight': in no repeated block"),
        ("blocks.3.fc1.weight", "can be shared.*the only site of its role"),
    ],
)
def test_a_pattern_without_a_match(where: object, message: str) -> None:
    check_refused(chain, NoMatch, message, where, rate=2)


@pytest.mark.parametrize("where", [3, [], [None], int])
def test_a_pattern_that_is_none(where: object) -> None:
    check_refused(chain, SpecError, "where=", where, rate=2)


@pytest.mark.parametrize("rate", [0, -2, -0.5, 0.99, math.nan, math.inf, -math.inf])
def test_a_rate_below_one_or_not_finite(rate: float) -> None:
    check_refused(
        chain, SpecError, r"Tie\(rate=.*\): a share rate is the number of layers that read one slot", rate=rate
    )


@pytest.mark.parametrize("rate", [7, 6.5, 1e9])
def test_a_rate_above_the_depth(rate: float) -> None:
    message = r"Cannot tie 'blocks\.\*.*Share rate .* is above the depth: the group has 6 layers"
    check_refused(chain, SpecError, message, rate=rate)


def test_a_rate_above_the_depth_of_one_group_only() -> None:
    check_refused(stages, SpecError, r"'2\.0\.\*\..*the group has 2 layers", "*", rate=3)


def test_a_group_that_nobody_named_and_that_does_not_fit_is_left_out() -> None:
    plan = ws.plan(stages().model, ws.Tie(rate=3))
    assert {group.name.partition("*")[0] for group in plan.groups} == {"0.0.", "1.0."}
    assert any("the group has 2 layers" in left.reason for left in plan.left_out)


@pytest.mark.parametrize("slots", [[0], [0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2, 3]])
def test_a_list_of_the_wrong_length(slots: list[int]) -> None:
    message = rf"Cannot tie 'blocks.*the list has {len(slots)} slots, the group has 6 layers"
    check_refused(chain, SpecError, message, slots=slots)


@pytest.mark.parametrize("slots", [[0, 0, 2, 2, 3, 3], [1, 1, 1, 2, 2, 2]])
def test_a_slot_without_a_reader(slots: list[int]) -> None:
    check_refused(chain, SpecError, r"Slot [01] has no reader", slots=slots)


def two_shapes() -> Case:
    return Case(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 7), nn.Linear(5, 7)), torch.randn(2, 5))


def two_dtypes() -> Case:
    model, example = chain(depth=4)
    model.blocks[1].to(torch.float64)
    model.blocks[3].to(torch.float64)
    return Case(model, example)


def test_sites_of_different_shape() -> None:
    message = r"Cannot tie '3\.weight' to '0\.weight': got shape \(7, 5\), the slot holds \(5, 5\)"
    check_refused(two_shapes, ShapeMismatch, message, slots=[0, 1, 1, 0])


def test_sites_of_different_dtype() -> None:
    message = r"Cannot tie 'blocks\.1\..*': got dtype torch\.float64, the slot holds torch\.float32"
    check_refused(two_dtypes, ShapeMismatch, message, slots=[0, 0, 1, 1])


def test_a_layer_of_another_shape_counts_no_layer() -> None:
    one_odd = lambda: Case(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 5)), torch.randn(2, 3))  # noqa: E731
    check_refused(one_odd, SpecError, "the list has 3 slots, the group has 2 layers", slots=[0, 0, 1])


def test_an_embedding_tied_to_a_head() -> None:
    message = r"Cannot tie 'embed\.weight': it is already one parameter with 'head\.weight'"
    check_refused(tied_embedding, AlreadyShared, message, "embed", rate=2)
    check_refused(tied_embedding, AlreadyShared, message, ["layers", "head"], rate=2)


def test_an_embedding_that_nobody_named_is_left_out() -> None:
    plan = ws.plan(tied_embedding().model, ws.Tie(rate=2))
    reasons = {left.path: left.reason for left in plan.left_out}
    assert reasons["embed.weight"] == "already one parameter with 'head.weight'"


def dead() -> Case:
    with torch.inference_mode():
        return Case(*chain())


def expanded() -> Case:
    case = chain()
    for block in case.model.blocks:
        block.fc2.bias = nn.Parameter(torch.randn(1).expand(5))
    return case


@pytest.mark.parametrize("make", [dead, expanded])
def test_tensors_that_cannot_be_written(make: Make) -> None:
    """The edits before the one that fails are undone."""
    check_refused(make, SpecError, "cannot be written in place", rate=2, fuse=ws.mean)


def one_memory() -> Case:
    case = chain()
    for block in case.model.blocks[1:]:
        block.fc1.weight.data = case.model.blocks[0].fc1.weight.data
    return case


def test_different_parameters_in_the_same_memory() -> None:
    check_refused(one_memory, AlreadyShared, "different parameters in the same memory", rate=2)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_a_weight_that_is_made_from_a_buffer_too() -> None:
    model = nn.Sequential(*(nn.utils.spectral_norm(nn.Linear(3, 3)) for _ in range(4)))
    plan = ws.plan(model, ws.Tie(rate=2))
    assert [group.name for group in plan.groups] == ["*.bias"]
    assert "made from a buffer too (weight_u)" in plan.left_out[0].reason


@pytest.mark.parametrize("where", ["*", "1", "4.bias"])
def test_a_layer_that_is_already_shared(where: str) -> None:
    message = r"Cannot tie '1\.\w+': it is already one parameter with '4\.\w+'. Leave it out"
    check_refused(layer_used_twice, AlreadyShared, message, where, rate=2)


def test_a_weight_that_a_plan_already_shared() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.fc1")
    before = state(model)
    with pytest.raises(AlreadyShared, match=r"'blocks\.0\.fc1\.weight': it is already one parameter"):
        ws.share_(model, ws.Tie(rate=3), "blocks")
    assert state(model) == before


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Tanh()), nn.BatchNorm1d(3, affine=False)])
def test_a_model_without_parameters(model: nn.Module) -> None:
    check_refused(lambda: Case(model, torch.ones(1)), SpecError, "has no parameters", rate=2)


@pytest.mark.parametrize("model", [None, "model", torch.ones(2), nn.Linear, {"a": torch.ones(2)}])
def test_what_is_no_model(model: object) -> None:
    with pytest.raises(SpecError, match=r"need an nn\.Module"):
        ws.plan(model, ws.Tie(rate=2))


def on_meta() -> Case:
    model, example = chain()
    return Case(model.to("meta"), example)


def partly_on_meta() -> Case:
    model, example = chain()
    model.blocks[1].to("meta")
    return Case(model, example)


def test_meta_tensors() -> None:
    check_refused(
        on_meta, SpecError, r"'blocks\.0\..*' is on the meta device and has no numbers: load the model first", rate=2
    )


def test_meta_tensors_beside_others() -> None:
    check_refused(partly_on_meta, ShapeMismatch, r"'blocks\.1\..*got device meta, the slot holds cpu", rate=2)


def test_lazy_layers() -> None:
    check_refused(lazy, SpecError, "has no shape yet: its lazy module is not built", rate=2)


def partly_frozen() -> Case:
    model, example = chain()
    model.blocks[3].fc2.requires_grad_(False)
    return Case(model, example)


def test_a_frozen_layer_beside_others() -> None:
    message = r"Cannot tie 'blocks\.3\.fc2\.\w+' to 'blocks\.2\.fc2\.\w+': got requires_grad False, the slot holds True"
    check_refused(partly_frozen, ShapeMismatch, message, rate=2)


def test_a_frozen_layer_that_shares_with_nobody_is_fine() -> None:
    model = partly_frozen().model
    ws.share_(model, ws.Tie(slots=[0, 0, 0, 1, 2, 2]))
    assert not model.blocks[3].fc2.weight.requires_grad
    assert model.blocks[4].fc2.weight is model.blocks[5].fc2.weight


def test_a_frozen_model_shares() -> None:
    model = chain().model.requires_grad_(False)
    ws.share_(model, ws.Tie(rate=2))
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("spec", [None, 2, "Tie(rate=2)", ws.Tie, ws.mean])
def test_what_is_no_spec(spec: object) -> None:
    model, _ = chain()
    before = state(model)
    with pytest.raises(SpecError, match=r"is no spec: give one such as Tie\(rate=2\)"):
        ws.share_(model, spec)
    assert state(model) == before
