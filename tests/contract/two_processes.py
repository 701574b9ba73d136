"""Data-parallel training on two processes. Starting them is slow, so one pair runs all of its cells."""

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
from torch import nn
import torch.distributed as dist

from tests.contract.outcomes import Outcome, attempt
from tests.contract.specs import SPECS, modules
from tests.contract.trial import Trial, check_close, check_shared, gradients, or_refused_unshared
from tests.support import ROOT, bits
import weightshare as ws

RANKS = 2
SECONDS = 240

Found = dict[str, dict[str, Outcome]]
"""The outcome for each spec and module."""


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


@functools.cache
def outcomes() -> Found:
    """Start the pair, wait for it, and put both outcomes of each cell together: it passes if it does on both."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.contract.two_processes", folder]
        path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
        pair = [
            subprocess.Popen(
                [*command, str(rank)],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(RANKS)
        ]
        said, end = [], time.monotonic() + SECONDS
        for process in pair:
            try:
                said.append(process.communicate(timeout=max(1.0, end - time.monotonic()))[1])
            except subprocess.TimeoutExpired:
                process.kill()
                said.append(f"killed after {SECONDS} s\n{process.communicate()[1]}")
        found = [_read(Path(folder) / f"{rank}.json", text) for rank, text in enumerate(said)]
    return {
        spec: {module: _worst([rank[spec][module] for rank in found]) for module in modules(spec)} for spec in SPECS
    }


def _worst(both: list[Outcome]) -> Outcome:
    return max(both, key=lambda outcome: ("passed", "refused", "failed").index(outcome.kind))


def _read(path: Path, said: str) -> Found:
    lost = Outcome("failed", f"The process ended before this cell:\n{said}")
    text = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        spec: {
            module: Outcome(**text[spec][module]) if module in text.get(spec, {}) else lost for module in modules(spec)
        }
        for spec in SPECS
    }


def main(folder: str, rank: str) -> None:
    """One of the two processes: run every cell in order and write down each outcome at once."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    wait = timedelta(seconds=20)
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=RANKS, timeout=wait)
    found: dict[str, dict[str, dict[str, str]]] = {spec: {} for spec in SPECS}
    for spec, make_spec in SPECS.items():
        for module, make in modules(spec).items():
            found[spec][module] = asdict(attempt(ddp, Trial(make, make_spec())))
            part = Path(folder, f"{rank}.part")  # which is whole before it counts: this process may be ended any time
            part.write_text(json.dumps(found), encoding="utf-8")
            part.replace(Path(folder, f"{rank}.json"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
