"""`Plan.apply_`: one object for every slot, all or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.support import bits, output, state
from tests.zoo import SHAREABLE, Case, chain, recurrent, stages
import weightshare as ws
from weightshare.depth.fuse import Fusion
from weightshare.errors import AlreadyShared, ModelChanged, ShapeMismatch, SpecError


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_readers_of_a_slot_hold_the_object_of_the_first(make: Callable[[], Case]) -> None:
    model, example = make()
    plan = ws.plan(model, ws.Tie(rate=2))
    owners = [model.get_parameter(tie[0]) for tie in plan.ties]
    plan.apply_(model)
    for owner, tie in zip(owners, plan.ties, strict=True):
        assert all(model.get_parameter(path) is owner for path in tie)
    assert torch.isfinite(output(model, example)).all()


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_first_keeps_the_owners_numbers(make: Callable[[], Case]) -> None:
    model, _ = make()
    plan = ws.plan(model, ws.Tie(rate=2))
    before = [bits(model.get_parameter(tie[0])) for tie in plan.ties]
    plan.apply_(model)
    assert [bits(model.get_parameter(tie[-1])) for tie in plan.ties] == before


@pytest.mark.parametrize("make", SHAREABLE.values())
def test_mean_is_the_mean_of_the_readers(make: Callable[[], Case]) -> None:
    model, _ = make()
    plan = ws.plan(model, ws.Tie(rate=2, order=ws.strided, fuse=ws.mean))
    expected = [sum(model.get_parameter(path).detach().double() for path in tie) / len(tie) for tie in plan.ties]
    plan.apply_(model)
    for value, tie in zip(expected, plan.ties, strict=True):
        parameter = model.get_parameter(tie[-1])
        torch.testing.assert_close(parameter.detach(), value.to(parameter.dtype))


def test_sites_outside_of_the_groups_are_left_alone() -> None:
    model, _ = chain()
    before = {name: (id(tensor), bits(tensor)) for name, tensor in model.named_parameters()}
    ws.share_(model, ws.Tie(rate=2, fuse=ws.mean), "*.fc1.weight")
    after = {name: (id(tensor), bits(tensor)) for name, tensor in model.named_parameters()}
    assert {name for name in before if after.get(name) != before[name]} == {
        f"blocks.{index}.fc1.weight" for index in range(6)
    }


def test_a_gradient_of_the_old_weights_is_dropped_where_readers_changed() -> None:
    model, example = chain()
    model(example).sum().backward()
    kept = model.blocks[5].fc1.weight.grad
    ws.share_(model, ws.Tie(slots=[0, 0, 1, 1, 1, 2]), "*.fc1.weight")
    assert [model.blocks[index].fc1.weight.grad for index in (0, 2)] == [None, None]
    assert model.blocks[5].fc1.weight.grad is kept is not None


def test_gradients_of_all_readers_add_up() -> None:
    model, _ = recurrent()
    ws.share_(model, ws.Tie(rate=4))
    x = torch.randn(3, 2, 5)
    model(x).sum().backward()
    assert len({id(parameter) for parameter in model.parameters()}) == 4
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_plan_fits_another_model_of_equal_structure() -> None:
    plan = ws.plan(chain().model, ws.Tie(rate=2))
    other, _ = chain()
    plan.apply_(other)
    assert other.blocks[4].fc2.bias is other.blocks[5].fc2.bias


def test_plans_of_different_sites_follow_one_another() -> None:
    model, _ = chain()
    ws.share_(model, ws.Tie(rate=2), "*.fc1")
    ws.share_(model, ws.Tie(rate=3, order=ws.strided), "*.fc2")
    assert model.blocks[0].fc1.weight is model.blocks[1].fc1.weight
    assert model.blocks[0].fc2.weight is model.blocks[2].fc2.weight is model.blocks[4].fc2.weight


@dataclass(frozen=True, repr=False)
class Fails(Fusion):
    """Fails on the last stage, which is two layers deep."""

    def __call__(self, weights: Tensor, layers: Sequence[int], depth: int) -> Tensor:
        if depth == 2:
            raise ZeroDivisionError
        return weights[-1].clone()


def test_a_fusion_that_fails_in_a_later_group_undoes_the_earlier_ones() -> None:
    model, _ = stages()
    before = state(model)
    plan = ws.plan(model, ws.Tie(rate=2, fuse=Fails()))
    with pytest.raises(ZeroDivisionError):
        plan.apply_(model)
    assert state(model) == before


def test_weights_for_another_depth_change_nothing() -> None:
    model, _ = stages()
    before = state(model)
    with pytest.raises(SpecError, match="weighted_mean has 4 weights, the group has 3 layers"):
        ws.share_(model, ws.Tie(rate=2, fuse=ws.weighted_mean([1.0, 2.0, 3.0, 4.0])))
    assert state(model) == before


@dataclass(frozen=True, repr=False)
class Interrupted(Fusion):
    """Ctrl-C while fusing a bias, that is after a weight."""

    def __call__(self, weights: Tensor, layers: Sequence[int], depth: int) -> Tensor:
        if weights.ndim == 2 and layers[0] > 0:
            raise KeyboardInterrupt
        return weights[-1].clone()


def test_control_c_changes_nothing() -> None:
    model, _ = chain()
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        ws.share_(model, ws.Tie(rate=2, fuse=Interrupted()))
    assert state(model) == before


@dataclass(frozen=True, repr=False)
class WrongShape(Fusion):
    """Gives one number where a weight is due."""

    def __call__(self, weights: Tensor, layers: Sequence[int], depth: int) -> Tensor:
        return weights.sum()


def test_a_fusion_of_the_wrong_shape_is_refused() -> None:
    model, _ = chain()
    before = state(model)
    with pytest.raises(ws.SharingError):
        ws.share_(model, ws.Tie(rate=2, fuse=WrongShape()))
    assert state(model) == before


def cast(model: nn.Module) -> None:
    model.blocks[1].to(torch.float64)


def widen(model: nn.Module) -> None:
    model.blocks[1].fc1 = nn.Linear(5, 13)


def drop(model: nn.Module) -> None:
    del model.blocks[5]


def add(model: nn.Module) -> None:
    model.add_module("more", nn.Linear(11, 2))


def tie(model: nn.Module) -> None:
    model.blocks[3].fc1.weight = model.blocks[0].fc1.weight


def tie_outside(model: nn.Module) -> None:
    model.stem.bias = model.blocks[0].norm.bias


def freeze(model: nn.Module) -> None:
    model.blocks[1].requires_grad_(False)


def to_meta(model: nn.Module) -> None:
    model.to("meta")


def to_meta_in_part(model: nn.Module) -> None:
    model.blocks[1].to("meta")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (cast, ModelChanged, r"'blocks\.1\..*' has changed since the plan: got .* float64, planned for .* float32"),
        (widen, ModelChanged, r"'blocks\.1\.fc1\.weight' has changed since the plan: got \(13, 5\)"),
        (drop, ModelChanged, r"no parameter 'blocks\.5\..*', which the plan shares"),
        (add, ModelChanged, "not the one that was planned for"),
        (tie, AlreadyShared, r"'blocks\.0\.fc1\.weight' is already one parameter with 'blocks\.3\.fc1\.weight'"),
        (tie_outside, AlreadyShared, "is already one parameter with"),
        (freeze, ShapeMismatch, r"'blocks\.1\..*got requires_grad False"),
        (to_meta, SpecError, "is on the meta device"),
        (to_meta_in_part, SpecError, r"'blocks\.1\..*is on the meta device"),
    ],
)
def test_a_model_that_changed_since_is_refused(
    change: Callable[[nn.Module], None], error: type[Exception], message: str
) -> None:
    model, _ = chain()
    plan = ws.plan(model, ws.Tie(rate=2, fuse=ws.mean))
    change(model)
    before = state(model)
    with pytest.raises(error, match=message):
        plan.apply_(model)
    assert state(model) == before


def test_a_plan_is_applied_once() -> None:
    model, _ = chain()
    plan = ws.share_(model, ws.Tie(rate=2))
    before = state(model)
    with pytest.raises(AlreadyShared, match="give it one of its own before"):
        plan.apply_(model)
    assert state(model) == before
