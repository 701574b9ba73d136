"""TensorBoard: scalars while a run goes on, and what it shares and sees as pictures."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from weightshare.analysis.pictures import draw_assignment
from weightshare.errors import ConfigError
from weightshare.planning import applied_plans
from weightshare.training.data import Data


@final
class Board(AbstractContextManager["Board"]):
    """Writes to `folder/tensorboard`, or nowhere.

    Args:
        folder: The run directory; `None` writes nothing.
        done: Steps that are done already: what was written past them, by a process that was killed, is dropped.

    Raises:
        ConfigError: If TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path | None, done: int) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(f"TensorBoard is not there ({error}): pip install 'weightshare[tensorboard]'.") from error
        self._writer = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=done + 1 if done else 0)
        self._new = done == 0

    def scalars(self, step: int, **values: float | Tensor) -> None:
        """Write numbers at a step, each under its name."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # what a process that is killed has seen is on the disk

    def pictures(self, model: nn.Module, data: Data, vary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        """Draw what is shared, and a few training images before and after augmentation, without drawing numbers from
        the run's random generators."""
        if self._writer is None or not self._new:
            return
        for at, plan in applied_plans(model):
            if not plan.spec.kind.listed:
                continue
            name = "/".join(part for part in ("plan", at, plan.where.replace("'", "")) if part)
            self._writer.add_figure(name, draw_assignment(plan), 0)
        images, labels = next(iter(data.train.batches([torch.arange(min(32, len(data.train)))])))
        with torch.random.fork_rng():
            varied, _ = vary(images, labels)
        for name, shown in (("images", images), ("augmented", varied)):
            if shown.shape[1] in (1, 3):
                self._writer.add_images(f"data/{name}", shown.clamp(0, 1), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
