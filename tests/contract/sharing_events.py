"""Events of the verbs: apply and its failures, unshare, retie, fold, files, copies, and the optimizer's check."""

from collections.abc import Iterator
from contextlib import contextmanager
import copy
import io
from pathlib import Path
import tempfile
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.contract.banks import bank_keys, bank_path, folded_ties, generated, weights
from tests.contract.by_hand import KINDS
from tests.contract.trial import (
    Shared,
    TorchRefuses,
    Trial,
    check_close,
    check_shared,
    copies,
    dense,
    expected,
    gradients,
    made,
    merged,
    multiple,
    numbers,
    or_refused_unshared,
    partition,
    read,
    set_parameter,
)
from tests.reading import rebuilt
from tests.support import bits, output, state
import weightshare as ws
from weightshare.decoding import Decoded
from weightshare.depth.templates import TemplateGroup
from weightshare.errors import ModelChanged, OptimizerMismatch, SharingError, SpecError
from weightshare.generating import Banked
from weightshare.sharing import Spec
from weightshare.surgery import edit


class Late(Exception):
    """Raised by a test in the middle of an edit."""


def apply(trial: Trial) -> None:
    """Exactly what the plan says is shared, by object, and holds what the spec says; the plan's counts are right."""
    shared, twin = trial.shared(), trial.fresh().model
    check_shared(shared.model, shared)
    for group in shared.plan.groups:
        wanted = dict(zip(group.items, expected(trial.spec, group, twin), strict=True))
        found = {path: read(shared.model, path) for path in group.items}
        if isinstance(group, Banked):  # which are made in the dtype of the weights, and not in a wider one
            check_close(found, wanted)
        else:
            assert [bits(value) for value in found.values()] == [bits(value) for value in wanted.values()]
    stored = sum(tensor.numel() for tensor in shared.model.parameters())
    assert shared.plan.stored_after == stored
    slots = [group for group in generated(shared.plan) if not isinstance(group, TemplateGroup)]
    folded = stored - sum(group.stored_after - group.folded for group in slots)
    assert min(stored, folded) < shared.plan.stored_before  # what is trained through is more until it is folded


def late_failure(trial: Trial) -> None:
    """An apply that fails late, in any of four ways, leaves objects, numbers and gradients as they were."""
    last_edit = _last_decode if issubclass(trial.spec.kind, Decoded) else _last_put
    last_edit = _last_derive if trial.spec.generates else last_edit
    for error, spoiled in ((Late, _raises), (SharingError, _gives_garbage), (Late, last_edit), (Late, _last_note)):
        model, example = trial.fresh()
        plan = ws.plan(model, trial.spec)
        gradients(model, example)
        before = state(model)
        with spoiled(trial, plan), pytest.raises(error):
            plan.apply_(model)
        assert state(model) == before


@contextmanager
def _raises(trial: Trial, plan: ws.Plan) -> Iterator[None]:
    honest = type(trial.spec).share_groups_

    def share_groups_(self: Spec, *arguments: Any) -> None:
        honest(self, *arguments)
        _late()

    with mock.patch.object(type(trial.spec), "share_groups_", share_groups_):
        yield


@contextmanager
def _gives_garbage(trial: Trial, plan: ws.Plan) -> Iterator[None]:
    """The last slot gets numbers of a shape that does not fit it, or the last group weights that do not."""
    spec: Any = trial.spec
    if isinstance(spec, ws.Templates):  # which fits any weights but those that are no numbers
        owner, name, left = edit, "common_slot", len(plan.groups)
    elif issubclass(spec.kind, Decoded):
        owner, name, left = type(spec), "find", len(plan.groups)
    else:
        owner, name = type(spec.fuse), "value"
        left = sum(len(readers) > 1 for group in plan.groups for readers in group.assignment.readers)
    honest = getattr(owner, name)

    def garbage(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        value = honest(*arguments, **named)
        if left:
            return value
        if owner is edit:
            raise SpecError("garbage")
        first, last = (None, value) if isinstance(value, Tensor) else value
        spoiled = torch.zeros((*last.shape, 2))
        return spoiled if first is None else [first, spoiled]

    with mock.patch.object(owner, name, garbage):
        yield


@contextmanager
def _last_decode(trial: Trial, plan: ws.Plan) -> Iterator[None]:
    honest, left = edit.Transaction.decode, len(plan.groups)

    def decode(self: edit.Transaction, *arguments: Any) -> None:
        nonlocal left
        left -= 1
        honest(self, *arguments) if left else _late()

    with mock.patch.object(edit.Transaction, "decode", decode):
        yield


@contextmanager
def _last_put(trial: Trial, plan: ws.Plan) -> Iterator[None]:
    honest, left = edit.Transaction.put, sum(len(tie) - 1 for tie in plan.ties)

    def put(self: edit.Transaction, path: str, tensor: nn.Parameter) -> None:
        nonlocal left
        left -= 1
        honest(self, path, tensor) if left else _late()

    with mock.patch.object(edit.Transaction, "put", put):
        yield


@contextmanager
def _last_derive(trial: Trial, plan: ws.Plan) -> Iterator[None]:
    honest, left = edit.Transaction.derive, sum(len(group.items) for group in plan.groups)

    def derive(self: edit.Transaction, *arguments: Any) -> None:
        nonlocal left
        left -= 1
        honest(self, *arguments) if left else _late()

    with mock.patch.object(edit.Transaction, "derive", derive):
        yield


@contextmanager
def _last_note(trial: Trial, plan: ws.Plan) -> Iterator[None]:
    with mock.patch.object(edit.Transaction, "annotate", side_effect=Late):
        yield


def _late() -> Any:
    raise Late


def unshare(trial: Trial) -> None:
    """Outputs stay, every reader gets a parameter of its own, no trace is left, and training moves readers apart."""
    shared, apart = trial.shared(), False
    before = output(shared.model, shared.example)
    ws.unshare_(shared.model)
    assert bits(output(shared.model, shared.example)) == bits(before)
    assert partition(shared.model) == shared.apart
    check_plain(shared.model, trial)
    optimizer = torch.optim.SGD(ws.param_groups(shared.model, weight_decay=0.0), lr=0.5)
    gradients(shared.model, shared.example)
    optimizer.step()
    for group in shared.plan.groups:
        kind = KINDS[type(group)]
        apart |= kind.different(group, shared.model) > kind.slots(group)
    assert apart


def retie(trial: Trial) -> None:
    """What a user untied by hand is tied again; copies that differ are refused, unless told which to keep."""
    shared = trial.shared()
    model, before, ties = shared.model, output(shared.model, shared.example), multiple(shared.plan)
    for tie in ties:
        set_parameter(model, tie[-1], _own(model.get_parameter(tie[-1])))
    assert not all(group.intact for group in ws.report(model).groups)
    assert sorted(ws.retie_(model)) == sorted(tie[-1] for tie in ties)
    check_shared(model, shared)
    assert bits(output(model, shared.example)) == bits(before)
    for tie in ties:
        set_parameter(model, tie[-1], _own(model.get_parameter(tie[-1]) + 1))
    undone = state(model)
    with pytest.raises(ModelChanged, match="different numbers"):
        ws.retie_(model)
    assert state(model) == undone
    ws.retie_(model, compare=False)
    check_shared(model, shared)
    assert bits(output(model, shared.example)) == bits(before)


def fold(trial: Trial) -> None:
    """Outputs are equal to the last bit, ties stay, and nothing of ours is left: classes, attributes, hooks."""
    shared = trial.shared()
    wanted = output(shared.model, shared.example)
    before = state(shared.model)
    folded = ws.fold(shared.model)
    assert state(shared.model) == before
    assert bits(output(folded, shared.example)) == bits(wanted)
    assert partition(folded) == merged(shared.apart, [*shared.plan.ties, *folded_ties(shared.plan)])
    check_plain(folded, trial)
    with pytest.raises(AssertionError):
        check_plain(shared.model, trial)  # so the search does find what it looks for


def check_plain(model: nn.Module, trial: Trial) -> None:
    """The model has the attributes, the hooks and the classes of one that was never shared, and none of ours."""
    plain = trial.fresh().model
    output(plain, trial.fresh().example)
    check_like(model, plain)


def check_like(model: nn.Module, plain: nn.Module) -> None:
    """The model has the attributes, the hooks and the classes of another one, which has run, and none of ours."""
    for (path, module), (_, wanted) in zip(model.named_modules(), plain.named_modules(), strict=True):
        assert type(module).__qualname__ == type(wanted).__qualname__, path
        own = type(module).__module__.startswith("weightshare")
        assert not own or type(module) is type(wanted), path  # a local layer was there before
        assert sorted(vars(module)) == sorted(vars(wanted)), path
        assert _hooks(module) == _hooks(wanted), path
        assert not [value for value in vars(module).values() if type(value).__module__.startswith("weightshare")], path


def _hooks(module: nn.Module) -> dict[str, list[str]]:
    """Every hook of a module by name; torch wraps those that are copied or want the module."""
    held = {name: value for name, value in vars(module).items() if "hooks" in name and isinstance(value, dict)}
    bare = {name: [getattr(hook, "hook", hook) for hook in value.values()] for name, value in held.items()}
    return {
        name: [f"{getattr(hook, '__module__', '')}.{getattr(hook, '__name__', '')}" for hook in hooks]
        for name, hooks in bare.items()
    }


def file(trial: Trial) -> None:
    """`save` and `load` into a model that is not shared: numbers, ties and plans are those that were saved."""
    shared, twin = trial.shared(), trial.fresh(seed=1).model
    with tempfile.TemporaryDirectory() as folder:
        ws.save(shared.model, Path(folder) / "m.safetensors")
        ws.load(Path(folder) / "m.safetensors", twin)
    check_shared(twin, shared)
    assert numbers(twin) == numbers(shared.model)
    assert bits(output(twin, shared.example)) == bits(output(shared.model, shared.example))


def torch_alone(trial: Trial) -> None:
    """A file of ours, which has each slot once, is read by safetensors alone into a network that is tied by hand."""
    shared, twin = trial.shared(), trial.fresh(seed=1).model
    if made(shared.plan) or generated(shared.plan):
        with tempfile.TemporaryDirectory() as folder:
            ws.save(shared.model, Path(folder) / "m.safetensors")
            held = rebuilt(Path(folder) / "m.safetensors")
        for group in generated(shared.plan):
            if isinstance(group, TemplateGroup):
                continue  # which the file has recipes for
            path = bank_path(shared.model, group)
            held |= zip(group.items, weights(group, path, held), strict=True)
            for key in bank_keys(shared.model, group):
                del held[key]
        twin.load_state_dict(held, strict=False)  # further names of a tensor are in the metadata
        if generated(shared.plan):
            check_close(twin.state_dict(), dense(shared.model, shared.plan))
            return
        assert numbers(twin) == {name: bits(tensor) for name, tensor in dense(shared.model, shared.plan).items()}
        return
    for tie in multiple(shared.plan):
        for path in tie[1:]:
            set_parameter(twin, path, twin.get_parameter(tie[0]))
    with tempfile.TemporaryDirectory() as folder:
        ws.save(shared.model, Path(folder) / "m.safetensors")
        held = safetensors.torch.load_file(Path(folder) / "m.safetensors")
        assert len(held.keys() & {name for names in shared.ties for name in names}) == len(shared.ties)
        other = copy.deepcopy(twin)
        other.load_state_dict(held, strict=False)
        assert numbers(other) == numbers(shared.model)
        try:
            safetensors.torch.load_model(twin, Path(folder) / "m.safetensors")
        except RuntimeError as error:  # the twin holds nothing of ours, and the file is a plain one
            raise TorchRefuses(str(error)) from error
    assert numbers(twin) == numbers(shared.model)
    assert bits(output(twin, shared.example)) == bits(output(shared.model, shared.example))


def deepcopy(trial: Trial) -> None:
    """A deep copy has ties and plans of its own."""
    shared = trial.shared()
    check_independent(copy.deepcopy(shared.model), shared, trial)


def pickle(trial: Trial) -> None:
    """A pickle of the whole module has ties and plans of its own, where torch can pickle the module at all."""
    shared = trial.shared()
    stream = io.BytesIO()
    try:
        or_refused_unshared(lambda model: torch.save(model, stream), shared.model, trial.fresh().model)
    except RuntimeError as error:  # of a model that is parametrized because it is shared
        if "parametrized modules" in str(error):
            raise TorchRefuses(str(error)) from error
        raise
    stream.seek(0)
    check_independent(torch.load(stream, weights_only=False), shared, trial)


def check_independent(twin: nn.Module, shared: Shared, trial: Trial) -> None:
    """A copy holds what the model holds, shares no memory with it, and keeps its own ties when it is loaded."""
    before = state(shared.model)
    check_shared(twin, shared)
    assert numbers(twin) == numbers(shared.model)
    assert not {t.data_ptr() for t in twin.parameters()} & {t.data_ptr() for t in shared.model.parameters()}
    alone = trial.fresh().model
    alone.load_state_dict(copies(alone), assign=True)
    labels = {group.keys[1] for group in made(shared.plan)}
    twin.load_state_dict({n: t if n in labels else t + 1 for n, t in copies(twin).items()}, assign=True)
    check_shared(twin, shared, shared.after(partition(alone)))
    assert numbers(twin) != numbers(shared.model)
    ws.unshare_(twin)
    assert partition(twin) == partition(alone)
    check_plain(twin, trial)
    assert state(shared.model) == before


def optimizer(trial: Trial) -> None:
    """`param_groups` holds each trainable slot once and `check` accepts it; an optimizer made before is refused."""
    model, _ = trial.fresh()
    old = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.share_(model, trial.spec)
    new = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.1))
    held = [id(tensor) for group in new.param_groups for tensor in group["params"]]
    assert sorted(held) == sorted(id(tensor) for tensor in model.parameters() if tensor.requires_grad)
    ws.check(new, model)
    with pytest.raises(OptimizerMismatch, match=r"trains nothing|nothing trains it"):
        ws.check(old, model)


def twice(trial: Trial) -> None:
    """A second plan of what is shared already is refused or ties nothing anew, and changes nothing."""
    shared = trial.shared()
    before = state(shared.model)
    with pytest.raises(SharingError):
        shared.plan.apply_(shared.model)
    assert state(shared.model) == before


def _own(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), tensor.requires_grad)
