"""Folding templates into loops: outputs kept where coefficients are parallel, counts as stated, reasons where none."""

from collections.abc import Sequence
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.banked import template_bank
from tests.support import output, state
import weightshare as ws
from weightshare.depth.fold import plan_loops
from weightshare.depth.loops import Looped, Run, Scaled
from weightshare.depth.templates import TemplateBank
from weightshare.errors import ModelChanged, NoMatch, SpecError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(13)


class Block(nn.Module):
    """Two convolutions of one shape with norms before them, as wide residual networks have."""

    def __init__(self, width: int, bias: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())


class Net(nn.Module):
    """Blocks between a stem and a head; in a list, they are run by this forward."""

    def __init__(self, depth: int = 5, width: int = 5, bias: bool = False, listed: bool = False) -> None:
        super().__init__()
        blocks = [Block(width, bias) for _ in range(depth)]
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.blocks = nn.ModuleList(blocks) if listed else nn.Sequential(*blocks)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((-2, -1)))


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 2, 7, 7)


def shared(rows: Sequence[Sequence[float]], **how: Any) -> nn.Module:
    """A network whose layers have these coefficients, in the order conv1, conv2 of each block; norms as if trained."""
    model = Net(len(rows) // 2, **how)
    ws.share_(model, ws.Templates(len(rows[0])), "blocks.*")
    template_bank(model).coefficients.data.copy_(torch.tensor(rows))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_()
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2.0)
    return model


A, B, C, D = (1.0, 0.5, 0.0, 0.2), (0.3, -1.0, 0.4, 0.0), (0.0, 0.1, 1.0, 1.0), (-1.0, 0.0, 0.2, 0.7)


def times(factor: float, row: Sequence[float]) -> tuple[float, ...]:
    return tuple(factor * value for value in row)


ALIKE = {
    "equal": [A, B, A, B, A, B, C, D],
    "signs": [A, B, times(-1, A), B, A, times(-1, B), C, D],
    "factors": [A, B, times(2, A), times(-0.25, B), times(3, A), B, C, D],
}


@pytest.mark.parametrize("rows", ALIKE)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_parallel_coefficients_keep_outputs(rows: str, bias: bool, listed: bool) -> None:
    model, x = shared(ALIKE[rows], bias=bias, listed=listed), images()
    before, wanted = state(model.eval()), output(model, x)
    plan = plan_loops(model, 0.999, batches=[x])
    folded = plan.fold(model)
    assert (output(folded, x) - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    assert plan.output_error is not None
    assert plan.output_error <= 1e-6
    assert state(model) == before
    assert plan.stored_after == sum(tensor.numel() for tensor in folded.parameters())
    factors = {"factors": 3}.get(rows, 0)  # 2, -0.25 and 3; a sign needs no number
    assert plan.stored_before - plan.stored_after == 4 * (8 + 225) - 4 * 225 - factors
    assert plan.removed == 4
    (chain,) = plan.chains
    assert chain.runs == (Run(0, 1, passes=3), Run(3, 1))
    assert str(chain) == "3 × (0) → 3"
    assert isinstance(folded.blocks, nn.ModuleList if listed else Looped)
    assert not [module for module in folded.modules() if isinstance(module, TemplateBank)]
    text = str(plan)
    assert "4 of 8 layers go" in text
    assert "Chain 'blocks': 3 × (0) → 3" in text
    assert ("a ModuleList is run by the forward around it" in text) == listed


def test_each_pass_keeps_its_own_norms_and_trains_on() -> None:
    model = shared(ALIKE["factors"], bias=True)
    folded = plan_loops(model, 0.999).fold(model)
    blocks = folded.blocks
    assert blocks[0].conv1.weight is blocks[1].conv1.layer.weight
    assert blocks[0].norm1.weight is not blocks[1].norm1.weight
    assert isinstance(blocks[1].conv1, Scaled)
    assert blocks[1].conv1.scale.item() == pytest.approx(2.0)
    names = dict(folded.named_parameters())
    assert names["blocks.1.conv1.scale"].requires_grad
    optimizer = torch.optim.AdamW(ws.param_groups(folded, weight_decay=0.1), lr=0.05)
    decays = {name: g["weight_decay"] for g in optimizer.param_groups for name in g["param_names"]}
    assert decays["blocks.1.conv1.scale"] == decays["blocks.1.conv1.bias"] == 0.0
    assert decays["blocks.0.conv1.weight"] == 0.1
    x, losses = images(11), []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(folded.train()(x).square().mean())
        losses[-1].backward()
        optimizer.step()
    ws.check(optimizer, folded)
    assert losses[-1] < 0.5 * losses[0]
    assert blocks[0].conv1.weight is blocks[1].conv1.layer.weight


def test_signs_alone() -> None:
    """As on the poster: weights become their mean up to signs, and the plan says what that changes."""
    model, x = shared(ALIKE["factors"]), images()
    weights = [model.eval().blocks[at].conv1.weight.detach() for at in range(3)]
    plan = plan_loops(model, 0.999, scale="sign", batches=[x])
    folded = plan.fold(model)
    torch.testing.assert_close(folded.blocks[0].conv1.weight.detach(), sum(weights) / 3)
    assert folded.blocks[1].conv2.scale == -1.0
    assert "scale" not in " ".join(dict(folded.named_parameters()))
    found = (output(folded, x) - output(model, x)).double()
    assert plan.output_error == pytest.approx((found.norm() / output(model, x).double().norm()).item(), rel=1e-5)
    assert plan.output_error > 0.01
    first = plan.groups[0].kinds[0]
    stacked = torch.stack(weights)
    lost = (stacked - stacked.mean(0)).norm() / stacked.norm()
    assert first.error == pytest.approx(lost.item(), rel=1e-5)


def test_the_factor_is_the_best_that_there_is() -> None:
    """Layers that are close to parallel: no other weight and factors lose less."""
    rows = [A, B, tuple(2 * value + 0.02 for value in A), B, C, D]
    model = shared(rows)
    weights = torch.stack([model.blocks[at].conv1.weight.detach().flatten() for at in (0, 1)]).double()
    plan = plan_loops(model, 0.99)
    kind = next(kind for kind in plan.groups[0].kinds if "blocks.0.conv1.weight" in kind.items)
    _, sizes, right = torch.linalg.svd(weights, full_matrices=False)
    assert kind.error == pytest.approx((sizes[1] / sizes.norm()).item(), rel=1e-6)
    value = plan.fold(model).blocks[0].conv1.weight.detach().flatten().double()
    assert abs(nn.functional.cosine_similarity(value, right[0], dim=0)) == pytest.approx(1.0, abs=1e-6)


def test_more_layers_than_templates_keep_them() -> None:
    rows = [row[:2] for row in (A, B, times(-2, A), B, C, D)]
    model, x = shared(rows), images()
    plan = plan_loops(model, 0.9999, batches=[x])
    (group,) = plan.groups
    assert (group.layers, group.distinct, group.templates, group.plain) == (6, 4, 2, False)
    assert plan.stored_after == plan.stored_before
    assert "keeps its 2 templates: 4 layers of their own would store more" in str(plan)
    folded = plan.fold(model)
    torch.testing.assert_close(output(folded, x), output(model, x))
    assert folded.state_dict().keys() == model.state_dict().keys()
    assert plan_loops(folded, 1 - 1e-9).removed == 2
    written = plan_loops(model, 0.9999, keep_templates=False, batches=[x])
    assert written.stored_after > written.stored_before
    small = written.fold(model)
    assert isinstance(small.blocks, Looped)
    torch.testing.assert_close(output(small, x), output(model, x))


def test_a_file_of_the_folded_network(tmp_path: Path) -> None:
    """It is read into the fold of another network, and by torch alone into the plain one where no factor is left."""
    rows = [A, B, A, B, A, B, C, D]
    model, x = shared(rows), images()
    plan = plan_loops(model, 0.999)
    folded = plan.fold(model)
    ws.save(folded, tmp_path / "folded.safetensors")
    other = plan.fold(shared([C, D, *rows[2:]]))
    ws.load(tmp_path / "folded.safetensors", other)
    assert torch.equal(output(other, x), output(folded, x))
    plain = Net(4)
    ws.load(tmp_path / "folded.safetensors", plain)
    assert torch.equal(output(plain, x), output(folded, x))
    assert plain.blocks[0].conv1.weight is plain.blocks[2].conv1.weight
    alone = Net(4)
    alone.load_state_dict(folded.state_dict())
    assert torch.equal(output(alone, x), output(folded, x))


def test_it_is_exported_and_copied() -> None:
    model, x = shared(ALIKE["signs"]), images()
    folded = plan_loops(model, 0.999).fold(model).eval()
    exported = torch.export.export(folded, (x,)).module()
    torch.testing.assert_close(exported(x), output(folded, x))
    twin = copy.deepcopy(folded)
    assert twin.blocks[0].conv1.weight is twin.blocks[1].conv1.layer.weight
    report = ws.report(folded, x)
    assert report.macs is not None
    assert report.macs == ws.report(model, x).macs - 8 * 4 * 225  # what making the weights took
    assert ws.fold(folded).blocks[0].conv2.weight.shape == (5, 5, 3, 3)


def test_blocks_that_share_one_layer_alone_close_no_loop() -> None:
    model = shared([A, B, A, C, A, B, D, D])
    plan = plan_loops(model, 0.9999)
    (chain,) = plan.chains
    assert chain.runs == (Run(0, 4),)
    assert chain.open == (
        "blocks '0' and '1' read one weight, and have 'conv2.weight' of their own",
        "block '2' is block '0' again, after others",
    )
    assert "'blocks.3.conv1.weight' and 'blocks.3.conv2.weight' lie in one block" in str(plan)
    folded = plan.fold(model)
    assert type(folded.blocks) is nn.Sequential
    assert folded.blocks[0].conv1.weight is folded.blocks[1].conv1.weight
    torch.testing.assert_close(output(folded, images(1)), output(model, images(1)), rtol=10, atol=10)


class Gated(Block):
    """A block of another kind, with convolutions of the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.gate = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.gate[:, None, None])


def test_blocks_of_different_kinds_close_no_loop() -> None:
    model = Net(4)
    model.blocks = nn.Sequential(*(kind(5) for kind in (Block, Gated, Block, Gated)))
    ws.share_(model, ws.Templates(2), "blocks.*.conv*")
    template_bank(model).coefficients.data.copy_(torch.tensor([A, B] * 4)[:, :2])
    x = images()
    (chain,) = plan_loops(model, batches=[x]).chains
    assert (chain.runs, chain.open) == ((Run(0, 2, passes=2),), ())  # the gates are each pass's own
    model = Net(4)
    model.blocks = nn.Sequential(*(kind(5) for kind in (Block, Gated, Gated, Block)))
    ws.share_(model, ws.Templates(1), "blocks.*.conv1")
    open_chain = plan_loops(model, 0.0).chains[0]
    assert any("differ in kind or shape (Block and Gated)" in reason for reason in open_chain.open)
    torch.testing.assert_close(output(plan_loops(model, 0.0).fold(model), x), output(model, x))


def test_layers_without_room_for_a_factor_stay_apart() -> None:
    class Half(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight / 2, self.bias)

    model = nn.Sequential(*(Half(5, 5, 3, padding=1) for _ in range(4)))
    ws.share_(model, ws.Templates(2))
    template_bank(model).coefficients.data.copy_(torch.tensor([A, times(-1, A), A, B])[:, :2])
    plan = plan_loops(model)
    (group,) = plan.groups
    assert [kind.items for kind in group.kinds] == [("0.weight", "2.weight")]
    assert group.why_apart == (
        ("1.weight", "is parallel to '0.weight', and its layer, a Half, has no place for a factor"),
    )
    assert group.distinct == 3
    assert "Apart: '1.weight'" in str(plan)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), True, "0.9", None])
def test_a_threshold_is_a_cosine(threshold: Any) -> None:
    with pytest.raises(SpecError, match=r"need a number from 0 to 1"):
        plan_loops(shared(ALIKE["equal"]), threshold)


def test_what_cannot_be_folded() -> None:
    with pytest.raises(NoMatch, match="no layer that reads templates"):
        plan_loops(Net())
    model = shared(ALIKE["equal"])
    with pytest.raises(SpecError, match="'keep' or 'sign'"):
        plan_loops(model, scale="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpecError, match="cannot run on batch 1"):
        plan_loops(model, batches=[images(), images()[:, :1]])
    plan = plan_loops(model)
    with pytest.raises(ModelChanged, match="The plan is for templates of"):
        plan.fold(shared([A, B, A, B]))
    model.other = template_bank(model).templates
    with pytest.raises(ModelChanged, match="is shared itself by a later plan"):
        plan_loops(model)
    del model.other
    with pytest.raises(SpecError, match="meta device"):
        plan_loops(copy.deepcopy(model).to("meta"))


def test_zero_coefficients_are_parallel_to_none() -> None:
    model = shared([(0.0, 0.0), A[:2], (0.0, 0.0), A[:2]])
    plan = plan_loops(model, 0.0)
    assert [kind.items for kind in plan.groups[0].kinds] == [("blocks.0.conv2.weight", "blocks.1.conv2.weight")]


def test_other_plans_stay() -> None:
    """A tie of the norms is kept, by object and by plan; only the templates' plan goes."""
    model = shared(ALIKE["equal"])
    ws.share_(model, ws.Tie(slots=[0, 0, 1, 1]), "blocks.*.norm1.bias")
    folded = plan_loops(model, 0.999).fold(model)
    assert folded.blocks[0].norm1.bias is folded.blocks[1].norm1.bias
    assert [group.name for group in ws.report(folded).groups] == ["blocks.*.norm1.bias"]
