"""Events of `load_state_dict`, `assign=True` and the meta device: ties hold, and no number is lost without a word."""

import io

import pytest
import torch
from torch import nn

from tests.contract.banks import generated
from tests.contract.trial import (
    NothingTied,
    Partition,
    Shared,
    Trial,
    check_shared,
    copies,
    keys_after,
    made,
    multiple,
    numbers,
    partition,
    slots,
)
from tests.support import bits, output, state
import weightshare as ws
from weightshare.errors import ModelChanged


def state_dict(trial: Trial) -> None:
    """No key changes but those of weights that are made; a strict load into a fresh shared twin gives equal outputs."""
    shared, twin = trial.shared(), trial.shared(seed=1)
    kept, added = keys_after(shared.model, shared.plan, trial.fresh().model.state_dict())
    assert [key for key in shared.model.state_dict() if key not in added] == kept
    assert set(shared.model.state_dict()) == added.union(kept)
    twin.model.load_state_dict(copies(shared.model), strict=True)
    check_shared(twin.model, twin)
    assert numbers(twin.model) == numbers(shared.model)
    assert bits(output(twin.model, shared.example)) == bits(output(shared.model, shared.example))


def assign(trial: Trial) -> None:
    """After `load_state_dict(assign=True)` the ties hold again, with no further call."""
    shared, twin = trial.shared(), trial.shared(seed=1)
    alone = trial.fresh().model
    alone.load_state_dict(copies(alone), assign=True)
    twin.model.load_state_dict(copies(shared.model), assign=True)
    check_shared(twin.model, shared, shared.after(partition(alone)))
    assert numbers(twin.model) == numbers(shared.model)
    assert bits(output(twin.model, shared.example)) == bits(output(shared.model, shared.example))


def conflict(trial: Trial) -> None:
    """A state with two values for one slot, or a label of none, is refused before anything is assigned or copied."""
    shared = trial.shared()
    if generated(shared.plan) or any(not group.index_memory for group in made(shared.plan)):
        raise NothingTied("this spec stores neither ties nor labels, so any numbers go together")
    entries = {name: tensor + 1 for name, tensor in copies(shared.model).items()}
    last = slots(shared.model, shared.plan)[-1][-1]  # of weights that are made all labels are one too high already
    entries[last] = entries[last] + 1
    before = state(shared.model)
    for by_assigning in (False, True):
        with pytest.raises(ModelChanged, match=r"different numbers|has labels from 1 to"):
            shared.model.load_state_dict(entries, assign=by_assigning)
        assert state(shared.model) == before


def owners_only(trial: Trial) -> None:
    """A state that names each slot once, by its first name or by its last, is complete."""
    for keep in (0, -1):
        shared, twin = trial.shared(), trial.shared(seed=1)
        dropped = {name for tie in multiple(shared.plan) for name in set(tie) - {tie[keep]}}
        entries = {name: tensor for name, tensor in copies(shared.model).items() if name not in dropped}
        twin.model.load_state_dict(entries, strict=True)
        check_shared(twin.model, twin)
        assert numbers(twin.model) == numbers(shared.model)


def to_empty(trial: Trial) -> None:
    """From the meta device by `to_empty` and `load_state_dict` alone: ties and numbers are back."""
    shared = trial.shared()
    before, entries = output(shared.model, shared.example), copies(shared.model)
    _emptied(shared.model)
    assert partition(shared.model) != shared.ties or not shared.plan.ties  # the trap is real
    shared.model.load_state_dict(entries)
    check_shared(shared.model, shared, _emptied_ties(trial, shared))
    assert bits(output(shared.model, shared.example)) == bits(before)


def to_empty_retie(trial: Trial) -> None:
    """The same with `retie_(compare=False)` before the numbers are there."""
    shared = trial.shared()
    before, entries = output(shared.model, shared.example), copies(shared.model)
    _emptied(shared.model)
    mended = ws.retie_(shared.model, compare=False)
    assert sorted(mended) == sorted(path for tie in shared.plan.ties for path in tie[1:])
    check_shared(shared.model, shared, _emptied_ties(trial, shared))
    shared.model.load_state_dict(entries)
    check_shared(shared.model, shared, _emptied_ties(trial, shared))
    assert bits(output(shared.model, shared.example)) == bits(before)


def cast(trial: Trial) -> None:
    """`double()` casts every number in place: ties and labels stay, and the model runs."""
    shared = trial.shared()
    before = copies(shared.model)
    shared.model.double()
    check_shared(shared.model, shared)
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in before.items()}
    assert numbers(shared.model) == {name: bits(tensor) for name, tensor in wide.items()}
    example = shared.example.double() if shared.example.is_floating_point() else shared.example
    assert output(shared.model, example).dtype in (torch.float64, torch.complex64)


def weights_only(trial: Trial) -> None:
    """`torch.save` of a state dict is read by `torch.load(weights_only=True)`: nothing of ours is in it."""
    shared, twin = trial.shared(), trial.shared(seed=1)
    stream = io.BytesIO()
    torch.save(shared.model.state_dict(), stream)
    stream.seek(0)
    twin.model.load_state_dict(torch.load(stream, weights_only=True))
    check_shared(twin.model, twin)
    assert numbers(twin.model) == numbers(shared.model)


def share_memory(trial: Trial) -> None:
    """`share_memory()` moves every slot once, and the ties hold."""
    shared = trial.shared()
    held = numbers(shared.model)
    shared.model.share_memory()
    assert all(tensor.is_shared() for tensor in shared.model.parameters())
    check_shared(shared.model, shared)
    assert numbers(shared.model) == held


def _emptied(model: nn.Module) -> nn.Module:
    return model.to("meta").to_empty(device="cpu")


def _emptied_ties(trial: Trial, shared: Shared) -> Partition:
    """The ties of the plan, and of the module's own ties those that torch leaves: one parameter under two names of
    different modules comes apart, shared or not."""
    return shared.after(partition(_emptied(trial.fresh().model)))
