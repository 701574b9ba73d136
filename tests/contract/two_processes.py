"""Training on two processes: data-parallel, and spread by FSDP2. Starting them is slow, so one pair runs all cells."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
import functools
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import torch
from torch import Tensor, nn
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tests.contract import hooked
from tests.contract.outcomes import Outcome, attempt
from tests.contract.specs import SPECS, modules
from tests.contract.trial import Trial, check_close, check_shared, gradients, or_refused_unshared, partition
from tests.support import ROOT, bits
import weightshare as ws
from weightshare.training.distributed import shard_

RANKS = 2
SECONDS = {False: 600, True: 1200}
"""For all cells together, and for the slow ones."""

Key = tuple[str, str, str]
"""Names of a spec, a module and an event."""

AT_ONCE = ("chain", "tied_embedding", "scalars", "channels_last", "local_rows")
"""The modules that FSDP2 is tried on at once; the others, which are like one of these to it, behind the marker."""


def ddp(trial: Trial) -> None:
    """Gradients are those of one process on the joined batch; after two steps the ranks agree and the ties hold."""
    shared = trial.shared()
    model, batch = shared.model.eval(), shared.example[:RANKS]
    wanted = {name: None if g is None else g / RANKS for name, g in gradients(model, batch).items()}
    # Told so only where it is so, as torch asks: what is frozen has no gradient either, and is no concern of DDP's.
    unread = any(wanted[name] is None for name, tensor in model.named_parameters() if tensor.requires_grad)
    part = batch[dist.get_rank() : dist.get_rank() + 1]

    def wrapped(inner: nn.Module) -> nn.Module:
        outer = nn.parallel.DistributedDataParallel(inner, find_unused_parameters=unread)
        gradients(inner, part, outer)
        return outer

    outer = or_refused_unshared(wrapped, model, trial.fresh().model.eval())
    check_close({name: tensor.grad for name, tensor in model.named_parameters(remove_duplicate=False)}, wanted)
    optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.1), lr=0.05)
    for _ in range(2):
        gradients(model, part, outer)
        optimizer.step()
    check_shared(model, shared)
    mine = [bits(tensor) for tensor in model.parameters()]
    every: list[object] = [None] * RANKS
    dist.all_gather_object(every, mine)
    assert every == [mine] * RANKS


def fsdp2(trial: Trial) -> None:
    """As `ddp`, on parts; and after two steps each part is that of a twin which one process trained."""
    shared, twin = trial.shared(), trial.shared().model.eval()
    model, batch = shared.model.eval(), shared.example[:RANKS]
    wanted = {name: None if g is None else g / RANKS for name, g in gradients(model, batch).items()}
    part = batch[dist.get_rank() : dist.get_rank() + 1]
    shard_(model)
    optimizers = []
    for net in (model, twin):
        # Where gradients are 0 but for rounding, as of a key's bias, Adam's steps are noise: eps is above it.
        fused = all(one.is_floating_point() for one in net.parameters())
        groups = ws.param_groups(net, weight_decay=0.1)
        optimizers.append(torch.optim.AdamW(groups, lr=0.05, eps=1e-3, fused=fused))
    ws.check(optimizers[0], model)
    for step in range(2):
        gradients(model, part)
        if step == 0:
            got = {name: tensor.grad for name, tensor in model.named_parameters(remove_duplicate=False)}
            check_close(*_parts(got, wanted))
        gradients(twin, batch)
        for tensor in (one.grad for one in twin.parameters() if one.grad is not None):
            tensor.div_(RANKS)
        for optimizer in optimizers:
            optimizer.step()
    assert partition(model) == shared.ties
    check_close(*_parts(model.state_dict(), twin.state_dict()))


def _parts(
    got: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor | None]
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """What lies in this process of tensors that are spread, and the same part of whole ones."""
    rank, mine, theirs = dist.get_rank(), dict(got), dict(wanted)
    for name, tensor in got.items():
        if isinstance(tensor, DTensor) and (whole := wanted[name]) is not None:
            rows = -(-len(whole) // RANKS)
            mine[name], theirs[name] = tensor.to_local(), whole[rank * rows : (rank + 1) * rows]
    return mine, theirs


def hooked_ddp(trial: hooked.Hooked) -> None:
    """The map after each step is that of one process on the joined batch."""
    _hooked(trial, nn.parallel.DistributedDataParallel)


def hooked_fsdp2(trial: hooked.Hooked) -> None:
    """Likewise where the parameters are spread over both."""

    def sharded(model: nn.Module) -> nn.Module:
        shard_(model)
        return model

    _hooked(trial, sharded)


def _hooked(trial: hooked.Hooked, wrapped: Callable[[nn.Module], nn.Module]) -> None:
    inner, example = trial.fresh()
    batch = example[:RANKS]
    part = batch[dist.get_rank() : dist.get_rank() + 1]
    outer = or_refused_unshared(lambda model: wrapped(model.eval()), inner, trial.fresh().model)
    twin = trial.fresh().model.eval()
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.01, momentum=0.9) for one in (inner, twin)]
    handles = [trial.spec.attach_(*pair) for pair in zip(optimizers, (inner, twin), strict=True)]
    for _ in range(2 * hooked.HALF):
        gradients(inner, part, outer)
        gradients(twin, batch)
        for tensor in (one.grad for one in twin.parameters() if one.grad is not None):
            tensor.div_(RANKS)
        for optimizer in optimizers:
            optimizer.step()
    assert handles[0].state_dict() == handles[1].state_dict()
    check_close(*_parts(inner.state_dict(), twin.state_dict()))


TOGETHER: dict[str, Callable[[Trial], None]] = {event.__name__: event for event in (ddp, fsdp2)}


OF_HOOKS: dict[str, Callable[[hooked.Hooked], None]] = {"ddp": hooked_ddp, "fsdp2": hooked_fsdp2}


def hook_cells() -> list[Key]:
    """Those of what is attached to an optimizer."""
    return [(hook, module, event) for hook in hooked.HOOKS for module in hooked.modules(hook) for event in OF_HOOKS]


def cells(slow: bool = False) -> list[Key]:
    """The cells that the pair runs, or those behind the marker."""
    return [
        (spec, module, event)
        for spec in SPECS
        for module in modules(spec)
        for event in TOGETHER
        if slow == (event == "fsdp2" and module not in AT_ONCE)
    ]


@functools.cache
def outcomes(slow: bool = False) -> dict[Key, Outcome]:
    """Start the pair, wait for it, and put both outcomes of each cell together: it passes if it does on both."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.contract.two_processes", folder]
        path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
        pair = [
            subprocess.Popen(
                [*command, str(rank), *(["slow"] if slow else [])],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(RANKS)
        ]
        said, end = [], time.monotonic() + SECONDS[slow]
        for process in pair:
            try:
                said.append(process.communicate(timeout=max(1.0, end - time.monotonic()))[1])
            except subprocess.TimeoutExpired:
                process.kill()
                said.append(f"killed after {SECONDS[slow]} s\n{process.communicate()[1]}")
        found = [_read(Path(folder) / f"{rank}.json", text, slow) for rank, text in enumerate(said)]
    return {cell: _worst([rank[cell] for rank in found]) for cell in _all_cells(slow)}


def _worst(both: list[Outcome]) -> Outcome:
    return max(both, key=lambda outcome: ("passed", "refused", "failed").index(outcome.kind))


def _read(path: Path, said: str, slow: bool) -> dict[Key, Outcome]:
    lost = Outcome("failed", f"The process ended before this cell:\n{said}")
    text = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {cell: Outcome(**text["/".join(cell)]) if "/".join(cell) in text else lost for cell in _all_cells(slow)}


def _all_cells(slow: bool) -> list[Key]:
    return cells(slow) if slow else [*cells(), *hook_cells()]


def _attempted(name: str, module: str, event: str) -> Outcome:
    if name in hooked.HOOKS:
        return attempt(OF_HOOKS[event], hooked.Hooked(hooked.modules(name)[module], hooked.HOOKS[name]()))
    return attempt(TOGETHER[event], Trial(modules(name)[module], SPECS[name]()))


def main(folder: str, rank: str, slow: str = "") -> None:
    """One of the two processes: run every cell in order and write down each outcome at once."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    wait = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=RANKS, timeout=wait)
    found: dict[str, dict[str, str]] = {}
    for cell in _all_cells(bool(slow)):
        found["/".join(cell)] = asdict(_attempted(*cell))
        part = Path(folder, f"{rank}.part")  # which is whole before it counts: this process may be ended any time
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(Path(folder, f"{rank}.json"))
    dist.barrier()
    # Not by the interpreter's own end: threads of gloo may outlive it, which aborts.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
