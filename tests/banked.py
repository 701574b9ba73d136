"""A small network whose blocks read banks, and its slow twin: the weights by their formula, in plain autograd."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contract.banks import bank_keys, bank_path, generated, weights
import weightshare as ws
from weightshare.depth.templates import TemplateBank
from weightshare.depth.transform import LoRA, Scale
from weightshare.generating import Bank
from weightshare.sharing import Spec


class Block(nn.Module):
    """`x + fc2(tanh(fc1(x)))`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.tanh(self.fc1(x)))


class Net(nn.Module):
    """Blocks between a stem and a head; `run` runs a block, so that a test may run it otherwise."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 5)
        self.blocks = nn.ModuleList([Block(5, 7) for _ in range(depth)])
        self.head = nn.Linear(5, 2)
        self.run: Callable[[nn.Module, Tensor], Tensor] = call

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.run(block, x)
        return self.head(x)


def call(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`."""
    return module(x)


class Twins(NamedTuple):
    """A shared network, the plan, and the same network before it was shared."""

    shared: nn.Module
    plan: ws.Plan
    plain: nn.Module

    def state(self) -> dict[str, Tensor]:
        """Copies of all that the shared network stores, as leaves."""
        return {name: tensor.detach().clone().requires_grad_() for name, tensor in self.shared.named_parameters()}

    def entries(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of the plain network, by formula from what the shared one stores."""
        entries = dict(state)
        for group in generated(self.plan):
            made = weights(group, bank_path(self.shared, group), state)
            for key in bank_keys(self.shared, group):
                del entries[key]
            entries |= zip(group.items, made, strict=True)
        return entries

    def naive(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output of the plain network with weights by formula."""
        return functional_call(self.plain, self.entries(self.state() if state is None else state), (x,))

    def naive_gradients(self, *batches: Tensor) -> dict[str, Tensor]:
        """The gradients of `loss` over batches, summed, of all that the shared network stores."""
        state = self.state()
        total = sum(loss(self.naive(x, state)) for x in batches)
        assert isinstance(total, Tensor)
        return dict(zip(state, torch.autograd.grad(total, list(state.values())), strict=True))


def loss(out: Tensor) -> Tensor:
    """Half the squared distance from 1."""
    return 0.5 * (out - 1).square().sum()


def twins(spec: Spec, model: nn.Module | None = None, where: Sequence[str] | None = None) -> Twins:
    """Share a network in float64, and move all that it stores away from where it started, `a_i` from 1 too."""
    plain = (Net() if model is None else model).double()
    shared = copy.deepcopy(plain)
    plan = ws.share_(shared, spec, where)
    with torch.no_grad():
        for tensor in shared.parameters():
            tensor += 0.3 * torch.randn_like(tensor)
    return Twins(shared, plan, plain)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter, each once."""
    found = {name: tensor.grad for name, tensor in model.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def check_close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Equal names, and numbers up to the rounding of float64."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=f"{name}: {{}}".format)


SPECS: dict[str, Callable[[], Spec]] = {
    "mean": lambda: ws.Tie(rate=2, fuse=ws.through(ws.mean)),
    "scalars": lambda: ws.Tie(rate=2, order=ws.strided, fuse=ws.through(ws.scalar_weighted)),
    "channels": lambda: ws.Tie(rate=2, order=ws.random(3), fuse=ws.through(ws.channel_weighted)),
    "low rank": lambda: ws.Tie(rate=2, fuse=ws.mean, own=LoRA(2)),
    "scales": lambda: ws.Tie(rate=3, own=Scale("channel", shift=True)),
    "templates": lambda: ws.Templates(2),
    "both": lambda: ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted), own=LoRA(1)),
}
"""Five layers at rate 2: one slot has a single reader in most."""


def batch(rows: int = 4) -> Tensor:
    """Input of `Net`."""
    return torch.randn(rows, 3, dtype=torch.float64)


def banks(model: nn.Module) -> list[Bank]:
    """Every bank of a model."""
    return [module for module in model.modules() if isinstance(module, Bank)]


def check_closed(model: nn.Module) -> None:
    """No pass runs in any of them."""
    assert [bank.at.running for bank in banks(model)] == [False] * len(banks(model)) != []


def plainly(model: nn.Module, x: Tensor) -> None:
    """One forward pass and its backward pass."""
    loss(model(x)).backward()


def template_bank(model: nn.Module) -> TemplateBank:
    """The only bank of a model whose layers mix templates."""
    (found,) = (module for module in model.modules() if isinstance(module, TemplateBank))
    return found


class Products(TorchDispatchMode):
    """Counts matrix products by the shape of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            self.found[tuple(sorted(out.shape))] += 1  # coefficients may lie by rows or by columns
        return out
