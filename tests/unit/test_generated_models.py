"""Models that generate weights: copies, files, moves, parts, and plans on top of plans. Everything in float64."""

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.banked import (
    SPECS,
    Block,
    Net,
    Twins,
    banks,
    batch,
    check_close,
    check_closed,
    gradients,
    loss,
    plainly,
    twins,
)
import weightshare as ws
from weightshare.errors import ModelChanged
from weightshare.generating import Bank


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def check_independent(twin: nn.Module, pair: Twins) -> None:
    x = batch()
    wanted = pair.naive(x)
    torch.testing.assert_close(twin(x), wanted)
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor.mul_(1.5)
    torch.testing.assert_close(pair.shared(x), wanted)
    moved = Twins(twin, pair.plan, pair.plain)
    torch.testing.assert_close(twin(x), moved.naive(x))
    twin.zero_grad()
    plainly(twin, x)
    check_close(gradients(twin), moved.naive_gradients(x))
    ws.unshare_(twin)
    assert not banks(twin)
    assert banks(pair.shared)


def test_copies_read_their_own_bank(pair: Twins) -> None:
    pair.shared(batch())
    check_independent(copy.deepcopy(pair.shared), pair)
    check_independent(copy.deepcopy(copy.deepcopy(pair.shared)), pair)


def test_pickles_read_their_own_bank(pair: Twins) -> None:
    pair.shared(batch())
    stream = io.BytesIO()
    torch.save(pair.shared, stream)
    stream.seek(0)
    check_independent(torch.load(stream, weights_only=False), pair)


def test_functional_call_reads_the_numbers_given(pair: Twins) -> None:
    x = batch()
    state = {name: tensor * 1.5 for name, tensor in pair.state().items()}
    torch.testing.assert_close(functional_call(pair.shared, state, (x,)), pair.naive(x, state))
    torch.testing.assert_close(pair.shared(x), pair.naive(x))

    def value(state: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(pair.shared, state, (x,)))

    detached = {name: tensor.detach() for name, tensor in pair.shared.named_parameters()}
    check_close(torch.func.grad(value)(detached), pair.naive_gradients(x))
    check_closed(pair.shared)


@pytest.mark.parametrize("name", SPECS)
def test_a_sequential_root_keeps_its_length(name: str) -> None:
    plain = nn.Sequential(nn.Linear(3, 5), *(Block(5, 7) for _ in range(5)), nn.Linear(5, 2))
    pair = twins(SPECS[name](), plain)
    assert len(pair.shared) == len(plain) == 7
    assert all(isinstance(bank, Bank) for bank in pair.shared[1].fc1.weightshare_banks.children())
    x = batch()
    plainly(pair.shared, x)
    check_close(gradients(pair.shared), pair.naive_gradients(x))
    with torch.no_grad():
        torch.testing.assert_close(pair.shared(x), pair.naive(x))
    ws.unshare_(pair.shared)
    assert [name for name, _ in pair.shared.named_modules()] == [name for name, _ in plain.named_modules()]


class Outer(nn.Module):
    """A network inside a network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.inner(2 * x)


def test_a_part_of_a_model_has_passes_of_its_own(pair: Twins) -> None:
    """The outer network runs the part twice, and the plan is the part's."""
    outer, x = Outer(pair.shared), batch()
    state = pair.state()
    total = pair.naive(x, state) + pair.naive(2 * x, state)
    wanted = dict(zip(state, torch.autograd.grad(loss(total), list(state.values())), strict=True))
    loss(outer(x)).backward()
    check_close(gradients(pair.shared), wanted)
    torch.testing.assert_close(ws.fold(outer)(x), total)
    ws.unshare_(outer)
    assert not banks(outer)
    torch.testing.assert_close(outer(x), total)


def test_moves_and_loads(pair: Twins) -> None:
    x = batch()
    entries = {name: tensor.clone() for name, tensor in pair.shared.state_dict().items()}
    wanted, of_all = pair.naive(x), pair.naive_gradients(x)

    def check(model: nn.Module) -> None:
        model.zero_grad()
        out = model(x)
        torch.testing.assert_close(out, wanted)
        loss(out).backward()
        check_close(gradients(model), of_all)

    twin = copy.deepcopy(pair.shared).float()
    twin(x.float())
    twin.double().load_state_dict(entries)
    check(twin)
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor.zero_()
    twin.load_state_dict(entries, assign=True)
    check(twin)
    emptied = copy.deepcopy(pair.shared).to("meta").to_empty(device="cpu")
    emptied.load_state_dict(entries)
    check(emptied)
    assert emptied.state_dict().keys() == entries.keys()


@pytest.mark.parametrize("shared_already", [False, True])
def test_files(pair: Twins, tmp_path: Path, shared_already: bool) -> None:
    ws.save(pair.shared, tmp_path / "net.safetensors")
    other = Net().double()
    ws.share_(other, pair.plan.spec) if shared_already else None
    ws.load(tmp_path / "net.safetensors", other)
    assert list(other._weightshare_plans) == [pair.plan]
    x = batch()
    check_close(dict(other.named_parameters()), dict(pair.shared.named_parameters()))
    torch.testing.assert_close(other(x), pair.naive(x))
    plainly(other, x)
    check_close(gradients(other), pair.naive_gradients(x))


def test_two_plans_one_after_the_other() -> None:
    plain = nn.Sequential(*(Block(5, 7) for _ in range(5)))
    pair = twins(SPECS["low rank"](), plain, ["*.fc1.weight"])
    x = torch.randn(2, 5, dtype=torch.float64)
    wanted = pair.naive(x)
    second = ws.plan(pair.shared, ws.Tie(rate=2, fuse=ws.through(ws.mean)), "*.fc2.weight")
    assert second.groups[0].items == tuple(f"{at}.fc2.weight" for at in range(5))
    second.apply_(pair.shared)
    with torch.no_grad():
        for bank in banks(pair.shared):
            bank.stored.requires_grad_()
    assert len(banks(pair.shared)) == 2
    folded = ws.fold(pair.shared)
    torch.testing.assert_close(folded(x), pair.shared(x))
    assert not torch.allclose(folded(x), wanted)
    ws.unshare_(pair.shared)
    torch.testing.assert_close(pair.shared(x), folded(x))
    assert not banks(pair.shared)


def test_a_weight_that_is_set_by_hand_is_refused(pair: Twins) -> None:
    with pytest.raises((AttributeError, KeyError)):
        pair.shared.blocks[0].fc1.weight = nn.Parameter(torch.zeros(7, 5))


def test_a_layer_that_was_replaced_is_named(pair: Twins, tmp_path: Path) -> None:
    pair.shared.blocks[2].fc1 = nn.Linear(5, 7).double()
    for verb in (ws.fold, ws.unshare_, ws.report):
        with pytest.raises(ModelChanged, match=r"blocks\.2\.fc1\.(weight|bias)"):
            verb(pair.shared)
    with pytest.raises(ModelChanged, match=r"blocks\.2\.fc1"):
        ws.save(pair.shared, tmp_path / "never.safetensors")
