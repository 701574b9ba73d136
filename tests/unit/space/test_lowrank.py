"""`LowRank`: mixtures against the naive sum, their gradients, the start, and every way in and out of a model."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
import torch
from torch import Tensor, nn

from tests.contract.trial import numbers
from tests.reading import rebuilt
from tests.support import bits, output, state
import weightshare as ws
from weightshare.errors import FileError, ModelChanged, SpecError
from weightshare.files import archive
from weightshare.files.mixture import Mixed
from weightshare.files.sizes import Size, sizes
from weightshare.space.lowrank import factors


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(ws.LocallyConnected2d(2, 6, 3, (7, 5), padding=1, groups=2), nn.ReLU(), nn.Conv2d(6, 5, 3))


def example() -> Tensor:
    return torch.randn(3, 2, 7, 5, generator=torch.Generator().manual_seed(7))


def parts(model: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """Templates and coefficients of the first layer."""
    chain: Any = model[0].parametrizations.weight
    return chain.original, chain[0].coefficients


def naive(templates: Tensor, coefficients: Tensor) -> Tensor:
    """`W_p = Σ_r A_pr T_r`, in float64, position by position."""
    rows = [sum(a * t.double() for a, t in zip(row, templates, strict=True)) for row in coefficients.double()]
    return torch.stack(rows)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_weight_is_the_sum_of_templates(rank: int) -> None:
    model = network()
    ws.share_(model, ws.LowRank(rank))
    templates, coefficients = (tensor.detach() for tensor in parts(model))
    assert (templates.shape, coefficients.shape) == ((rank, 2, 9, 3), (35, rank))
    with torch.no_grad():
        templates.normal_()
        coefficients.normal_()
    wanted = naive(templates, coefficients).view(7, 5, 2, 9, 3)
    torch.testing.assert_close(model[0].weight.detach().double(), wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_product() -> None:
    model, x = network().double(), example().double()
    ws.share_(model, ws.LowRank(3))
    templates, coefficients = parts(model)
    dense = network().double()
    with torch.no_grad():
        dense[0].weight.copy_(model[0].weight)
    for one in (model, dense):
        one(x).pow(3).sum().backward()
    every = dense[0].weight.grad.flatten(0, 1)
    for r in range(3):
        wanted = sum(a * grad for a, grad in zip(coefficients.detach()[:, r], every, strict=True))
        torch.testing.assert_close(templates.grad[r], wanted)
        weighed = torch.stack([(grad * templates.detach()[r]).sum() for grad in every])
        torch.testing.assert_close(coefficients.grad[:, r], weighed)


def test_the_start_is_the_nearest() -> None:
    matrix = torch.randn(13, 7, dtype=torch.float64)
    singular = torch.linalg.svdvals(matrix)
    for rank in range(1, 8):
        a, t = factors(matrix, rank)
        assert torch.allclose((matrix - a @ t).norm(), singular[rank:].norm(), atol=1e-12)
        torch.testing.assert_close(a.square().mean(0), torch.ones(rank, dtype=torch.float64))
        assert bool((a.mean(0) >= -1e-12).all())
        assert torch.allclose(t.norm(dim=1), singular[:rank] / 13**0.5)


def test_a_layer_of_that_rank_is_kept_to_rounding() -> None:
    model, x = network().double(), example().double()
    with torch.no_grad():
        mixed = torch.einsum("pr,rn->pn", torch.randn(35, 3).double(), torch.randn(3, 54).double())
        model[0].weight.copy_(mixed.view(7, 5, 2, 9, 3))
    wanted = output(model, x)
    for rank in (3, 4):
        twin = network().double()
        twin.load_state_dict(model.state_dict())
        ws.share_(twin, ws.LowRank(rank))
        torch.testing.assert_close(output(twin, x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 5])
def test_equal_kernels_are_a_template_with_coefficients_of_one(rank: int, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(2, 6, 3, padding=1, groups=2)
    model = nn.Sequential(ws.LocallyConnected2d.from_conv(conv, (7, 5))).to(dtype)
    kernel = model[0].weight.detach()[0, 0].clone()
    ws.share_(model, ws.LowRank(rank))
    templates, coefficients = parts(model)
    room = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(templates.detach()[0], kernel, rtol=room, atol=room)
    torch.testing.assert_close(coefficients.detach()[:, 0], torch.ones(35, dtype=dtype), rtol=room, atol=room)
    assert float(templates.detach()[1:].float().abs().sum()) < 54 * 4 * room
    torch.testing.assert_close(model[0].weight.detach()[4, 3], kernel, rtol=room, atol=room)
    assert (templates.dtype, coefficients.dtype, model[0].weight.dtype) == (dtype,) * 3


def test_it_folds_into_a_convolution_where_kernels_agree() -> None:
    conv, x = nn.Conv2d(2, 3, 3, padding=1), example()
    model = nn.Sequential(ws.LocallyConnected2d.from_conv(conv, (7, 5)))
    ws.share_(model, ws.LowRank(1))
    folded = ws.fold(model)
    assert type(folded[0]) is nn.Conv2d
    torch.testing.assert_close(output(folded, x), output(conv, x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        parts(model)[1][3] += 1
    with pytest.raises(ModelChanged, match="differ from their mean"):
        ws.fold(model)


def test_rank_two_learns_what_rank_one_cannot() -> None:
    """Two kernels, one for each half of the image: a convolution cannot tell them apart, two templates can."""
    torch.manual_seed(5)
    teacher = ws.LocallyConnected1d(1, 1, 3, 11, bias=False)
    with torch.no_grad():
        teacher.weight.copy_(torch.where(torch.arange(9) < 4, 1.0, -1.0).view(9, 1, 1, 1) * torch.randn(3, 1))
        teacher.weight[4:] += torch.randn(3, 1)
    x = torch.randn(101, 1, 11)
    losses = []
    for rank in (1, 2):
        model = nn.Sequential(ws.LocallyConnected1d(1, 1, 3, 11, bias=False))
        ws.share_(model, ws.LowRank(rank))
        optimizer = torch.optim.Adam(ws.param_groups(model, weight_decay=0.0), lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (model(x) - teacher(x).detach()).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < 1e-3 < losses[0] / 30


def test_coefficients_have_no_decay() -> None:
    model = network()
    ws.share_(model, ws.LowRank(2))
    decays = {name: g["weight_decay"] for g in ws.param_groups(model, 0.1) for name in g["param_names"]}
    assert decays["0.parametrizations.weight.original"] == 0.1
    assert decays["0.parametrizations.weight.0.coefficients"] == 0.0


def test_autocast_leaves_the_product_alone() -> None:
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        ws.share_(model, ws.LowRank(2))
        inside = model[0].weight.detach()
    assert inside.dtype == torch.float32
    assert torch.equal(inside, model[0].weight.detach())


def test_a_dense_weight_that_is_assigned_is_projected() -> None:
    model = network()
    ws.share_(model, ws.LowRank(3))
    templates, coefficients = parts(model)
    kept, weight = coefficients.detach().clone(), torch.randn(7, 5, 2, 9, 3)
    model[0].weight = weight
    wanted = torch.linalg.lstsq(kept.double(), weight.double().flatten(0, 1).flatten(1)).solution
    torch.testing.assert_close(templates.detach().flatten(1).double(), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(coefficients.detach(), kept)


def test_what_is_frozen_stays_frozen() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    ws.share_(model, ws.LowRank(2))
    assert [tensor.requires_grad for tensor in parts(model)] == [False, False]
    ws.unshare_(model)
    assert not model[0].weight.requires_grad


# Plans and files


def test_the_plan_says_so_and_comes_back_from_json() -> None:
    model = network()
    plan = ws.plan(model, ws.LowRank(rank=3))
    assert plan.stored_before - plan.stored_after == 35 * 54 - 3 * (54 + 35)
    text = str(plan)
    assert "LowRank(rank=3) everywhere" in text
    assert "of these: coefficients" in text
    again = ws.Plan.from_json(plan.to_json())
    assert (again, str(again)) == (plan, text)
    again.apply_(model)
    counted = ws.report(model)
    assert (counted.stored, counted.logical) == (plan.stored_after, plan.stored_before)
    assert [(one.slots, one.mixed, one.stored) for one in counted.positions] == [(3, True, 267)]
    assert "a mixture of 3" in str(counted)


@pytest.mark.parametrize("rank", [0, -1, 2.0, "2", True, None])
def test_a_rank_that_cannot_be(rank: Any) -> None:
    with pytest.raises(SpecError, match="LowRank"):
        ws.LowRank(rank)
    data = json.loads(ws.plan(network(), ws.LowRank(3)).to_json())
    data["groups"][0]["slots"] = rank
    with pytest.raises(FileError):
        ws.Plan.from_json(json.dumps(data))


def test_a_rank_that_saves_nothing() -> None:
    with pytest.raises(SpecError, match="rank 22 would save nothing: 1,958 numbers"):
        ws.plan(network(), ws.LowRank(22), "0")
    assert ws.plan(network(), ws.LowRank(21), "0").stored_after < ws.plan(network(), ws.LowRank(21), "0").stored_before
    biases = ws.plan(nn.Sequential(ws.LocallyConnected1d(2, 3, 3, 11, bias="position")), ws.LowRank(2), "0")
    assert [left.path for left in biases.left_out] == ["0.bias"]


def test_files(tmp_path: Path) -> None:
    model, x = network(), example()
    plan = ws.share_(model, ws.LowRank(3))
    ws.save(model, tmp_path / "m")
    held = load_file(tmp_path / "m")
    assert [held[f"0.weight.{part}"].shape for part in ("templates", "coefficients")] == [(3, 2, 9, 3), (35, 3)]
    assert Size("0.weight", 35 * 54 * 4, 3 * 54 * 4, 3 * 35 * 4) in sizes(tmp_path / "m")
    twin = network(1)
    plan.apply_(twin)
    for other in (network(1), twin):
        ws.load(tmp_path / "m", other)
        assert bits(output(other, x)) == bits(output(model, x))
        assert numbers(other) == numbers(model)
        assert ws.report(other) == ws.report(model)
    ws.unshare_(model)
    for dense in (ws.tensors(tmp_path / "m"), rebuilt(tmp_path / "m")):
        assert {name: bits(t) for name, t in dense.items()} == numbers(model)


RECIPE = {"rule": "W = A·T", "shape": [7, 5, 3], "dtype": "float32"}
HOSTILE: dict[str, tuple[dict[str, Any], tuple[Tensor, Tensor]]] = {
    "bits, which it has none of": ({"bits": 2}, (torch.ones(2, 3), torch.ones(35, 2))),
    "another rule": ({"rule": "W = A@T"}, (torch.ones(2, 3), torch.ones(35, 2))),
    "another rank": ({}, (torch.ones(2, 3), torch.ones(35, 3))),
    "other positions": ({}, (torch.ones(2, 3), torch.ones(34, 2))),
    "another kernel": ({}, (torch.ones(2, 5), torch.ones(35, 2))),
    "templates without a shape": ({}, (torch.ones(()), torch.ones(35, 2))),
    "templates of more axes than the weight": ({}, (torch.ones(2, 1, 1, 7, 5, 3), torch.ones(35, 2))),
    "no templates": ({}, (torch.ones(0, 3), torch.ones(35, 0))),
    "another dtype": ({"dtype": "float64"}, (torch.ones(2, 3), torch.ones(35, 2))),
    "a dtype that is none": ({"dtype": ["float32"]}, (torch.ones(2, 3), torch.ones(35, 2))),
    "whole numbers": ({"dtype": "int64"}, (torch.ones(2, 3).long(), torch.ones(35, 2).long())),
    "two dtypes": ({}, (torch.ones(2, 3), torch.ones(35, 2).double())),
    "a shape as text": ({"shape": "753"}, (torch.ones(2, 3), torch.ones(35, 2))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, (templates, coefficients) = HOSTILE[name]
    monkeypatch.setattr(Mixed, "recipe", lambda _: RECIPE | changes)
    archive.write(tmp_path / "m", {}, {}, {"kind": "model"}, {"w": Mixed(templates, coefficients, (7, 5, 3))})
    with pytest.raises(FileError):
        ws.tensors(tmp_path / "m")


def test_the_honest_recipe_is_read(tmp_path: Path) -> None:
    made = Mixed(torch.randn(2, 3), torch.randn(35, 2), (7, 5, 3))
    archive.write(tmp_path / "m", {}, {}, {"kind": "model"}, {"w": made})
    assert made.recipe() == RECIPE
    wanted = naive(made.templates, made.coefficients).view(7, 5, 3).float()
    torch.testing.assert_close(ws.tensors(tmp_path / "m")["w"], wanted, rtol=1e-5, atol=1e-5)


def test_a_file_of_another_rank_changes_nothing(tmp_path: Path) -> None:
    model, other = network(), network()
    ws.share_(model, ws.LowRank(2))
    ws.save(model, tmp_path / "m")
    ws.share_(other, ws.LowRank(3))
    before = state(other)
    with pytest.raises(FileError):
        ws.load(tmp_path / "m", other)
    assert state(other) == before
