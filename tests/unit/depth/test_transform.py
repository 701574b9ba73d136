"""Transforms: what layers add of their own, from the formula, and how close they start to what the layers had."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.banked import Net
from tests.support import state
import weightshare as ws
from weightshare.depth.transform import LoRA, Scale, Transform
from weightshare.errors import SpecError
from weightshare.planning import Plan

WHERE = "blocks.*.fc1.weight"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def read(model: nn.Module, items: Sequence[str]) -> list[Tensor]:
    return [getattr(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]).detach() for path in items]


def shared(spec: ws.Tie, model: nn.Module, where: str = WHERE) -> tuple[list[Tensor], list[Tensor], list[Tensor], Plan]:
    """The weights before; the means of each slot's readers; the weights that are read; and the plan."""
    plan = ws.plan(model, spec, where)
    [group] = plan.groups
    before = [model.get_parameter(path).detach().clone() for path in group.items]
    plan.apply_(model)
    labels = group.assignment.labels.tolist()
    means = [
        torch.stack([weight for weight, other in zip(before, labels, strict=True) if other == label]).mean(0)
        for label in labels
    ]
    return before, means, read(model, group.items), plan


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("order", [ws.sequential, ws.strided, ws.random(2)])
def test_low_rank_starts_from_the_truncated_svd(rank: int, order: object) -> None:
    """The error is the root of the sum of the squared singular values that are dropped, the least of that rank."""
    spec = ws.Tie(rate=3, order=order, fuse=ws.mean, own=LoRA(rank))  # type: ignore[arg-type]
    before, means, found, _ = shared(spec, Net(7).double())
    for weight, base, made in zip(before, means, found, strict=True):
        sizes = torch.linalg.svdvals(weight - base)
        torch.testing.assert_close(torch.linalg.norm(weight - made), sizes[rank:].square().sum().sqrt())
        assert torch.linalg.matrix_rank(made - base) <= rank


def test_full_rank_loses_nothing() -> None:
    model = Net().double()
    x = torch.randn(3, 3, dtype=torch.float64)
    wanted = model(x).detach()
    ws.share_(model, ws.Tie(rate=5, fuse=ws.mean, own=LoRA(5)), ["*.fc1.weight", "*.fc2.weight"])
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(ws.fold(model)(x), wanted)


def test_a_layer_that_lost_nothing_can_still_learn() -> None:
    """`B = 0` and `A = 0` would have no gradient, ever: the first reader of `first` has such a residual."""
    model = Net(4).double()
    before = model.get_parameter("blocks.0.fc1.weight").detach().clone()
    ws.share_(model, ws.Tie(rate=2, fuse=ws.first, own=LoRA(2)), WHERE)
    assert torch.equal(read(model, ["blocks.0.fc1.weight"])[0], before)
    model(torch.randn(3, 3, dtype=torch.float64)).square().sum().backward()
    [up] = [tensor for name, tensor in model.named_parameters() if name.endswith("own.up")]
    assert up.grad is not None
    assert (up.grad.flatten(1).norm(dim=1) > 0).tolist() == [True] * 4


def test_low_rank_of_a_kernel_is_that_of_its_matrix() -> None:
    model = nn.Sequential(*(nn.Conv2d(6, 6, (3, 5), groups=2, padding="same", bias=False) for _ in range(2))).double()
    before, means, found, plan = shared(ws.Tie(rate=2, fuse=ws.mean, own=LoRA(2)), model, "*.weight")
    assert plan.groups[0].stored_after == 6 * 3 * 15 + 2 * 2 * (6 + 45)
    sizes = torch.linalg.svdvals((before[1] - means[1]).flatten(1))
    torch.testing.assert_close(torch.linalg.norm(before[1] - found[1]), sizes[2:].square().sum().sqrt())


def test_a_random_start_changes_nothing_at_first() -> None:
    model = Net().double()
    _, means, found, _ = shared(ws.Tie(rate=2, fuse=ws.mean, own=LoRA(2, start="identity")), model)
    torch.testing.assert_close(found, means)
    bank = model.weightshare_banks.blocks_fc1_weight
    assert bank.own.down.abs().min() > 0
    assert not bank.own.up.any()


@pytest.mark.parametrize("by", ["scalar", "channel"])
@pytest.mark.parametrize("shift", [False, True])
def test_a_fitted_scale_is_least_squares(by: str, shift: bool) -> None:
    """Against torch's solver, one row of the weight, or all of it, at a time."""
    spec = ws.Tie(rate=3, order=ws.strided, fuse=ws.mean, own=Scale(by, shift, start="fit"))  # type: ignore[arg-type]
    before, means, found, plan = shared(spec, Net(7).double())
    assert plan.groups[0].own == 7 * (7 if by == "channel" else 1) * (2 if shift else 1)
    for weight, base, made in zip(before, means, found, strict=True):
        rows = 7 if by == "channel" else 1
        for target, source, value in zip(*(w.reshape(rows, -1) for w in (weight, base, made)), strict=True):
            design = torch.stack([source, torch.ones_like(source)][: 1 + shift], 1)
            torch.testing.assert_close(value, design @ torch.linalg.lstsq(design, target[:, None]).solution[:, 0])


@pytest.mark.parametrize("own", [Scale(), Scale("channel"), Scale("channel", shift=True)])
def test_a_scale_starts_as_the_identity(own: Transform) -> None:
    _, means, found, _ = shared(ws.Tie(rate=2, fuse=ws.mean, own=own), Net().double())
    torch.testing.assert_close(found, means)


def test_a_scale_of_nothing_is_one() -> None:
    """A base of zeros says nothing of its scale."""
    model = Net(2).double()
    nn.init.zeros_(model.blocks[0].fc1.weight)
    ws.share_(model, ws.Tie(rate=2, own=Scale("channel", start="fit")), WHERE)
    own = model.weightshare_banks.blocks_fc1_weight.own
    assert torch.equal(own.scale, torch.ones(2, 7, 1, dtype=torch.float64))


def test_layers_that_share_with_none_have_nothing_of_their_own() -> None:
    model = Net().double()
    before, _, found, plan = shared(ws.Tie(slots=[0, 0, 1, 2, 2], fuse=ws.mean, own=LoRA(1)), model)
    assert plan.groups[0].own == 4 * (5 + 7)
    assert torch.equal(found[2], before[2])
    assert model.blocks[2].fc1.weight is model.weightshare_banks.blocks_fc1_weight.stored[1]


def test_vectors_are_read_as_they_are() -> None:
    model = Net()
    plan = ws.share_(model, ws.Tie(rate=2, fuse=ws.mean, own=LoRA(1)), "blocks.*.bias")
    assert [(group.own, group.dense) for group in plan.groups] == [(0, False)] * 2
    folded = ws.fold(model)
    assert folded.blocks[0].fc1.bias is folded.blocks[1].fc1.bias


def test_a_rank_above_a_matrix() -> None:
    """An error where the pattern names it; left out with the reason where nobody did."""
    model = Net()
    before = state(model)
    with pytest.raises(SpecError, match=r"LoRA\(rank=6\).*\(7, 5\).*at most 5"):
        ws.share_(model, ws.Tie(rate=2, own=LoRA(6)), WHERE)
    assert state(model) == before
    plan = ws.plan(model, ws.Tie(rate=2, own=LoRA(6)))
    assert {left.path for left in plan.left_out} >= {f"blocks.{at}.fc{of}.weight" for at in range(5) for of in (1, 2)}
    assert "at most 5" in {left.path: left.reason for left in plan.left_out}["blocks.3.fc2.weight"]
    assert all(len(group.shape) == 1 for group in plan.groups)


@pytest.mark.parametrize("bad", [0, -1, 1.0, True, "2", None])
def test_ranks_that_are_none(bad: object) -> None:
    with pytest.raises(SpecError, match="rank"):
        LoRA(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LoRA(1, start="svd"),  # type: ignore[arg-type]
        lambda: Scale("row"),  # type: ignore[arg-type]
        lambda: Scale(shift=1),  # type: ignore[arg-type]
        lambda: Scale(start=None),  # type: ignore[arg-type]
        lambda: ws.Tie(rate=2, own="lora"),  # type: ignore[arg-type]
        lambda: ws.Tie(rate=2, own=LoRA),  # type: ignore[arg-type]
    ],
)
def test_transforms_that_are_none(make: object) -> None:
    with pytest.raises(SpecError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_kinds_of_numbers(dtype: torch.dtype) -> None:
    """bfloat16 is decomposed in float64; complex numbers stay complex."""
    weights = [torch.randn(7, 5).to(dtype) for _ in range(2)]
    for own, error in ((LoRA(5), 0.0), (Scale("channel", start="fit"), None)):
        net = nn.Module()
        net.weights = nn.ParameterList([nn.Parameter(weight.clone()) for weight in weights])
        ws.share_(net, ws.Tie(rate=2, fuse=ws.mean, own=own))
        found = [net.weights[0].detach(), net.weights[1].detach()]
        assert {one.dtype for one in found} == {dtype}
        lost = max((a - b).abs().max().item() for a, b in zip(found, weights, strict=True))
        assert lost < (0.05 if error == 0.0 else 10)


@pytest.mark.parametrize("spec", [ws.Tie(rate=2, own=LoRA(1)), ws.Tie(rate=2, fuse=ws.mean)])
def test_quantised_weights_have_no_mean(spec: ws.Tie) -> None:
    """A mean of whole numbers would be cut off without a word."""
    model = nn.Module()
    labels = [nn.Parameter(torch.randint(-7, 7, (5, 3), dtype=torch.int8), requires_grad=False) for _ in range(4)]
    model.packed = nn.ParameterList(labels)
    before = state(model)
    with pytest.raises(ws.SharingError, match=r"its numbers are int8"):
        ws.share_(model, spec)
    assert state(model) == before
