"""Events of training: steps, averages, mixed precision, micro-batches, compilers, checkpointing; gradients by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import copy
import functools
from pathlib import Path
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from tests.contract import banks
from tests.contract.by_hand import KINDS
from tests.contract.trial import (
    TorchRefuses,
    Trial,
    check_close,
    check_shared,
    dense,
    gradients,
    loss,
    made,
    or_refused_unshared,
    partition,
    slots,
)
from tests.support import bits, output, same_bits
import weightshare as ws
from weightshare.training.snapshot import Progress, generators, read_snapshot, write_snapshot

STEPS = 3


def steps(trial: Trial) -> None:
    """Three steps of AdamW: every slot with a gradient moves, all of its readers with it, and the loss is finite."""
    shared = trial.shared()
    model = shared.model.train()
    before = {name: bits(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.0), lr=0.05)
    reached = set[str]()
    for _ in range(STEPS):
        found = gradients(model, shared.example)
        assert all(gradient is None or gradient.isfinite().all() for gradient in found.values())
        reached |= {name for name, gradient in found.items() if gradient is not None and gradient.abs().max() > 0}
        optimizer.step()
    check_shared(model, shared)
    after = {name: bits(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    assert {name for name in before if after[name] != before[name]} == reached
    assert any(reached.issuperset(slot) for slot in slots(shared.model, shared.plan))
    assert torch.isfinite(loss(model(shared.example)))


def gradient(trial: Trial) -> None:
    """A slot's gradient is the sum of its readers' in a twin that is not shared and holds equal numbers; of a codebook
    it is their mean, of templates and coefficients what the product gives, of banks what `banks.gradients` says."""
    shared, twin = trial.shared(), trial.fresh(seed=1).model
    twin.load_state_dict(dense(shared.model, shared.plan))
    assert partition(twin) == shared.apart
    found, own = gradients(shared.model.eval(), shared.example), gradients(twin.eval(), shared.example)
    wanted = {}
    for group in made(shared.plan):
        own |= KINDS[type(group)].gradients(group, shared.model.state_dict(), own.pop(group.name))
    for group in banks.generated(shared.plan):
        of_layers = [own.pop(path) for path in group.items]
        own |= banks.gradients(group, banks.bank_path(shared.model, group), shared.model.state_dict(), of_layers)
    for tied in shared.ties:
        objects = dict(twin.named_parameters(remove_duplicate=False))
        once = {id(objects.get(name)): own[name] for name in tied}  # its own ties have one gradient
        summed = functools.reduce(_plus, once.values())
        wanted |= dict.fromkeys(tied, summed)
    check_close(found, wanted)


def _plus(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    return left if right is None else right if left is None else left + right


def micro_batches(trial: Trial) -> None:
    """Gradients of single samples, accumulated, are the gradient of the batch."""
    shared = trial.shared()
    model = shared.model.eval()
    wanted = {n: None if g is None else g.clone() for n, g in gradients(model, shared.example).items()}
    model.zero_grad()
    for sample in shared.example.split(1):
        loss(model(sample)).backward()
    check_close({name: tensor.grad for name, tensor in model.named_parameters(remove_duplicate=False)}, wanted)
    check_shared(model, shared)


def ema(trial: Trial) -> None:
    """The moving average keeps the ties and averages each slot once."""
    _averaged(trial, lambda mean, value, _: 0.5 * mean + 0.5 * value, multi_avg_fn=get_ema_multi_avg_fn(0.5))


def swa(trial: Trial) -> None:
    """The running mean of torch keeps the ties and averages each slot once."""
    _averaged(trial, lambda mean, value, count: mean + (value - mean) / (count + 1))


def _averaged(trial: Trial, by_hand: Callable[[Tensor, Tensor, int], Tensor], **how: Any) -> None:
    shared = trial.shared()
    average = AveragedModel(shared.model, **how)
    check_shared(average.module, shared)
    wanted: dict[str, Tensor] = {}
    for count in range(STEPS):
        with torch.no_grad():
            for number, tensor in enumerate(shared.model.parameters()):
                tensor.add_(0.25 * (number + 1) * (count + 1) ** 2)
        average.update_parameters(shared.model)
        for name, tensor in shared.model.named_parameters():
            value = tensor.detach().clone()
            wanted[name] = by_hand(wanted[name], value, count) if count else value
    check_shared(average.module, shared)
    check_close({name: tensor.detach() for name, tensor in average.module.named_parameters()}, wanted)
    assert not {t.data_ptr() for t in average.module.parameters()} & {t.data_ptr() for t in shared.model.parameters()}


def resume(trial: Trial) -> None:
    """The state of a run in a file, and from there in a new model and optimizer: the end is that of one that went on,
    to the last bit."""
    shared, twin = trial.shared(), trial.shared(seed=1)
    run = {"steps": 2 * STEPS, "recipe": {"epochs": 1}}
    mine, other = (torch.optim.AdamW(ws.param_groups(one.model, 0.1), lr=0.05) for one in (shared, twin))
    _stepped(shared.model, mine, shared.example)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        write_snapshot(path, shared.model, mine, Progress(run, step=STEPS), [generators()])
        read_snapshot(path, twin.model, other, run)
    for model, optimizer in ((shared.model, mine), (twin.model, other)):
        _stepped(model, optimizer, shared.example)
    check_shared(twin.model, twin)
    assert same_bits(twin.model.state_dict().values(), shared.model.state_dict().values())


def _stepped(model: nn.Module, optimizer: torch.optim.Optimizer, example: Tensor) -> None:
    for _ in range(STEPS):
        gradients(model.train(), example)
        optimizer.step()


def functional(trial: Trial) -> None:
    """`functional_call` with one key for each slot, and with all: the new numbers are read, the model is untouched."""
    shared = trial.shared()
    plain, example = trial.fresh()
    before = _read(plain.eval())
    with torch.no_grad():
        functional_call(plain, {name: tensor * 1.5 for name, tensor in plain.named_parameters()}, (example,))
    if _read(plain) != before:
        raise TorchRefuses("functional_call leaves its own numbers in a module that has two paths (pytorch#86708)")
    twin = copy.deepcopy(shared.model)
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor.mul_(1.5)
    wanted, own = output(twin, shared.example), output(shared.model, shared.example)
    before = _read(shared.model)
    new = {id(tensor): tensor.detach() * 1.5 for tensor in shared.model.parameters()}
    for once in (True, False):
        names = shared.model.named_parameters(remove_duplicate=once)
        with torch.no_grad():
            found = functional_call(shared.model, {name: new[id(tensor)] for name, tensor in names}, (shared.example,))
        assert bits(found) == bits(wanted) != bits(own)
        assert _read(shared.model) == before
        assert bits(output(shared.model, shared.example)) == bits(own)
        check_shared(shared.model, shared)


def _read(model: nn.Module) -> list[tuple[str, int, bytes | None]]:
    """Every name with the object and the bits that it leads to."""
    return [(name, id(tensor), bits(tensor)) for name, tensor in model.named_parameters(remove_duplicate=False)]


def amp_foreach(trial: Trial) -> None:
    """Autocast and a gradient scaler with AdamW(foreach): three steps, each slot stepped once in each."""
    _scaled(trial, functools.partial(torch.optim.AdamW, lr=0.01, foreach=True))


def amp_fused(trial: Trial) -> None:
    """The same with AdamW(fused), which takes the scale into the step."""
    _scaled(trial, functools.partial(torch.optim.AdamW, lr=0.01, fused=True))


def amp_sgd(trial: Trial) -> None:
    """The same with SGD(fused), which keeps no count of its steps."""
    _scaled(trial, functools.partial(torch.optim.SGD, lr=0.01, fused=True))


def _scaled(trial: Trial, make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Each slot moves as a lone tensor of equal numbers does that is stepped once with the slot's gradient.

    So the slow twin is torch's own step (fused SGD of bfloat16 is wrong in torch 2.13, pytorch#191763, for both).
    """
    shared = trial.shared()

    def train(model: nn.Module) -> None:
        optimizer, lone_optimizer = make(ws.param_groups(model, weight_decay=0.0)), None
        scaler, lone_scaler = (torch.amp.GradScaler("cpu", init_scale=4.0) for _ in range(2))
        trained: list[nn.Parameter] = []
        for done in range(STEPS):
            optimizer.zero_grad()
            with _kernels_for(model), torch.autocast("cpu", torch.bfloat16):
                value = loss(model.train()(shared.example))
                assert value.isfinite()
            scaler.scale(value).backward()
            if not done:
                trained = [tensor for tensor in model.parameters() if tensor.grad is not None]
                lone = [nn.Parameter(tensor.detach().clone()) for tensor in trained]
                lone_optimizer = make([{"params": lone, "weight_decay": 0.0}])
            for tensor, twin in zip(trained, lone, strict=True):
                twin.grad = tensor.grad.clone()
            lone_scaler.scale(torch.zeros(()))
            for scale, one in ((scaler, optimizer), (lone_scaler, lone_optimizer)):
                scale.step(one)
                scale.update()
            assert same_bits(trained, lone)
            assert sorted(_steps(optimizer)) == sorted(_steps(lone_optimizer))
        assert all(tensor.isfinite().all() for tensor in trained)

    or_refused_unshared(train, shared.model, trial.fresh().model)
    check_shared(shared.model, shared)


@contextmanager
def _kernels_for(model: nn.Module) -> Iterator[None]:
    """torch's own kernels for recurrent layers: oneDNN has none for bfloat16 where a processor lacks AVX-512."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(before and not recurrent)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def _steps(optimizer: torch.optim.Optimizer) -> list[int]:
    """The count of each tensor that the optimizer keeps one for."""
    return [int(entry["step"]) for entry in optimizer.state.values() if "step" in entry]


def compiled(trial: Trial) -> None:
    """`torch.compile` without code generation: outputs and gradients are those of eager mode, ties hold."""
    _compiled(trial, "aot_eager")


def inductor(trial: Trial) -> None:
    """`torch.compile` as users call it. Slow, so for one module of each spec."""
    _compiled(trial, "inductor")


def _compiled(trial: Trial, backend: str) -> None:
    shared = trial.shared()
    model = shared.model.eval()
    with torch.no_grad():
        wanted = model(shared.example)
    own = {n: None if g is None else g.clone() for n, g in gradients(model, shared.example).items()}
    torch._dynamo.reset()
    try:
        fast = torch.compile(model, backend=backend)
        found = gradients(model, shared.example, fast)
        # Hooks are compiled apart from what reads their weights: one that nothing reads gets zeros there, not nothing.
        unread = [name for name, g in found.items() if own[name] is None and g is not None and not g.any()]
        check_close({**found, **dict.fromkeys(unread)}, own)
        check_close({"output": fast(shared.example).detach()}, {"output": wanted})
    finally:
        torch._dynamo.reset()
    check_shared(model, shared)


def checkpointed(trial: Trial) -> None:
    """Recomputed activations, around the whole model and around each block of it: the same gradients to the bit."""
    shared = trial.shared()
    model = shared.model.train()
    wanted = {name: _bits(gradient) for name, gradient in gradients(model, shared.example).items()}
    whole = functools.partial(checkpoint, model, use_reentrant=False)
    found = {name: _bits(gradient) for name, gradient in gradients(model, shared.example, whole).items()}
    assert found == wanted
    lists = nn.Sequential | nn.ModuleList | nn.ModuleDict
    holders = [module for module in model.modules() if module is model or isinstance(module, lists)]
    parts = {part for holder in holders for part in holder.children()}
    blocks = [part for part in parts if not isinstance(part, lists | nn.ParameterList)]
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    found = {name: _bits(gradient) for name, gradient in gradients(model, shared.example).items()}
    assert found == wanted
    check_shared(model, shared)


def _bits(gradient: Tensor | None) -> bytes | None:
    return None if gradient is None else bits(gradient)
