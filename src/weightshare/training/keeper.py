"""What a run keeps while it goes on: when its state is written, when it stops, and when it is given up."""

from collections.abc import Sequence
import json
import math
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any
import warnings

import torch
from torch import Tensor, nn

from weightshare.depth.record import RecordHandle
from weightshare.errors import Diverged, SharingWarning
from weightshare.files.atomic import write_text
from weightshare.files.evolution import save_evolution
from weightshare.hooks import Handle
from weightshare.surgery.shards import local_part
from weightshare.training.snapshot import PROCESSES, Progress, generators, read_snapshot, write_snapshot
from weightshare.training.workplace import Stop, Stopped

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT, METRICS, EVOLUTION = "checkpoint.safetensors", "metrics.jsonl", "similarity.safetensors"
AGREE_EVERY = 10  # steps after which several processes ask each other whether to stop


class Keeper:
    """Keeps the state of a run in its folder, and decides when.

    Args:
        folder: The run directory; with `None` nothing is kept.
        fabric: Says which processes there are.
        model: What is trained.
        optimizer: By what.
        run: What a resumed run has to agree in; see `Progress`.
        minutes: After how many minutes the state is kept inside an epoch.
        hooks: What is attached to the optimizer; their counters are kept, too.
    """

    def __init__(
        self,
        folder: str | Path | None,
        fabric: "Fabric",
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        run: dict[str, Any],
        minutes: float,
        hooks: Sequence[Handle] = (),
    ) -> None:
        self.path = Path(folder) / CHECKPOINT if folder is not None else None
        self.fabric, self.model, self.optimizer, self.run, self.hooks = fabric, model, optimizer, run, hooks
        self.seconds, self.kept = 60 * minutes, time.monotonic()
        self.scaler = getattr(fabric.strategy.precision, "scaler", None)  # of 16-mixed alone

    def resume(self) -> Progress:
        """Put everything where a run was that was stopped, or say that none was."""
        if self.path is None or not self.path.exists():
            return Progress(self.run)
        rank = self.fabric.global_rank
        at = read_snapshot(self.path, self.model, self.optimizer, self.run, rank, self.scaler, self.hooks)
        before, now, at.run = at.run.get(PROCESSES), self.fabric.world_size, self.run
        if self.fabric.is_global_zero:
            if before != now:
                warnings.warn(
                    f"The run in '{self.path.parent}' was on {before} processes and goes on on {now}: it takes the "
                    "same batches, but sums in another order and draws other numbers for augmentation and dropout.",
                    SharingWarning,
                    stacklevel=3,
                )
            self._write_beside(at)  # a process may have been killed between the files
        return at

    def is_due(self, stop: Stop, step: int) -> bool:
        """Whether to keep the state now; several processes agree on it, every few steps."""
        due = self.path is not None and (stop.signal is not None or time.monotonic() - self.kept >= self.seconds)
        if self.fabric.world_size == 1 or self.path is None:
            return due
        return step % AGREE_EVERY == 0 and self.any(due)

    def keep(self, at: Progress) -> None:
        """Write the state, then what is read from it: the metrics, and how layers became alike."""
        if self.path is None:
            return
        at.scaler = self.scaler.state_dict() if self.scaler else None
        at.hooks = [hook.state_dict() for hook in self.hooks]
        states = _gathered(self.fabric, generators())
        first = self.fabric.is_global_zero
        write_snapshot(self.path, self.model, self.optimizer, at, states, writes=first)
        if first:
            self._write_beside(at)
        self.fabric.barrier()
        self.kept = time.monotonic()

    def leave_if_asked(self, stop: Stop, where: str) -> None:
        """Raise if this process, or one that works with it, was asked to stop; the state is kept already."""
        if self.path is None or not self.any(stop.signal is not None):
            return
        said = f"Stopped {where}; the state is in '{self.path}'."
        if stop.signal is stop.INTERRUPT:
            raise KeyboardInterrupt(said)
        raise Stopped(said, stop.signal or stop.TERMINATE)

    def refuse_diverged(
        self,
        sums: Tensor,
        epoch: int,
        lr: float,
        test_loss: float = 0.0,
        after_step: bool = False,
        alone: bool = False,
    ) -> None:
        """Raise if a loss or a weight was not finite, before such a state is kept; in all processes, or `alone`."""
        loss, _, _, good = sums.tolist()
        seen = {
            f"in training from step {int(good) + 1}": loss,
            "in the weights": _sum_of_weights(self.model) if after_step else 0.0,
            "on the test images": test_loss,
        }
        bad = [f"{value} {where}" for where, value in seen.items() if not math.isfinite(value)]
        if not (bad if alone else self.any(bool(bad))):
            return
        kept = "Nothing was kept"
        if self.path is not None and self.path.exists():
            kept = f"The last good state is in '{self.path}'"
        raise Diverged(
            f"The loss is {' and '.join(bad) or 'not finite in another process'} in epoch {epoch + 1}: it diverged. "
            f"{kept}. Lower train.lr (now {lr})."
        )

    def any(self, here: bool) -> bool:
        """Whether it is so in this process or in one that works with it; all of them have to ask."""
        if self.fabric.world_size == 1:
            return here
        votes = self.fabric.all_reduce(torch.tensor(float(here), device=self.fabric.device), reduce_op="sum")
        return bool(torch.as_tensor(votes) > 0)

    def _write_beside(self, at: Progress) -> None:
        assert self.path is not None
        lines = (json.dumps(row, allow_nan=False) + "\n" for row in at.history)
        write_text(self.path.with_name(METRICS), "".join(lines))
        for hook in self.hooks:
            if isinstance(hook, RecordHandle):
                save_evolution(hook.kept, self.path.with_name(EVOLUTION))


def _gathered(fabric: "Fabric", states: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The states of every process, by its number."""
    if fabric.world_size == 1:
        return [states]
    by_device: dict[str, list[Tensor]] = {}
    for device, value in states.items():
        here = value.to(fabric.device)
        by_device[device] = [torch.empty_like(here) for _ in range(fabric.world_size)]
        torch.distributed.all_gather(by_device[device], here)
    return [{device: of_all[rank].cpu() for device, of_all in by_device.items()} for rank in range(fabric.world_size)]


def _sum_of_weights(model: nn.Module) -> float:
    """A number that is finite if every weight is; of a sharded one, the part that lies here."""
    return torch.stack([local_part(tensor)[0].abs().sum().float() for tensor in model.parameters()]).sum().item()
