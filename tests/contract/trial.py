"""What the events are made of: a trial (module and spec), the ties of a model as a value, losses and gradients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from tests.contract.banks import bank_keys, generated, started, stored_keys
from tests.support import bits, state
from tests.zoo import Case
import weightshare as ws
from weightshare.decoding import Decoded
from weightshare.errors import SharingError
from weightshare.generating import Banked
from weightshare.sharing import Group, Spec

Result = TypeVar("Result")
Partition = frozenset[frozenset[str]]
"""The names of all parameters, those of one object together."""


class TorchRefuses(Exception):
    """Torch does not do this with the module, shared or not. The message is torch's."""


class NothingTied(Exception):
    """The event is about one parameter under several names, and this spec makes none."""


class Shared(NamedTuple):
    """A model after sharing, its input, the plan, its ties before, and those that the plan leaves it with."""

    model: nn.Module
    example: Tensor
    plan: ws.Plan
    apart: Partition
    ties: Partition

    def after(self, parts: Partition) -> Partition:
        """The ties of a model that had these before it was shared."""
        return _expected(self.model, merged(parts, self.plan.ties))


@dataclass(frozen=True)
class Trial:
    """One module of the zoo and one spec."""

    make: Callable[[], Case]
    spec: Spec

    def fresh(self, seed: int = 0) -> Case:
        """The module, not yet shared; another seed gives other numbers."""
        torch.manual_seed(seed)
        return self.make()

    def shared(self, seed: int = 0) -> Shared:
        """The module, shared. A refusal must leave it as it was."""
        model, example = self.fresh(seed)
        before, apart = state(model), partition(model)
        try:
            plan = ws.share_(model, self.spec)
        except SharingError:
            assert state(model) == before
            raise
        return Shared(model, example, plan, apart, _expected(model, merged(apart, plan.ties)))


def partition(model: nn.Module) -> Partition:
    """Which names lead to one parameter object."""
    names: dict[int, set[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), set()).add(name)
    return frozenset(map(frozenset, names.values()))


def merged(parts: Partition, ties: Iterable[Sequence[str]]) -> Partition:
    """A partition in which the names of each tie lead to one object too."""
    found = set(parts)
    for tie in ties:
        touched = {part for part in found if not part.isdisjoint(tie)}
        found = (found - touched) | {frozenset().union(*touched)}
    return frozenset(found)


def _expected(model: nn.Module, planned: Partition) -> Partition:
    """The planned ties of the names that the model has; what sharing adds (banks, coefficients) is untied."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    old = {part & names for part in planned if part & names}
    return frozenset(old | {frozenset({name}) for name in names.difference(*old)})


def multiple(plan: ws.Plan) -> list[tuple[str, ...]]:
    """The slots of a plan that several sites read; an event that unties or compares needs one at least."""
    found = [tie for tie in plan.ties if len(tie) > 1]
    if made(plan):
        raise NothingTied("this spec shares inside one weight, so there is nothing to untie")
    if generated(plan):
        raise NothingTied("layers store nothing, so there is nothing to untie")
    assert found, "nothing is shared, so the event would test nothing"
    return found


def made(plan: ws.Plan) -> list[Decoded]:
    """The weights that a plan makes from stored numbers: those of codebooks, classes of positions, templates."""
    return [group for group in plan.groups if isinstance(group, Decoded)]


def slots(model: nn.Module, plan: ws.Plan) -> list[tuple[str, ...]]:
    """The names of each slot that is read more than once: of ties all their names, of a weight that of its slots."""
    banked = [(name,) for group in generated(plan) for name in stored_keys(model, group)]
    return banked or [(group.keys[0],) for group in made(plan)] or multiple(plan)


def derived(plan: ws.Plan) -> list[str]:
    """The paths that a plan makes read what is stored elsewhere, or otherwise."""
    return [path for group in (*made(plan), *generated(plan)) for path in group.items]


def keys_after(model: nn.Module, plan: ws.Plan, keys: Iterable[str]) -> tuple[list[str], set[str]]:
    """Of a state dict's keys those that sharing leaves, in order, and those that it adds."""
    gone = set(derived(plan))
    banked = {name for group in generated(plan) for name in bank_keys(model, group)}
    return [key for key in keys if key not in gone], {name for group in made(plan) for name in group.keys} | banked


def read(model: nn.Module, path: str) -> Tensor:
    """The weight that a forward pass reads at a path."""
    parent, _, name = path.rpartition(".")
    return getattr(model.get_submodule(parent), name).detach()


def expected(spec: Any, group: Group, model: nn.Module) -> list[Tensor]:
    """What each path of a group is to read, from what a model that is not shared holds."""
    if isinstance(group, Decoded):
        stored, second = spec.find(model, group)
        return [spec.decoder(group, second)(stored).detach()]
    if isinstance(group, Banked):
        return started(spec, group, [model.get_parameter(path).detach() for path in group.items])
    values = spec.slot_values(group, [model.get_parameter(path).detach() for path in group.items])
    return [values[slot] for slot in group.assignment.labels.tolist()]


def dense(model: nn.Module, plan: ws.Plan) -> dict[str, Tensor]:
    """The numbers that a model reads, under the names that it had before it was shared."""
    entries = model.state_dict()
    kept = {name: entries[name] for name in entries.keys() - keys_after(model, plan, ())[1]}
    return kept | {path: read(model, path) for path in derived(plan)}


def check_shared(model: nn.Module, shared: Shared, ties: Partition | None = None) -> None:
    """Exactly the ties of the plan hold, and the report says so."""
    assert partition(model) == (shared.ties if ties is None else ties)
    added = keys_after(model, shared.plan, ())[1]
    assert added <= set(model.state_dict())
    assert not set(derived(shared.plan)) & set(model.state_dict())
    said = ws.report(model)
    assert len(said.groups) + len(said.codebooks) + len(said.positions) == len(shared.plan.groups)
    assert [one.name for one in (*said.codebooks, *said.positions)] == [group.name for group in made(shared.plan)]
    assert all(group.intact for group in said.groups)


def loss(out: Tensor) -> Tensor:
    """Squared distance from a fixed target, summed over the batch, so that batches can be split."""
    real = (torch.view_as_real(out) if out.is_complex() else out).double()
    target = torch.linspace(-1, 1, real[0].numel(), dtype=real.dtype).reshape(real.shape[1:])
    return (real - target).square().sum() / real[0].numel()


def gradients(
    model: nn.Module, example: Tensor, forward: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor | None]:
    """The gradient at every name, aliases included; random numbers of the forward pass are the same in every call."""
    model.zero_grad()
    torch.manual_seed(3)
    loss((model if forward is None else forward)(example)).backward()
    return {name: tensor.grad for name, tensor in model.named_parameters(remove_duplicate=False)}


def copies(model: nn.Module) -> dict[str, Tensor]:
    """A state dict in which every entry has memory of its own, as a file gives it."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def numbers(model: nn.Module) -> dict[str, bytes | None]:
    """The bits of every parameter and buffer by name."""
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


def set_parameter(model: nn.Module, path: str, tensor: nn.Parameter) -> None:
    """What a user does by hand: `model.layer.weight = tensor`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, tensor)


def check_close(got: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor | None]) -> None:
    """Equal up to the rounding of sums in another order, by dtype; both lack the same entries."""
    assert {name for name, value in got.items() if value is None} == {n for n, v in wanted.items() if v is None}
    assert got.keys() == wanted.keys()
    for name, value in ((name, value) for name, value in wanted.items() if value is not None):
        digits = 2e-2 if value.dtype == torch.bfloat16 else 1e-4
        room = digits * max(1.0, value.abs().max().item())
        torch.testing.assert_close(got[name], value, rtol=digits, atol=room, msg=f"{name}: {{}}".format)


def or_refused_unshared(run: Callable[[nn.Module], Result], shared: nn.Module, unshared: nn.Module) -> Result:
    """Run something on the shared model; where torch refuses, it has to refuse the unshared one in the same words."""
    try:
        return run(shared)
    except (RuntimeError, NotImplementedError) as error:
        try:
            run(unshared)
        except type(error) as same:
            if str(same) == str(error):
                raise TorchRefuses(str(error).partition("\n")[0]) from error
        raise
