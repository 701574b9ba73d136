"""Generated weights: the layers of a group read what one bank makes for all of them, once in each forward pass.

A bank stores slots, or all that a fusion is trained through, and whatever each layer has of its own; `make` gives the
weight of every layer. Readers store nothing. When the weight is made decides whether this is right, and cheap:

1. A hook before the model's forward pass opens a *pass*: every bank makes its weights once, with autocast off. A hook
   after it, which runs after an error too, closes the pass.
2. Inside a pass a reader gets what was made. Weights made with and without gradients are kept apart, so a part of the
   model that runs under `no_grad`, or turns gradients on, gets its own.
3. While a backward pass runs, a reader (activation checkpointing runs layers again) gets the last weights that were
   made with gradients, unless these have had their backward pass and a layer was called alone since. Reentrant
   checkpointing frees what it went back through, so there a reader makes its own.
4. Anywhere else, as when a layer is called alone, it makes its own weight, now.

Nothing is kept by version counters or addresses, which a second micro-batch or a fused optimizer would break.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import FunctionType, MethodType
from typing import Any, cast
import weakref

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from weightshare.errors import ModelChanged
from weightshare.sharing import Group
from weightshare.surgery import derived, edit
from weightshare.surgery.precision import without_autocast

BANKS = derived.HOLDER
HOOKS = "_weightshare_pass_"


@dataclass(frozen=True)
class Banked(Group):
    """Layers whose weights one bank makes in each forward pass; abstract. Fields are those of `Group`."""

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """None: no two paths hold one parameter, since none of them holds any."""
        return ()


class Pass:
    """What the banks of a model have made for the forward pass that runs now. Copies and pickles start empty."""

    def __init__(self) -> None:
        self.running = False
        self.current = False
        """Whether `graded` was made in this pass, and not in an earlier one."""
        self.graded: Sequence[Tensor] | None = None
        self.spent = False
        """Whether a backward pass went through `graded`."""
        self.plain: Sequence[Tensor] | None = None

    def __reduce__(self) -> Any:
        return (Pass, ())


class Bank(nn.Module):
    """Makes the weights of a group's layers from what is stored; abstract. Lies below the model's root."""

    def __init__(self) -> None:
        super().__init__()
        self.at = Pass()
        self.called = ""

    @abstractmethod
    def make(self) -> Sequence[Tensor]:
        """The weight of every layer; layers that read one slot as it is get one tensor."""

    @abstractmethod
    def make_one(self, layer: int) -> Tensor:
        """The weight of one layer, alone."""

    @abstractmethod
    def own_names(self) -> set[str]:
        """Which of its parameters belong to single layers: `param_groups` gives them a group of their own."""

    @abstractmethod
    def layers_of(self, name: str) -> Sequence[int]:
        """The layers whose weights one of its parameters makes."""

    def no_weight_decay(self) -> set[str]:
        """What `param_groups` gives no decay, as timm's models say it."""
        return self.own_names()

    def read(self, layer: int) -> Tensor:
        """The weight of one layer: see the module's rules."""
        at = self.at
        if at.running:
            if at.current:
                assert at.graded is not None
                return at.graded[layer]
            if torch.is_grad_enabled():
                return self._make_graded()[layer]
            if at.plain is None:
                at.plain = self._made()
            return at.plain[layer]
        if at.graded is not None and not torch.compiler.is_compiling() and _runs_again():
            return at.graded[layer]
        if at.spent and torch.is_grad_enabled():
            # From here on a backward pass that runs layers again is of this call, and no more of the pass before it.
            at.graded, at.spent = None, False
        with without_autocast(self._device):
            return self.make_one(layer)

    def open(self, model: nn.Module, arguments: Any) -> None:
        """Begin a forward pass of the model."""
        at = self.at
        at.running, at.current, at.plain = True, False, None
        if torch.is_grad_enabled():
            self._make_graded()
        else:
            at.plain = self._made()

    def close(self, model: nn.Module, arguments: Any, output: Any) -> None:
        """End it. What was made with gradients stays for a backward pass that runs layers again."""
        at = self.at
        at.running, at.current, at.plain = False, False, None

    def forward(self) -> Sequence[Tensor]:
        """The weight of every layer."""
        return self._made()

    def _make_graded(self) -> Sequence[Tensor]:
        at, made = self.at, self._made()
        at.graded, at.current, at.spent = made, True, False
        if not torch.compiler.is_compiling():
            spend = partial(_spend, weakref.ref(at))
            for tensor in {id(tensor): tensor for tensor in made if not tensor.is_leaf}.values():
                tensor.register_hook(spend)
        return made

    def _made(self) -> Sequence[Tensor]:
        with without_autocast(self._device):
            return self.make()

    @property
    def _device(self) -> str:
        for tensor in self.parameters():
            return tensor.device.type
        made = [source for module in self.modules() for source in derived.sources(module).values()]
        return next(source.bank._device for source in made if isinstance(source, Reading))  # a bank of banks


class Own(nn.Module):
    """What layers of a bank have of their own; abstract."""

    @abstractmethod
    def add(self, bases: Sequence[Tensor]) -> Sequence[Tensor]:
        """The weight of every layer from what each reads, in order."""

    @abstractmethod
    def add_one(self, base: Tensor, layer: int) -> Tensor:
        """The weight of one layer from what it reads."""


class Reading(derived.Source):
    """The weight of one layer of a bank."""

    def __init__(self, bank: Bank, layer: int) -> None:
        self.bank = bank
        self.layer = layer

    def tensor(self) -> Tensor:
        return self.bank.read(self.layer)


def bank_stem(name: str) -> str:
    """What a bank is called after its role, but for a number where several are called so.

    Example:
        >>> bank_stem("blocks.*.fc1.weight"), bank_stem("*")
        ('blocks_fc1_weight', 'weights')
    """
    return "_".join(part for part in name.replace("*", "").split(".") if part) or "weights"


def _own_code(method: MethodType) -> MethodType:
    """The same method with a code object of its own.

    torch's compiler keeps and counts what it compiled by code object: with one for all, a model of more than eight
    kinds of banks, each with gradients and without, would be at its limit.
    """
    function = cast(FunctionType, method.__func__)
    copied = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return MethodType(copied, method.__self__)


def read_bank_(edits: edit.Transaction, name: str, paths: Sequence[str], bank: Bank) -> None:
    """Make each path read a layer of a bank, which becomes a part of the model.

    Args:
        edits: Of the model whose forward passes count.
        name: The role of the paths, which the bank is named after.
        paths: Of the layers, in order.
        bank: Makes a weight for each.
    """
    model = edits.model
    # A container's children are what it runs or lists, so there the bank lies with its first reader.
    contained = isinstance(model, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    parent = f"{paths[0].rpartition('.')[0]}." if contained else ""
    for layer, path in enumerate(paths):
        edits.derive(path, Reading(bank, layer))
    if not hasattr(model.get_submodule(parent[:-1]), BANKS):
        edits.add_child(f"{parent}{BANKS}", nn.Module())
    holder = model.get_submodule(f"{parent}{BANKS}")
    stem = bank_stem(name)
    names = (stem if number == 1 else f"{stem}_{number}" for number in count(1))
    # Free where the bank lies, and where its hooks do: the banks of a container lie apart.
    bank.called = next(name for name in names if name not in holder._modules and f"{HOOKS}{name}" not in vars(model))
    edits.add_child(f"{parent}{BANKS}.{bank.called}", bank)
    edits.watch_forward(f"{HOOKS}{bank.called}", _own_code(bank.open), _own_code(bank.close))


def bank_of(model: nn.Module, paths: Sequence[str]) -> Bank:
    """The bank that all paths read, each its layer.

    Raises:
        ModelChanged: If they do not.
    """
    banks = []
    for layer, path in enumerate(paths):
        parent, _, name = path.rpartition(".")
        try:
            source = derived.sources(model.get_submodule(parent)).get(name)
        except AttributeError:
            source = None
        if not isinstance(source, Reading) or source.layer != layer or source.bank is not (banks or [source.bank])[0]:
            raise ModelChanged(
                f"'{path}' is not read from the bank of its plan any more. Make the model as it was when it was shared."
            )
        banks.append(source.bank)
    return banks[0]


def readers(model: nn.Module) -> dict[str, Reading]:
    """What each path of a model reads from a bank, by path."""
    return {
        f"{path}.{name}" if path else name: source
        for path, module in model.named_modules()
        for name, source in derived.sources(module).items()
        if isinstance(source, Reading)
    }


def refuse_foreign(model: nn.Module) -> None:
    """Refuse a part of a model whose layers read a bank that is no part of it.

    Raises:
        ModelChanged: Naming the first such layer: what it stores would be left out without a word.
    """
    inside = set(map(id, model.modules()))
    for path, source in readers(model).items():
        if id(source.bank) not in inside:
            raise ModelChanged(
                f"'{path}' reads a bank of weights that is no part of this {type(model).__name__}: it was shared as a "
                "part of a larger model. Use that one, or fold or unshare_ it before its parts go their own ways."
            )


def opens(module: nn.Module, bank: Bank) -> bool:
    """Whether the forward passes of a module are those for which a bank makes its weights."""
    return any(getattr(hook, "__self__", None) is bank for hook in module._forward_pre_hooks.values())


def leave_bank_(edits: edit.Transaction, paths: Sequence[str], tensors: Sequence[nn.Parameter]) -> None:
    """Give each path a parameter again, and take the bank that they read out of the model."""
    bank = bank_of(edits.model, paths)
    for path, tensor in zip(paths, tensors, strict=True):
        edits.underive(path, tensor)
    modules = dict(edits.model.named_modules())
    edits.unwatch(f"{HOOKS}{bank.called}", next(at for at, module in modules.items() if opens(module, bank)))
    at = next(path for path, module in modules.items() if module is bank)
    edits.drop_child(at)
    holder = at.rpartition(".")[0]
    if not modules[holder]._modules:
        edits.drop_child(holder)


def _spend(at: "weakref.ref[Pass]", gradient: Tensor) -> None:
    found = at()
    if found is not None:
        found.spent = True


def _runs_again() -> bool:
    """Whether a backward pass runs a layer again that went through the weights of the pass before."""
    if torch._C._current_graph_task_id() == -1:  # as torch.utils.checkpoint tells it
        return False
    # Reentrant checkpointing goes back through a graph of its own at once, and frees it: no two layers may be in one.
    return not isinstance(torch._C._current_autograd_node(), CheckpointFunction._backward_cls)
