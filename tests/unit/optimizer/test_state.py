"""What becomes of an optimizer's state when the sharing changes in mid-training."""

from collections.abc import Callable
import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.specs import OF_POSITIONS, SPECS
from tests.support import bits
from tests.unit.optimizer.test_kinds import entries
from tests.zoo import Case, chain, local_rows
import weightshare as ws
from weightshare.errors import OptimizerMismatch, SpecError
from weightshare.optimizer_state import carry_, remember

Make = Callable[[list], torch.optim.Optimizer]
KINDS: dict[str, Make] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, amsgrad=True),
}


ZERO = torch.zeros(())


def train(model: nn.Module, example: Tensor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(example).square().mean().backward()
        optimizer.step()


def state_of(optimizer: torch.optim.Optimizer, tensor: Tensor) -> dict[str, Any]:
    return {key: bits(torch.as_tensor(value)) for key, value in optimizer.state[tensor].items()}


def trained(spec: str, make: Make) -> tuple[nn.Module, Tensor, torch.optim.Optimizer]:
    torch.manual_seed(3)
    case: Case = local_rows() if spec in OF_POSITIONS else chain()
    optimizer = make(ws.param_groups(case.model, 0.1))
    train(*case, optimizer)
    return *case, optimizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_every_parameter_is_kept_or_fused_or_named_as_reset(spec: str, kind: str) -> None:
    model, example, old = trained(spec, KINDS[kind])
    before = remember(old, model)
    olds = {name: state_of(old, tensor) for name, tensor in model.named_parameters()}
    plan = ws.share_(model, SPECS[spec]())
    with pytest.raises(OptimizerMismatch, match="does not fit the model"):
        ws.check(old, model)
    new = KINDS[kind](ws.param_groups(model, 0.1))
    carried = carry_(new, before, model)

    touched = {path for group in plan.groups for path in group.items}
    ties = {tie[0]: tie for tie in plan.ties if len(tie) > 1}
    paths = dict(model.named_parameters())
    assert set(carried.kept) == {name for name in paths if name in olds} - set(ties)
    assert set(carried.fused) == set(ties)
    assert set(carried.reset) == set(paths) - set(olds)
    assert touched or carried.kept
    for path in carried.kept:
        assert state_of(new, paths[path]) == olds[path]
    for path in carried.fused:
        assert new.state[paths[path]].keys() == olds[path].keys()
    assert not any(new.state[paths[path]] for path in carried.reset)
    assert all(reason == "there was no parameter of this name" for reason in carried.reset.values())
    train(model, example, new)
    assert all(len(new.state[tensor]) == len(new.state[next(iter(paths.values()))]) for tensor in paths.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_there_and_back_gives_each_layer_its_part(spec: str, kind: str) -> None:
    torch.manual_seed(3)
    model, example = local_rows() if spec in OF_POSITIONS else chain()
    plan = ws.share_(model, SPECS[spec]())
    old = KINDS[kind](ws.param_groups(model, 0.1))
    train(model, example, old)
    before = remember(old, model)
    olds = dict(model.named_parameters())
    ws.unshare_(model)
    new = KINDS[kind](ws.param_groups(model, 0.1))
    carried = carry_(new, before, model)
    split = {path for tie in plan.ties if len(tie) > 1 for path in tie}
    assert set(carried.split) == split
    assert set(carried.reset) == {name for name, _ in model.named_parameters()} - set(olds) - split
    for tie in plan.ties:
        for path in tie:
            was, now = old.state[olds[tie[0]]], new.state[model.get_parameter(path)]
            for key, power in {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}.items():
                assert (key in now) == (key in was)
                torch.testing.assert_close(now.get(key, ZERO), was.get(key, ZERO) / len(tie) ** power)
    train(model, example, new)


class Branches(nn.Module):
    """Equal branches whose outputs are added: their gradients are equal, as long as their weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(5, 7) for _ in range(3))
        self.head = nn.Linear(7, 2)
        self.branches.load_state_dict(
            {f"{number}.{name}": one for number in range(3) for name, one in self.branches[0].state_dict().items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(sum(branch(x) for branch in self.branches)))


def tied() -> Branches:
    model = Branches()
    ws.share_(model, ws.Tie(slots=[0, 0, 0]), "branches")
    return model


ADAMS: dict[str, Make] = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, eps=1e-30),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=0.01, eps=1e-30, fused=True),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=0.01, eps=1e-30, amsgrad=True),
    "Adadelta": lambda groups: torch.optim.Adadelta(groups, lr=0.5, eps=1e-30),
    "Adamax": lambda groups: torch.optim.Adamax(groups, lr=0.01, eps=1e-30),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, eps=1e-30, momentum=0.9, centered=True),
    "Adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.01, eps=1e-30),
}
"""Whose steps do not depend on the scale of gradients, so that sharing equal branches changes nothing at all."""


@pytest.mark.parametrize("kind", ADAMS)
@pytest.mark.parametrize("back", [False, True])
def test_where_readers_agree_the_trajectory_is_that_of_no_change_at_all(kind: str, back: bool) -> None:
    torch.manual_seed(5)
    first, x = tied(), torch.randn(11, 5)
    apart = copy.deepcopy(first)
    ws.unshare_(apart)
    whole, changing = (first, apart) if not back else (apart, first)
    reference = ADAMS[kind](ws.param_groups(whole, 0.0))
    train(whole, x, reference, steps=6)

    old = ADAMS[kind](ws.param_groups(changing, 0.0))
    train(changing, x, old)
    before = remember(old, changing)
    ws.unshare_(changing) if back else ws.share_(changing, ws.Tie(slots=[0, 0, 0]), "branches")
    new = ADAMS[kind](ws.param_groups(changing, 0.0))
    carried = carry_(new, before, changing)
    assert not carried.reset
    train(changing, x, new)
    for (path, one), other in zip(changing.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=path)


def test_a_bound_where_readers_disagree() -> None:
    """The carried root of squares is no smaller than that of the summed gradients' true history."""
    model, example = chain()
    old = torch.optim.AdamW(ws.param_groups(model, 0.1), lr=0.01)
    squares, means = torch.zeros(7, 5), torch.zeros(7, 5)
    layers = [block.fc1.weight for block in model.blocks]
    for _ in range(5):
        old.zero_grad()
        model(example).square().mean().backward()
        g = sum(layer.grad for layer in layers)
        squares, means = 0.999 * squares + 0.001 * g**2, 0.9 * means + 0.1 * g
        old.step()
    before = remember(old, model)
    ws.share_(model, ws.Tie(rate=6), "*.fc1.weight")
    new = torch.optim.AdamW(ws.param_groups(model, 0.1), lr=0.01)
    assert carry_(new, before, model).fused == ("blocks.0.fc1.weight",)
    held = new.state[model.blocks[0].fc1.weight]
    torch.testing.assert_close(held["exp_avg"], means)
    assert bool((held["exp_avg_sq"] >= squares * (1 - 1e-5)).all())


def test_slots_that_change_their_readers_take_the_parts_that_come_along() -> None:
    model, example = chain()
    ws.share_(model, ws.Tie(slots=[0, 0, 0, 0, 1, 2]), "*.fc1.bias")
    old = torch.optim.SGD(ws.param_groups(model, 0.1), lr=0.01, momentum=0.9)
    train(model, example, old)
    was = [old.state[model.blocks[block].fc1.bias]["momentum_buffer"].clone() for block in (0, 4, 5)]
    before = remember(old, model)
    ws.unshare_(model)
    ws.share_(model, ws.Tie(slots=[0, 0, 0, 1, 1, 2]), "*.fc1.bias")
    new = torch.optim.SGD(ws.param_groups(model, 0.1), lr=0.01, momentum=0.9)
    carried = carry_(new, before, model)
    assert (carried.split, carried.fused) == (("blocks.0.fc1.bias",), ("blocks.3.fc1.bias",))
    assert "blocks.5.fc1.bias" in carried.kept
    now = [new.state[model.blocks[block].fc1.bias]["momentum_buffer"] for block in (0, 3, 5)]
    torch.testing.assert_close(now, [was[0] * 3 / 4, was[0] / 4 + was[1], was[2]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", ["halves", "clusters", "templates", "lattice"])
def test_folding_keeps_what_goes_on_under_its_name(spec: str, kind: str) -> None:
    torch.manual_seed(3)
    model, example = local_rows() if spec in OF_POSITIONS else chain()
    ws.share_(model, SPECS[spec]())
    old = KINDS[kind](ws.param_groups(model, 0.1))
    train(model, example, old)
    before = remember(old, model)
    small = ws.fold(model, tolerance=math.inf)
    new = KINDS[kind](ws.param_groups(small, 0.1))
    carried = carry_(new, before, small)
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    same = {name for name, tensor in small.named_parameters() if shapes.get(name) == tensor.shape}
    assert same
    assert set(carried.kept) == same
    assert not carried.fused
    assert not carried.split
    assert set(carried.reset) == {name for name, _ in small.named_parameters()} - same
    for path in carried.kept:
        assert state_of(new, small.get_parameter(path)) == state_of(old, model.get_parameter(path))


def test_state_goes_between_plain_and_fused_and_lies_as_the_weight_does() -> None:
    model = nn.Sequential(*(nn.Conv2d(5, 5, 3, padding=1) for _ in range(2))).to(memory_format=torch.channels_last)
    x = torch.randn(2, 5, 7, 7)
    old = torch.optim.AdamW(ws.param_groups(model, 0.1), lr=0.01)
    train(model, x, old)
    before = remember(old, model)
    ws.share_(model, ws.Tie(rate=2))
    new = torch.optim.AdamW(ws.param_groups(model, 0.1), lr=0.01, fused=True)
    carry_(new, before, model)
    assert new.state[model[0].weight]["exp_avg"].stride() == model[0].weight.stride()
    train(model, x, new)


def test_what_is_printed() -> None:
    model, _, old = trained("templates", KINDS["AdamW"])
    before = remember(old, model)
    ws.share_(model, ws.Templates(2), "*.fc1.weight")
    ws.share_(model, ws.Tie(rate=6), "*.fc2.weight")
    lines = str(carry_(KINDS["AdamW"](ws.param_groups(model, 0.1)), before, model)).splitlines()
    assert lines[0].startswith("kept, ")
    assert lines[1] == "fused, 1: blocks.0.fc2.weight"
    assert lines[2].startswith("reset, 2: blocks.0.fc1.weightshare_banks.blocks_fc1_weight.templates, ")
    assert lines[2].endswith(": there was no parameter of this name")


def test_without_a_step_there_is_nothing_to_carry() -> None:
    model, _ = chain()
    before = remember(torch.optim.SGD(model.parameters(), lr=0.1), model)
    carried = carry_(torch.optim.SGD(model.parameters(), lr=0.1), before, model)
    assert set(carried.reset) == {name for name, _ in model.named_parameters()}
    assert all("no state" in reason for reason in carried.reset.values())


def test_entries_of_unknown_kinds_stay_where_readers_stay_and_are_reset_elsewhere() -> None:
    model, example = chain()
    old = torch.optim.ASGD(ws.param_groups(model, 0.1), lr=0.01)
    train(model, example, old)
    before = remember(old, model)
    ws.share_(model, ws.Tie(rate=6), "*.fc1.weight")
    carried = carry_(torch.optim.ASGD(ws.param_groups(model, 0.1), lr=0.01), before, model)
    assert "blocks.0.fc2.weight" in carried.kept
    assert "of ASGD becomes when readers change is not known" in carried.reset["blocks.0.fc1.weight"]


def test_what_cannot_be_carried_is_refused() -> None:
    model, example, old = trained("halves", KINDS["AdamW"])
    before = remember(old, model)
    ws.share_(model, ws.Tie(rate=2))
    with pytest.raises(OptimizerMismatch, match="state is of AdamW, the optimizer is SGD"):
        carry_(torch.optim.SGD(model.parameters(), lr=0.1), before, model)
    with pytest.raises(OptimizerMismatch, match="trains nothing"):
        carry_(KINDS["AdamW"]([torch.zeros(3, requires_grad=True)]), before, model)
    with pytest.raises(OptimizerMismatch, match="trains nothing"):
        remember(old, model)
    new = KINDS["AdamW"](ws.param_groups(model, 0.1))
    train(model, example, new, steps=1)
    with pytest.raises(OptimizerMismatch, match="has stepped already"):
        carry_(new, before, model)
    lbfgs = torch.optim.LBFGS(model.parameters())
    with pytest.raises(SpecError, match="one history for all"):
        carry_(torch.optim.LBFGS(model.parameters()), remember(lbfgs, model), model)


def test_the_old_optimizer_is_left_alone() -> None:
    model, example, old = trained("halves", KINDS["AdamW"])
    kept = copy.deepcopy(old.state_dict())
    before = remember(old, model)
    ws.share_(model, ws.Tie(rate=2))
    new = KINDS["AdamW"](ws.param_groups(model, 0.1))
    carry_(new, before, model)
    train(model, example, new)
    now = old.state_dict()
    assert all(torch.equal(now["state"][n][key], one) for n, row in kept["state"].items() for key, one in row.items())
    assert len(entries(old)) > len(entries(new))
