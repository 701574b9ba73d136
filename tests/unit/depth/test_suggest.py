"""Suggestions: where the right answer is known they find it, on networks of timm they beat sequential sharing."""

from collections.abc import Sequence
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import output, state
from tests.zoo import Residual
from weightshare import fold, mean
from weightshare.depth.suggest import suggest
from weightshare.depth.tie import Tie
from weightshare.errors import NoMatch, SpecError
from weightshare.models.by_name import import_timm
from weightshare.planning import Plan, make_plan
from weightshare.surgery.count import count


def near_copies(kinds: Sequence[int], noise: float = 0.02) -> nn.Sequential:
    """Blocks of one kind are copies of one block but for some noise."""
    torch.manual_seed(0)
    originals = [Residual(5, 7) for _ in range(max(kinds) + 1)]
    blocks = [copy.deepcopy(originals[kind]) for kind in kinds]
    with torch.no_grad():
        for weight in (weight for block in blocks for weight in block.parameters()):
            weight.add_(noise * torch.randn_like(weight))
    return nn.Sequential(*blocks)


def batches() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(11, 5), torch.randn(3, 5)]


def change(model: nn.Module, plan: Plan, given: Sequence[Tensor]) -> float:
    """`‖f'(x) − f(x)‖ / ‖f(x)‖` of a copy that is shared."""
    twin = copy.deepcopy(model)
    plan.apply_(twin)
    before, after = (torch.cat([output(one, batch).flatten() for batch in given]) for one in (model, twin))
    return ((after - before).norm() / before.norm()).item()


@pytest.mark.parametrize("given", [None, batches()], ids=["weights", "batches"])
@pytest.mark.parametrize(
    ("kinds", "budget"),
    [([0, 1, 1, 0], 0.5), ([0, 1, 1, 0, 2, 2], 0.5), ([0, 1, 2, 0, 1, 2, 0], 0.45), ([0, 0, 0, 0, 1], 0.4)],
)
def test_near_copies_share(kinds: list[int], budget: float, given: list[Tensor] | None) -> None:
    model = near_copies(kinds)
    before = state(model)
    plan = suggest(model, budget, given)
    assert state(model) == before
    assert plan.spec == Tie(slots=kinds, fuse=mean)
    assert plan.stored_after <= budget * plan.stored_before
    assert plan.notes[0].startswith("Suggested sharing changes the ")
    assert plan.notes[0].endswith("less than by sequential sharing with as many slots.")
    sequential = make_plan(model, Tie(rate=len(kinds) / (max(kinds) + 1), fuse=mean), None)
    assert sequential.stored_after == plan.stored_after
    assert change(model, plan, batches()) < 0.5 * change(model, sequential, batches())
    assert Plan.from_json(plan.to_json()) == plan


def test_the_note_says_what_was_measured() -> None:
    model = near_copies([0, 1, 1, 0])
    plan = suggest(model, 0.5, batches())
    sequential = make_plan(model, Tie(rate=2, fuse=mean), None)
    ours, theirs = change(model, plan, batches()), change(model, sequential, batches())
    assert f"changes the outputs on 2 batches by {ours:.4g} relative to their size" in plan.notes[0]
    assert f"sequential sharing with as many slots (0 0 1 1; 184 numbers) by {theirs:.4g}" in plan.notes[0]
    assert f"That is {1 - ours / theirs:.0%} less than by sequential sharing with as many slots." in plan.notes[0]
    assert f"Note: {plan.notes[0]}" in str(plan)


def test_sequential_sharing_is_said_to_be_as_good() -> None:
    plan = suggest(near_copies([0, 0, 1, 1]), 0.5, batches())
    assert plan.spec == Tie(slots=[0, 0, 1, 1], fuse=mean)
    assert plan.notes[0].endswith("That is as much as by sequential sharing with as many slots.")


class Amplified(nn.Module):
    """Blocks 0 and 1 are nearly copies and steer all; 2 and 3 differ and hardly matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(5, 5, bias=False) for _ in range(4))
        self.blocks[1].weight.data.copy_(self.blocks[0].weight * 1.3)

    def forward(self, x: Tensor) -> Tensor:
        for block, size in zip(self.blocks, (1.0, 1.0, 1e-3, 1e-3), strict=True):
            x = x + size * block(x)
        return x


def test_what_matters_is_judged_by_the_outputs() -> None:
    """By the weights blocks 0 and 1 are nearest; their difference reaches the output and that of 2 and 3 does not."""
    model = Amplified()
    plan = suggest(model, 0.75, batches())
    assert suggest(model, 0.75).spec == Tie(slots=[0, 0, 1, 2], fuse=mean)
    assert change(model, plan, batches()) <= change(model, suggest(model, 0.75), batches())


@pytest.mark.parametrize("fraction", [0.5, 0.75, 0.9, 1.0])
def test_the_budget_is_kept_and_used(fraction: float) -> None:
    model = near_copies([0, 1, 2, 3, 1, 0, 2])
    plan = suggest(model, fraction)
    assert plan.stored_after <= fraction * plan.stored_before
    assert plan.stored_after + 92 > fraction * plan.stored_before  # a block more would be too much
    assert suggest(model, int(fraction * plan.stored_before)).spec == plan.spec


def two_lists() -> nn.Sequential:
    """Lists of blocks of other sizes: of the first all are alike, of the second none."""
    torch.manual_seed(0)
    alike, unlike = near_copies([0, 0, 0, 0]), nn.Sequential(*(Residual(5, 3) for _ in range(3)))
    return nn.Sequential(nn.Sequential(nn.Linear(5, 5), *alike), unlike, nn.Linear(5, 2))


def test_lists_of_blocks_share_apart() -> None:
    model = two_lists()
    stored = count(model).stored
    plan = suggest(model, stored - 3 * 92, batches())
    assert plan.spec == Tie(slots={"0": [0, 1, 1, 1, 1], "1": [0, 1, 2]}, fuse=mean)
    assert plan.stored_after == stored - 3 * 92
    assert Plan.from_json(plan.to_json()) == plan
    plan.apply_(model)
    assert count(model).stored == count(fold(model)).stored == plan.stored_after
    assert model[0][1].fc1.weight is model[0][4].fc1.weight
    assert model[1][0].fc1.weight is not model[1][1].fc1.weight


def test_sequential_sharing_at_one_rate_is_compared_too() -> None:
    model = two_lists()
    stored = count(model).stored
    plan = suggest(model, stored - 3 * 92, batches())
    # Rates 4/3, 3/2 and 2 leave 3 and 3, 3 and 2, 2 and 2 slots, and store too much; 3 leaves 2 and 1.
    uniform = make_plan(model, Tie(slots={"0": [0, 1, 1, 2, 2], "1": [0, 0, 0]}, fuse=mean), None)
    assert uniform.stored_after == stored - 2 * 92 - 2 * 48
    error = change(model, uniform, batches())
    told = f"sequential sharing at one rate (0 1 1 2 2; 0 0 0; {uniform.stored_after:,} numbers) by {error:.4g}"
    assert told in plan.notes[0]
    assert plan.notes[0].endswith("less than by sequential sharing at one rate.")


def test_a_smaller_budget_reaches_the_other_list_too() -> None:
    model = two_lists()
    stored = count(model).stored
    least = stored - 3 * 92 - 2 * 48
    plan = suggest(model, least)
    assert plan.spec == Tie(slots={"0": [0, 1, 1, 1, 1], "1": [0, 0, 0]}, fuse=mean)
    with pytest.raises(SpecError, match=rf"allows {least - 1} stored .* that can be reached is {least} \("):
        suggest(model, least - 1)


def test_a_network_of_timm() -> None:
    options = {"depth": 6, "embed_dim": 15, "num_heads": 3, "img_size": 16, "patch_size": 8, "num_classes": 7}
    torch.manual_seed(0)
    model = import_timm().create_model("vit_tiny_patch16_224", **options)
    with torch.no_grad():
        for here, there in ((0, 4), (1, 3), (2, 5)):
            for a, b in zip(model.blocks[here].parameters(), model.blocks[there].parameters(), strict=True):
                b.copy_(a + 0.001 * torch.randn_like(a))
    images = [torch.randn(5, 3, 16, 16)]
    plan = suggest(model, 0.6, images, where=["blocks.*.attn", "blocks.*.mlp"])
    assert plan.spec == Tie(slots=[0, 1, 2, 1, 0, 2], fuse=mean)
    assert not any("norm" in group.name for group in plan.groups)
    before = output(model, images[0])
    plan.apply_(model)
    torch.testing.assert_close(output(model, images[0]), before, rtol=0, atol=0.05)


def test_kernels_are_measured_by_their_patches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, groups=2) for _ in range(4)))
    with torch.no_grad():
        for here, there in ((0, 2), (1, 3)):
            model[there].weight.copy_(model[here].weight * 1.01)
            model[there].bias.copy_(model[here].bias)
    assert suggest(model, 0.5, [torch.randn(3, 4, 7, 5)]).spec == Tie(slots=[0, 1, 0, 1], fuse=mean)


class Tokens(nn.Module):
    """Gives whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = near_copies([0, 1])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).argmax(-1)


@pytest.mark.parametrize(
    ("budget", "given", "text"),
    [
        (0, None, "need a fraction above 0"),
        (-0.5, None, "need a fraction above 0"),
        (float("nan"), None, "need a fraction above 0"),
        (True, None, "need a fraction above 0"),
        ("half", None, "need a fraction above 0"),
        (1.5, None, "a fraction is at most 1.0"),
        (0.4, None, r"allows 73 stored numbers of 184. The smallest size that can be reached is 92 \(50.0%\)"),
        (0.5, [], "no batch"),
        (0.5, [torch.randn(3, 4)], "cannot run on"),
        (0.5, [(torch.randn(3, 5), torch.zeros(3))], "give the inputs alone"),
    ],
)
def test_bad_input(budget: Any, given: Any, text: str) -> None:
    model = near_copies([0, 1])
    before = state(model)
    with pytest.raises(SpecError, match=text):
        suggest(model, budget, given)
    assert state(model) == before


def test_other_bad_input() -> None:
    model = near_copies([0, 1])
    with pytest.raises(NoMatch):
        suggest(model, 0.5, where="attention")
    with pytest.raises(SpecError, match="give a fusion"):
        suggest(model, 0.5, fuse="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpecError, match="meta device"):
        suggest(near_copies([0, 1]).to("meta"), 0.5)
    with pytest.raises(SpecError, match="need floating-point outputs"):
        suggest(Tokens(), 0.5, batches())
