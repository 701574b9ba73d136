"""A plan on what an earlier one stores: slots of a bank that share, or whose numbers do."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import weightshare as ws
from weightshare.depth.transform import LoRA
from weightshare.sharing import Spec


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(6))


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (ws.Tie(rate=2, fuse=ws.mean, own=LoRA(1)), ws.Tie(rate=3, fuse=ws.mean)),
        (ws.Tie(rate=2, fuse=ws.through(ws.mean)), ws.Tie(rate=2, order=ws.strided, fuse=ws.mean)),
        (ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted)), ws.Tie(rate=2, fuse=ws.mean)),
        (ws.Tie(rate=2, fuse=ws.mean, own=LoRA(1)), ws.Codebook(clusters=3)),
    ],
    ids=["tie", "tie-through", "tie-weighted", "codebook"],
)
def test_sharing_what_a_bank_stores_folds_loads_and_unshares_as_it_reads(first: Spec, later: Spec, tmp_path) -> None:
    model = Net()
    ws.share_(model, first, "blocks.*.weight")
    ws.share_(model, later, "weightshare_banks.blocks_weight.stored")
    factors = model.get_submodule("weightshare_banks.blocks_weight").own_names()
    with torch.no_grad():  # what belongs to layers may tell apart what reads one number
        for name in factors:
            model.get_parameter(f"weightshare_banks.blocks_weight.{name}").mul_(torch.tensor(1.5))
    read = [layer.weight.detach().clone() for layer in model.blocks]
    ws.save(model, tmp_path / "model.safetensors")

    fresh = Net()
    ws.load(tmp_path / "model.safetensors", fresh)
    folded = ws.fold(model)
    ws.unshare_(model)

    for one in (fresh, folded, model):
        for layer, expected in zip(one.blocks, read, strict=True):
            torch.testing.assert_close(layer.weight.detach(), expected)
    assert len({id(layer.weight) for layer in model.blocks}) == 6


def test_slots_that_a_later_plan_made_one_fold_to_one_parameter() -> None:
    model = Net()
    ws.share_(model, ws.Tie(rate=2, fuse=ws.through(ws.mean)), "blocks.*.weight")
    ws.share_(model, ws.Tie(rate=6, fuse=ws.mean), "weightshare_banks.blocks_weight.stored")
    assert len({id(layer.weight) for layer in ws.fold(model).blocks}) == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_under_checkpointing_are_those_without(reentrant: bool) -> None:
    class Stack(nn.Module):
        def __init__(self, checkpointed: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
            self.checkpointed = checkpointed

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant) if self.checkpointed else block(x)
                x = x.tanh()
            return x

    grads = []
    for checkpointed in (False, True):
        model = Stack(checkpointed)
        ws.share_(model, ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted), own=LoRA(1)), "blocks.*.weight")
        inputs = torch.linspace(-1, 1, 15).view(3, 5).requires_grad_()
        for _ in range(2):  # two micro-batches
            model(inputs).square().sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0])
