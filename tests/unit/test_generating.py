"""Generated weights: made once in a forward pass, and right whatever happens around it. Everything in float64."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import functools
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from tests.banked import (
    SPECS,
    Net,
    Twins,
    banks,
    batch,
    call,
    check_close,
    check_closed,
    gradients,
    loss,
    plainly,
    twins,
)
import weightshare as ws
from weightshare.depth.bank import LayerBank
from weightshare.depth.fuse import Mean
from weightshare.depth.transform import LoRA


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


Way = Callable[[nn.Module, Tensor], None]


def in_micro_batches(model: nn.Module, x: Tensor) -> None:
    for part in x.split(1):
        loss(model(part)).backward()


def together(model: nn.Module, x: Tensor) -> None:
    """Two forward passes before one backward pass."""
    first, second = model(x[:1]), model(x[1:])
    (loss(first) + loss(second)).backward()


def with_checkpoints(model: nn.Module, x: Tensor) -> None:
    """Each block runs again in the backward pass, after another pass was run without gradients."""
    model.run = functools.partial(checkpoint, use_reentrant=False)
    out = model(x)
    with torch.no_grad():
        model(torch.ones_like(x))
    loss(out).backward()
    model.run = call


def with_checkpoints_together(model: nn.Module, x: Tensor) -> None:
    model.run = functools.partial(checkpoint, use_reentrant=False)
    together(model, x)
    model.run = call


def with_a_checkpoint_around(model: nn.Module, x: Tensor) -> None:
    loss(checkpoint(model, x, use_reentrant=False)).backward()


def with_a_look_between(model: nn.Module, x: Tensor) -> None:
    """A pass in evaluation mode, and a weight that is read, between a forward pass and its backward pass."""
    model.run = functools.partial(checkpoint, use_reentrant=False)
    out = model(x)
    with torch.inference_mode():
        model.eval()(x)
    model.train()
    assert model.blocks[2].fc1.weight.requires_grad
    loss(out).backward()
    model.run = call


def twice_backward(model: nn.Module, x: Tensor) -> None:
    model.run = functools.partial(checkpoint, use_reentrant=False)
    value = loss(model(x)) / 2
    value.backward(retain_graph=True)
    value.backward()
    model.run = call


def on_the_second_thread(model: nn.Module, x: Tensor) -> None:
    worker = threading.Thread(target=plainly, args=(model, x))
    worker.start()
    worker.join()


WAYS: Sequence[Way] = (
    *(plainly, in_micro_batches, together, with_checkpoints, with_checkpoints_together, with_a_checkpoint_around),
    *(with_a_look_between, twice_backward, on_the_second_thread),
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_gradients_are_those_of_the_formula(pair: Twins, way: Way) -> None:
    x = batch()
    way(pair.shared, x)
    check_close(gradients(pair.shared), pair.naive_gradients(x))
    check_closed(pair.shared)


def test_outputs_are_those_of_the_formula(pair: Twins) -> None:
    x = batch()
    wanted = pair.naive(x)
    torch.testing.assert_close(pair.shared(x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(pair.shared(x), wanted)
    torch.testing.assert_close(ws.fold(pair.shared)(x), wanted)


@dataclass(frozen=True, repr=False)
class Counted(Mean):
    """A mean that counts how often it is computed."""

    def mix(
        self, weights: Sequence[Tensor], layers: Sequence[int], depth: int, factors: Sequence[Tensor] | None
    ) -> Tensor:
        CALLS.append(tuple(layers))
        return super().mix(weights, layers, depth, factors)


CALLS: list[tuple[int, ...]] = []


@pytest.mark.parametrize("graded", [True, False])
def test_each_slot_is_fused_once_in_a_pass(graded: bool) -> None:
    model = Net(depth=7)
    ws.share_(model, ws.Tie(slots=[0, 0, 0, 1, 2, 1, 1], fuse=ws.through(Counted())), where="blocks.*.fc1.weight")
    for _ in range(2):
        CALLS.clear()
        with torch.set_grad_enabled(graded):
            out = model(torch.randn(2, 3))
        assert CALLS == [(0, 1, 2), (3, 5, 6)]  # the slot that layer 4 reads alone needs no fusion
        loss(out).backward() if graded else None
        assert len(CALLS) == 2


def test_low_rank_products_are_one_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    honest = LayerBank.make
    monkeypatch.setattr(LayerBank, "make", lambda bank: (made.append(bank.called), honest(bank))[1])
    monkeypatch.setattr(LayerBank, "make_one", lambda *_: pytest.fail("a layer made a weight for itself"))
    model = Net()
    ws.share_(model, ws.Tie(rate=2, own=LoRA(1)), where="blocks.*.weight")
    made.clear()
    model.run = functools.partial(checkpoint, use_reentrant=False)
    loss(model(torch.randn(2, 3))).backward()
    assert sorted(made) == sorted(bank.called for bank in banks(model))
    assert len(made) == 2


def test_a_part_without_gradients_gets_its_own(pair: Twins) -> None:
    """The first block runs under `no_grad` inside a pass with gradients, and the other way round."""
    x = batch()
    model, first = pair.shared, pair.shared.blocks[0]

    def stopped(block: nn.Module, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(block is not first):
            return block(x)

    model.run = stopped
    wanted = pair.naive(x)
    torch.testing.assert_close(model(x), wanted)
    with torch.no_grad():
        out = model(x)  # the blocks after the first turn gradients on
    torch.testing.assert_close(out, wanted)
    assert not out.requires_grad
    check_closed(model)


def test_steps_between_passes(pair: Twins) -> None:
    """Fused AdamW, which bumps no version counter: three steps are those of the formula's leaves."""
    state, batches = pair.state(), [batch() for _ in range(3)]
    naive_optimizer = torch.optim.AdamW(state.values(), lr=0.05, weight_decay=0.1, fused=True)
    optimizer = torch.optim.AdamW(pair.shared.parameters(), lr=0.05, weight_decay=0.1, fused=True)
    for x in batches:
        for one, value in ((optimizer, loss(pair.shared(x))), (naive_optimizer, loss(pair.naive(x, state)))):
            one.zero_grad()
            value.backward()
            one.step()
    check_close(dict(pair.shared.named_parameters()), state)


def test_a_step_between_two_forward_passes_is_seen(pair: Twins) -> None:
    x = batch()
    plainly(pair.shared, x)
    torch.optim.SGD(pair.shared.parameters(), lr=0.1).step()
    torch.testing.assert_close(pair.shared(x), pair.naive(x))
    with torch.no_grad():
        for tensor in pair.shared.parameters():
            tensor.mul_(1.5)
        torch.testing.assert_close(pair.shared(x), pair.naive(x))
        torch.testing.assert_close(pair.shared.blocks[1](x @ x.T[:, :1] * torch.ones(5).double()).shape, (4, 5))


@pytest.mark.parametrize("saved", [False, True])
def test_a_layer_alone_makes_its_own_weight(pair: Twins, saved: bool) -> None:
    """After a whole pass, its backward pass and a step; with activation checkpointing too."""
    plainly(pair.shared, batch())
    torch.optim.SGD(pair.shared.parameters(), lr=0.5).step()
    pair.shared.zero_grad()
    x = torch.randn(3, 5, dtype=torch.float64)
    block = pair.shared.blocks[3]
    loss(checkpoint(block, x, use_reentrant=False) if saved else block(x)).backward()
    state = pair.state()
    entries = pair.entries(state)
    own = {name.removeprefix("blocks.3."): value for name, value in entries.items() if name.startswith("blocks.3.")}
    value = loss(functional_call(pair.plain.blocks[3], own, (x,)))
    found = torch.autograd.grad(value, list(state.values()), allow_unused=True, materialize_grads=True)
    wanted = dict(zip(state, found, strict=True))
    given = {name: torch.zeros_like(value) for name, value in wanted.items()} | gradients(pair.shared)
    check_close(given, wanted)


def test_a_pass_that_raises_is_closed(pair: Twins) -> None:
    x = batch()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        pair.shared(x[:, :2])
    check_closed(pair.shared)

    def fails(block: nn.Module, x: Tensor) -> Tensor:
        raise KeyError(block(x).sum().item())

    pair.shared.run = fails
    with pytest.raises(KeyError):
        pair.shared(x)
    check_closed(pair.shared)
    pair.shared.run = call
    with torch.no_grad():
        for tensor in pair.shared.parameters():
            tensor.mul_(1.5)
    torch.testing.assert_close(pair.shared(x), pair.naive(x))


def test_autocast_leaves_the_making_alone() -> None:
    """Weights are made in float32; only products of layers are taken in bfloat16."""
    pair = twins(SPECS["both"]())
    for model in (pair.shared, pair.plain):
        model.float()
    x = batch().float()
    with torch.no_grad():
        entries = pair.entries(pair.state())
    with torch.autocast("cpu", torch.bfloat16):
        found = pair.shared(x)
        wanted = functional_call(pair.plain, entries, (x,))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)
    loss(found.float()).backward()
    assert {gradient.dtype for gradient in gradients(pair.shared).values()} == {torch.float32}
    made: list[torch.dtype] = []
    pair.shared.run = lambda block, x: (made.append(block.fc1.weight.dtype), block(x))[1]
    with torch.autocast("cpu", torch.bfloat16):
        pair.shared(x)
        made.append(pair.shared.blocks[1].fc1.weight.dtype)
    assert set(made) == {torch.float32}


@pytest.fixture
def _compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize(("name", "whole"), [("both", True), ("scales", False)])
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_pass(name: str, whole: bool) -> None:
    """Without a break, and not compiled anew after a step; gradients are those of the formula.

    `torch.compile(model)` compiles hooks and the forward method apart, `model.compile()` all in one.
    """
    pair = twins(SPECS[name](), Net(depth=3))
    if whole:
        pair.shared.compile(backend="aot_eager", fullgraph=True)
        fast = pair.shared
    else:
        fast = torch.compile(pair.shared, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        pair.shared.zero_grad()
        x = batch()
        loss(fast(x)).backward()
        check_close(gradients(pair.shared), pair.naive_gradients(x))
        with torch._dynamo.config.patch(error_on_recompile=True):
            pair.shared.zero_grad()
            loss(fast(x)).backward()
        torch.optim.SGD(pair.shared.parameters(), lr=0.1).step()
    check_closed(pair.shared)
