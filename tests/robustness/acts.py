"""What a line of a soak's script calls: what users do around the verbs, each in one call, checking what it promises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import copy
import io
from pathlib import Path
import tempfile
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from tests.contract.trial import copies, loss, numbers, set_parameter
from tests.support import bits, state
from tests.zoo import Case
import weightshare as ws
from weightshare.errors import FileError, ModelChanged, SharingError
from weightshare.surgery import edit


class Stopped(Exception):
    """Raised in the middle of an edit."""


def train(case: Case, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW, steps: int = 1) -> None:
    """Some steps of an optimizer that `check` accepts; the model has no attribute and no hook more than before."""
    with _only_numbers(case.model):
        made = optimizer(ws.param_groups(case.model, weight_decay=0.01), lr=0.01)  # pyright: ignore[reportCallIssue]
        ws.check(made, case.model)
        _steps(case, made, steps)


def train_with(case: Case, hook: Any, steps: int = 1) -> None:
    """The same with `Proximal` or `Sleep` attached, and removed; the optimizer has no hook left."""
    with _only_numbers(case.model):
        optimizer = torch.optim.AdamW(ws.param_groups(case.model, weight_decay=0.01), lr=0.01)
        with hook.attach_(optimizer, case.model) as handle:
            _steps(case, optimizer, steps)
            assert handle.steps == steps
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks


def planned_elsewhere(case: Case, twin: Case, spec: Any, where: Any = None) -> ws.Plan:
    """Plan for a twin, send the plan through JSON, apply it here."""
    plan = ws.Plan.from_json(ws.plan(twin.model, spec, where).to_json())
    plan.apply_(case.model)
    return plan


def stopped(case: Case, spec: Any, where: Any = None) -> None:
    """An apply that something stops at its last edit leaves every object, number and gradient as it was."""
    plan = ws.plan(case.model, spec, where)
    before = state(case.model)
    with mock.patch.object(edit.Transaction, "annotate", side_effect=Stopped), pytest.raises((Stopped, SharingError)):
        plan.apply_(case.model)
    assert state(case.model) == before


def refused(case: Case, call: Callable[[nn.Module], object]) -> None:
    """A call is refused with an error of ours, and nothing has changed."""
    before = state(case.model)
    with pytest.raises(SharingError):
        call(case.model)
    assert state(case.model) == before


def copied(case: Case) -> Case:
    """A deep copy; the original is as it was, and shares no parameter with it."""
    before = state(case.model)
    twin = copy.deepcopy(case.model)
    assert state(case.model) == before
    assert {id(one) for one in twin.parameters()}.isdisjoint(map(id, case.model.parameters()))
    return Case(twin, case.example)


def folded(case: Case) -> Case:
    """The fold; the original is as it was."""
    before = state(case.model)
    small = ws.fold(case.model)
    assert state(case.model) == before
    return Case(small, case.example)


def through_a_file(case: Case, twin: Case) -> Case:
    """Saved, and loaded into a twin that is not shared."""
    with tempfile.TemporaryDirectory() as folder:
        ws.save(case.model, Path(folder) / "m")
        return Case(ws.load(Path(folder) / "m", twin.model), case.example)


def through_a_damaged_file(case: Case, at: float, bit: int) -> None:
    """A file with one bit flipped is refused, also by the model that wrote it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        ws.save(case.model, path)
        content = bytearray(path.read_bytes())
        content[int(at * len(content))] ^= 1 << bit
        path.write_bytes(content)
        before = state(case.model)
        with pytest.raises(FileError):
            ws.load(path, case.model)
        assert state(case.model) == before


def reloaded(case: Case, assign: bool = False, emptied: bool = False, stored: bool = False) -> None:
    """Its own state dict, after its numbers were spoiled: copied or assigned, over the meta device, through a file."""
    entries = copies(case.model)
    if stored:
        stream = io.BytesIO()
        torch.save(entries, stream)
        stream.seek(0)
        entries = torch.load(stream, weights_only=True)
    if emptied:
        case.model.to("meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in case.model.parameters():
            tensor.fill_(0.5)
    if emptied:
        ws.retie_(case.model, compare=False)
    case.model.load_state_dict(entries, assign=assign)
    assert numbers(case.model) == {name: bits(tensor) for name, tensor in entries.items()}


def retied(case: Case, path: str) -> None:
    """A tie undone by hand is refused by `fold` and tied again by `retie_`."""
    set_parameter(case.model, path, nn.Parameter(case.model.get_parameter(path).detach().clone()))
    with pytest.raises(ModelChanged, match="no longer are"):
        ws.fold(case.model)
    assert ws.retie_(case.model) == [path]


def two_values(case: Case, path: str, assign: bool) -> None:
    """A state dict with two values for one slot is refused before anything is changed."""
    entries = copies(case.model)
    entries[path] = entries[path] + 1
    before = state(case.model)
    with pytest.raises(ModelChanged, match="different numbers"):
        case.model.load_state_dict(entries, assign=assign)
    assert state(case.model) == before


def _steps(case: Case, optimizer: torch.optim.Optimizer, steps: int) -> None:
    case.model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(case.model(case.example)).backward()
        _clip(case.model)
        optimizer.step()
    optimizer.zero_grad()


def _clip(model: nn.Module) -> None:
    """Gradients of length 1 at most: mixtures that several layers share would diverge, which is no fault of theirs."""
    gradients = [tensor.grad for tensor in model.parameters() if tensor.grad is not None]
    length = sum(gradient.abs().double().square().sum().item() for gradient in gradients) ** 0.5
    for gradient in gradients:
        gradient.mul_(min(1.0, 1.0 / max(length, 1e-9)))


@contextmanager
def _only_numbers(model: nn.Module) -> Iterator[None]:
    """What happens inside leaves every module with the attributes and hooks that it had."""
    before = _attributes(model)
    yield
    assert _attributes(model) == before


def _attributes(model: nn.Module) -> list[tuple[str, str, int | None]]:
    return [
        (path, key, len(value) if isinstance(value, dict) else None)
        for path, module in model.named_modules()
        for key, value in sorted(vars(module).items())
    ]
