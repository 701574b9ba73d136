"""Likeness of weights, before and after alignment, and block influence: against their formulas."""

from itertools import combinations
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import state
from tests.zoo import Residual
from weightshare.depth.measure import block_influence, blocks_of, weight_similarity
from weightshare.depth.tie import Tie
from weightshare.depth.units import find_units, tensor_at
from weightshare.errors import ModelChanged, NoMatch, SpecError
from weightshare.models.resnet import resnet20
from weightshare.planning import make_plan
from weightshare.sharing import Group


def chain(depth: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*(Residual(3, 7) for _ in range(depth)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.rand_like(weight))
    return model


def groups(model: nn.Module, where: str | None = None) -> tuple[Group, ...]:
    return make_plan(model, Tie(rate=1), where).groups


def test_every_pair_is_its_formula() -> None:
    model = chain()
    assert len(groups(model)) == 6
    for group, found in zip(groups(model), weight_similarity(model, groups(model)), strict=True):
        assert found.name == group.name
        assert found.cosine.rows == found.distance.columns == group.items
        for i, j in combinations(range(3), 2):
            x, y = (tensor_at(model, group.items[item]).detach().double().flatten() for item in (i, j))
            distance = (x - y).norm() / math.sqrt((x @ x + y @ y) / 2)
            assert found.cosine.values[i, j].item() == pytest.approx((x @ y / (x.norm() * y.norm())).item())
            assert found.distance.values[j, i].item() == pytest.approx(distance.item())


def test_alignment_finds_permuted_copies() -> None:
    model = chain()
    model[1].load_state_dict(model[0].state_dict())
    (units,), _ = find_units(model[1])
    for span in units.spans:
        tensor = tensor_at(model[1], span.path)
        tensor.data.copy_(span.permuted(tensor, torch.arange(7).roll(2)))
    before = state(model)
    plain, aligned = (weight_similarity(model, groups(model), aligned=kind) for kind in (False, True))
    assert state(model) == before
    inner = {"*.fc1.weight", "*.fc1.bias", "*.fc2.weight"}
    assert {one.name for one in plain if one.distance.values[0, 1] > 0} == inner
    assert {one.name for one in aligned if one.distance.values[0, 1] > 0} == set()
    assert all(one.cosine.values[1, 0].item() == pytest.approx(1) for one in aligned)
    assert aligned[0].cosine.measure == "cosine, aligned"
    off_before, off_after = (sum(one.distance.values[0, 2] for one in found) for found in (plain, aligned))
    assert 0 < off_after < off_before


def test_alignment_asks_only_the_tensors_of_the_groups() -> None:
    model = chain()
    (found,) = weight_similarity(model, groups(model, "*.fc1.weight"), aligned=True)
    rows = [model[index].fc1.weight.detach().double() for index in (0, 1)]
    from scipy.optimize import linear_sum_assignment

    order = linear_sum_assignment(rows[0] @ rows[1].T, maximize=True)[1]
    distance = (rows[0] - rows[1][order]).norm() / ((rows[0].square().sum() + rows[1].square().sum()) / 2).sqrt()
    assert found.distance.values[0, 1].item() == pytest.approx(distance.item())


def test_bad_groups() -> None:
    model = chain()
    with pytest.raises(SpecError, match="meta device"):
        weight_similarity(chain().to("meta"), groups(model))
    with pytest.raises(ModelChanged):
        weight_similarity(nn.Linear(2, 2), groups(model))


def test_a_long_matrix_is_printed_in_one_line() -> None:
    model = chain(17)
    found = weight_similarity(model, groups(model, "*.fc1.bias"))[0]
    assert str(found.distance).startswith("relative distance: 17 × 17 layers, from 0.000 to ")
    assert len(str(weight_similarity(chain(), groups(chain()))[0].distance).splitlines()) == 5


class Scaled(nn.Module):
    """Turns what it gets by an angle, in the plane of the first two features."""

    def __init__(self, angle: float) -> None:
        super().__init__()
        self.turn = nn.Parameter(
            torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        )

    def forward(self, hidden_states: Tensor, factor: float = 3.0) -> tuple[Tensor, None]:
        return factor * hidden_states @ self.turn.T, None


class Turns(nn.Module):
    """Blocks that take keywords and give tuples."""

    def __init__(self, *angles: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Scaled(angle) for angle in angles)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(hidden_states=x)[0]
        return x


def test_influence_is_one_less_the_cosine() -> None:
    model = Turns(0.0, 0.5, math.pi)
    batches = [torch.randn(5, 7, 2), torch.randn(3, 2)]
    found = block_influence(model, batches)
    assert list(found) == ["blocks.0", "blocks.1", "blocks.2"]
    assert list(found.values()) == pytest.approx([0, 1 - math.cos(0.5), 2], abs=1e-6)


def test_influence_is_a_mean_over_positions_and_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)))
    batches = [torch.randn(2, 3, 5, 7), torch.randn(5, 3, 5, 7)]
    first = [model[0](batch) for batch in batches]
    cosines = torch.cat([nn.functional.cosine_similarity(x, model[1](x), dim=1).flatten() for x in first])
    assert block_influence(model, batches)["1"] == pytest.approx(1 - cosines.mean().item(), abs=1e-5)
    rows = torch.cat([nn.functional.cosine_similarity(x, model[1](x), dim=3).flatten() for x in first])
    assert block_influence(model, batches, axis=3)["1"] == pytest.approx(1 - rows.mean().item(), abs=1e-5)


def test_blocks_that_change_the_shape_have_no_influence() -> None:
    torch.manual_seed(0)
    found = block_influence(resnet20((3, 5, 7)), [torch.randn(2, 3, 9, 9)])
    assert [path for path, value in found.items() if math.isnan(value)] == ["layer2.0", "layer3.0"]
    assert len(found) == 9


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        ([], "no batch"),
        ([torch.randn(5, 3)], "cannot run on batch 0"),
        ([torch.randn(5, 2), {"y": torch.randn(5, 2)}], "cannot run on batch 1"),
    ],
)
def test_bad_batches(batches: list[Any], text: str) -> None:
    model = Turns(0.0, 1.0)
    before = state(model)
    with pytest.raises(SpecError, match=text):
        block_influence(model, batches)
    assert state(model) == before


def test_blocks_are_those_of_containers() -> None:
    assert list(blocks_of(resnet20((3, 5, 7), blocks=2))) == ["layer1.0", "layer1.1"]
    with pytest.raises(NoMatch, match="no repeated blocks"):
        blocks_of(nn.Linear(2, 2))
