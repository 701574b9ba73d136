"""What is attached to an optimizer (`Sleep`, `Proximal`), on modules of the zoo, through what a training stack does.

The model of such a trial is plain; what has to survive is the map after each step. So every event cuts a training of
four steps in two, does its worst in between, and holds the end against a training that nothing disturbed.
"""

from collections.abc import Callable
import copy
from dataclasses import dataclass
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.contract.trial import TorchRefuses, check_close, copies, gradients, loss, or_refused_unshared, partition
from tests.exporting import one_registry
from tests.support import bits, output, same_bits
from tests.zoo import LOCAL, ZOO, Case
import weightshare as ws
from weightshare.errors import ModelChanged
from weightshare.files.export import to_onnx
from weightshare.hooks import Handle
from weightshare.training.snapshot import Progress, generators, read_snapshot, write_snapshot

HALF = 2
"""Steps before the event, and after it."""

HOOKS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: ws.Sleep(every=1, strength=0.5),
    "sleep, hebbian": lambda: ws.Sleep(every=1, mode=ws.Hebbian(patterns=20)),
    "proximal": lambda: ws.Proximal(strength=0.05, l1=0.001, rewind=0.5),
}

MAPPED = (
    "chain",
    "tied_embedding",
    "parametrized",
    "half",
    "double",
    "recurrent",
    "transposed",
    "channels_last",
    "encoder",
)
"""What the proximal map is tried on: a hook does not care how many layers there are."""


def modules(hook: str) -> dict[str, Callable[[], Case]]:
    """The modules of the zoo that a hook is tried on."""
    return LOCAL if hook.startswith("sleep") else {name: ZOO[name] for name in MAPPED}


class Training(NamedTuple):
    """A model in training, and what is attached to its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    handle: Handle
    example: Tensor

    def go(self, steps: int, forward: Callable[[Tensor], Tensor] | None = None) -> "Training":
        """Make so many steps."""
        for _ in range(steps):
            gradients(self.model.train(), self.example, forward)
            self.optimizer.step()
        return self


@dataclass(frozen=True)
class Hooked:
    """One module of the zoo and one hook."""

    make: Callable[[], Case]
    spec: Any

    def fresh(self, seed: int = 0) -> Case:
        """The module; another seed gives other numbers."""
        torch.manual_seed(seed)
        return self.make()

    def of(self, model: nn.Module, example: Tensor, **options: Any) -> Training:
        """Begin to train a model."""
        optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.1), lr=0.05, **options)
        return Training(model, optimizer, self.spec.attach_(optimizer, model), example)

    def started(self, seed: int = 0, **options: Any) -> Training:
        """Begin to train the module."""
        return self.of(*self.fresh(seed), **options)

    def undisturbed(self) -> Training:
        """The training that others are held against; it matters that the hook is there."""
        whole, without = self.started(), self.started()
        without.handle.remove()
        assert not same_bits(whole.go(2 * HALF).model.parameters(), without.go(2 * HALF).model.parameters())
        return whole


def check_same(found: Training, wanted: Training) -> None:
    """Weights, buffers and counters are those of the training that nothing disturbed."""
    assert same_bits(found.model.state_dict().values(), wanted.model.state_dict().values())
    assert found.handle.state_dict() == wanted.handle.state_dict()


def taken_over(trial: Hooked, before: Training, model: nn.Module) -> Training:
    """Go on with another model in a new optimizer, as torch and this library say: by three state dicts."""
    after = trial.of(model, before.example)
    after.optimizer.load_state_dict(copy.deepcopy(before.optimizer.state_dict()))
    after.handle.load_state_dict(before.handle.state_dict())
    return after


def file(trial: Hooked) -> None:
    """Saved half-way, and loaded into a new model with a new optimizer and a new hook."""
    half = trial.started().go(HALF)
    with tempfile.TemporaryDirectory() as folder:
        ws.save(half.model, f"{folder}/half.safetensors")
        model = ws.load(f"{folder}/half.safetensors", trial.fresh(seed=1).model)
    check_same(taken_over(trial, half, model).go(HALF), trial.undisturbed())


def assign(trial: Hooked) -> None:
    """`load_state_dict(assign=True)` puts other parameters into the model than the optimizer steps: said at the next
    step, before anything is moved, and a new hook goes on."""
    half = trial.started().go(HALF)
    entries = copies(half.model)
    half.model.load_state_dict(copies(half.model), assign=True)
    _refused_then_taken_over(trial, half, entries)


def to_empty(trial: Hooked) -> None:
    """Likewise from the meta device."""
    half = trial.started().go(HALF)
    entries = copies(half.model)
    half.model.to("meta").to_empty(device="cpu").load_state_dict(entries)
    _refused_then_taken_over(trial, half, entries)


def _refused_then_taken_over(trial: Hooked, half: Training, entries: dict[str, Tensor]) -> None:
    if partition(half.model) != partition(trial.fresh().model):
        raise TorchRefuses("loading by assignment, and the meta device, undo the module's own ties")
    before = [bits(tensor) for tensor in half.model.parameters()]
    refusal = None
    try:
        copied = copy.deepcopy(half.optimizer.state_dict())
        half.go(1)
    except ModelChanged as error:
        refusal = error
    assert refusal is not None, "a hook on parameters that the model does not read said nothing"
    assert [bits(tensor) for tensor in half.model.parameters()] == before
    half.model.load_state_dict(entries)  # running statistics have moved in the forward pass of that step
    after = trial.of(half.model, half.example)
    after.optimizer.load_state_dict(copied)
    after.handle.load_state_dict(half.handle.state_dict())
    check_same(after.go(HALF), trial.undisturbed())
    raise refusal


def deepcopy(trial: Hooked) -> None:
    """A copy of model and optimizer has no hook (torch drops them): a handle says so when it is copied, a new one goes
    on, and neither training touches the other."""
    half = trial.started().go(HALF)
    model, optimizer = copy.deepcopy((half.model, half.optimizer))
    with pytest.raises(TypeError, match="attach to the copied optimizer"):
        copy.deepcopy(half.handle)
    twin = Training(model, optimizer, trial.spec.attach_(optimizer, model), half.example)
    twin.handle.load_state_dict(half.handle.state_dict())
    wanted = trial.undisturbed()
    check_same(twin.go(HALF), wanted)
    check_same(half.go(HALF), wanted)


def ema(trial: Hooked) -> None:
    """The moving average is that of the weights after their map, and is not mapped itself."""
    training = trial.started()
    average = AveragedModel(training.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    wanted: dict[str, Tensor] = {}
    for _ in range(2 * HALF):
        training.go(1)
        average.update_parameters(training.model)
        for name, tensor in training.model.named_parameters():
            now = tensor.detach().clone()
            wanted[name] = now if name not in wanted else 0.5 * wanted[name] + 0.5 * now
    check_close(dict(average.module.named_parameters()), wanted)
    check_same(training, trial.undisturbed())


def compiled(trial: Hooked) -> None:
    """Steps through `torch.compile` are those of eager mode: the hook writes what the compiled function reads."""
    torch.compiler.reset()

    def train(model: nn.Module) -> Training:
        training = trial.of(model, trial.fresh().example)
        return training.go(2 * HALF, torch.compile(model, backend="aot_eager"))

    found = or_refused_unshared(train, trial.fresh().model, trial.fresh().model)
    wanted = trial.undisturbed()
    check_close(dict(found.model.named_parameters()), dict(wanted.model.named_parameters()))
    assert found.handle.state_dict() == wanted.handle.state_dict()


def export(trial: Hooked) -> None:
    """What was trained with a hook is exported as any other network, and the training goes on."""
    half = trial.started().go(HALF)
    wanted = output(half.model, half.example)

    def exported(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return torch.export.export(model.eval(), (half.example,), strict=False).module()(half.example)

    found = or_refused_unshared(exported, half.model, trial.fresh().model)
    torch.testing.assert_close(found, wanted)
    check_same(half.go(HALF), trial.undisturbed())


def onnx(trial: Hooked) -> None:
    """Likewise as an ONNX file, which is run and compared before it gets its name."""
    half = trial.started().go(HALF)
    with tempfile.TemporaryDirectory() as folder, one_registry():
        made = to_onnx(half.model, half.example, Path(folder) / "model.onnx")
    assert made.difference is not None
    check_same(half.go(HALF), trial.undisturbed())


def amp_fused(trial: Hooked) -> None:
    """A step that a gradient scaler skips is none: nothing is moved, nothing is counted; the next ones are."""

    def train(model: nn.Module) -> Training:
        training = trial.of(model, trial.fresh().example, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(HALF):
            training.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model.train()(training.example))
            scaler.scale(value).backward()
            before = [bits(tensor) for tensor in model.parameters()]
            if step == 0:
                next(tensor for tensor in model.parameters() if tensor.grad is not None).grad.fill_(torch.inf)
            scaler.step(training.optimizer)
            scaler.update()
            assert training.handle.steps == step
            assert ([bits(tensor) for tensor in model.parameters()] == before) == (step == 0)
        return training

    or_refused_unshared(train, trial.fresh().model, trial.fresh().model)


def resume(trial: Hooked) -> None:
    """The state of a run, hooks included, in a file, and from there in a new process's objects."""
    half = trial.started().go(HALF)
    twin = trial.of(trial.fresh(seed=1).model, half.example)
    run = {"steps": 2 * HALF, "recipe": {"epochs": 1}}
    hooks = [half.handle.state_dict()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        write_snapshot(path, half.model, half.optimizer, Progress(run, step=HALF, hooks=hooks), [generators()])
        read_snapshot(path, twin.model, twin.optimizer, run, hooks=[twin.handle])
    check_same(twin.go(HALF), trial.undisturbed())


EVENTS: dict[str, Callable[[Hooked], None]] = {
    event.__name__: event for event in (file, assign, to_empty, deepcopy, ema, compiled, export, amp_fused, resume)
}
"""Run in this process."""

CHOSEN: dict[str, tuple[Callable[[Hooked], None], tuple[str, ...]]] = {"onnx": (onnx, ("chain", "local_rows"))}
"""Run on the modules named: it is slow, and what is exported is a plain network."""
