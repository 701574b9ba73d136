"""Generated weights: made once in a forward pass, and right whatever happens around it. Everything in float64."""

from collections.abc import Callable, Iterator, Sequence
import copy
from dataclasses import dataclass
import functools
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from tests.banked import Block, Net, Twins, call, check_close, gradients, loss, twins
import weightshare as ws
from weightshare.depth.bank import LayerBank
from weightshare.depth.fuse import Mean
from weightshare.depth.transform import LoRA, Scale
from weightshare.errors import ModelChanged, SharingError
from weightshare.generating import Bank
from weightshare.sharing import Spec

SPECS: dict[str, Callable[[], Spec]] = {
    "mean": lambda: ws.Tie(rate=2, fuse=ws.through(ws.mean)),
    "scalars": lambda: ws.Tie(rate=2, order=ws.strided, fuse=ws.through(ws.scalar_weighted)),
    "channels": lambda: ws.Tie(slots=[0, 1, 1, 0, 1], fuse=ws.through(ws.channel_weighted)),
    "low rank": lambda: ws.Tie(rate=2, fuse=ws.mean, own=LoRA(2)),
    "scales": lambda: ws.Tie(rate=3, own=Scale("channel", shift=True)),
    "both": lambda: ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted), own=LoRA(1)),
}
"""Five layers at rate 2: one slot has a single reader in most."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


@pytest.fixture(params=SPECS)
def pair(request: pytest.FixtureRequest) -> Twins:
    return twins(SPECS[request.param]())


def batch(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, dtype=torch.float64)


def banks(model: nn.Module) -> list[Bank]:
    return [module for module in model.modules() if isinstance(module, Bank)]


def check_closed(model: nn.Module) -> None:
    assert [bank.at.running for bank in banks(model)] == [False] * len(banks(model)) != []


Way = Callable[[nn.Module, Tensor], None]


def plainly(model: nn.Module, x: Tensor) -> None:
    loss(model(x)).backward()


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
    import threading

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
    ws.share_(model, ws.Tie(rate=3, fuse=ws.through(Counted())), where="blocks.*.fc1.weight")
    for _ in range(2):
        CALLS.clear()
        with torch.set_grad_enabled(graded):
            out = model(torch.randn(2, 3))
        assert CALLS == [(0, 1, 2), (3, 4, 5)]  # the seventh layer's slot is its own, and needs no fusion
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
@pytest.mark.parametrize("name", ["scalars", "low rank", "scales"])
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not:DeprecationWarning")
def test_a_compiled_pass(name: str) -> None:
    """One graph, not compiled anew after a step; gradients are those of the formula."""
    pair = twins(SPECS[name](), Net(depth=3))
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
    plainly(pair.shared, x)  # and eagerly afterwards


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
    assert [plan for plan in other._weightshare_plans] == [pair.plan]
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


def test_a_layer_that_was_replaced_is_named(pair: Twins) -> None:
    pair.shared.blocks[2].fc1 = nn.Linear(5, 7).double()
    for verb in (ws.fold, ws.unshare_, ws.report):
        with pytest.raises(ModelChanged, match=r"blocks\.2\.fc1\.(weight|bias)"):
            verb(pair.shared)
    with pytest.raises(SharingError):
        ws.save(pair.shared, "never.safetensors")
