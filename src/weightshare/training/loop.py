"""One loop that trains a classifier, on Lightning Fabric: read it once and you know what every run here does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
import json
import math
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from weightshare.errors import TrainingError
from weightshare.files.atomic import write_text
from weightshare.training.data import Data, Split
from weightshare.training.recipe import Recipe
from weightshare.training.snapshot import read_snapshot, write_snapshot
from weightshare.verbs import check, param_groups, refuse_untied

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
History = list[dict[str, float]]


def fit(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int = 0,
    folder: str | Path | None = None,
    fabric: "Fabric | None" = None,
    label: str = "training",
) -> History:
    """Train a classifier in place, evaluate it after every epoch, and keep what is needed to go on after a stop.

    Args:
        model: From `(batch, in, h, w)` to `(batch, classes)`; shared already, if it is to be shared.
        data: Where it learns and is measured.
        recipe: The schedule.
        seed: Of the order of the images and of whatever the network draws.
        folder: Where `checkpoint.safetensors` and `metrics.jsonl` go after every epoch; a checkpoint that is there
            already is resumed from. `None` keeps nothing.
        fabric: Device, precision and strategy; `None` is one process on the best device.
        label: What the progress bar says.

    Returns:
        One row for each epoch: `epoch`, `lr`, `train_loss`, `train_accuracy`, `test_loss`, `test_accuracy` (fractions),
        `seconds` (training and evaluation of that epoch).

    Raises:
        TrainingError: If the model does not fit the data, the loss is not finite, or the checkpoint is of another run.
        ModelChanged: If ties of an applied plan have come undone.
        FileError: If a checkpoint is damaged or cannot be written.
    """
    from lightning_fabric import Fabric

    fabric = fabric or Fabric(devices=1)
    refuse_untied(model)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(param_groups(model, recipe.weight_decay), lr=recipe.lr)
    check(optimizer, model)
    network, stepper = fabric.setup(model, optimizer)
    train, test = data.train.to(fabric.device), data.test.to(fabric.device)
    _expect_logits(model, test, data.classes)

    batch_size = min(recipe.batch_size, len(train))
    steps = len(train) // batch_size  # the last, smaller batch is dropped: another one each epoch
    checkpoint = Path(folder) / CHECKPOINT if folder else None
    run = {"recipe": asdict(recipe), "seed": seed, "images": len(train), "data": data.name}
    scaler = getattr(fabric.strategy.precision, "scaler", None)  # of 16-mixed alone
    history = _resume(checkpoint, model, optimizer, run, scaler)

    with _progress(fabric, label, total=recipe.epochs * steps, done=len(history) * steps) as advance:
        for epoch in range(len(history), recipe.epochs):
            started = time.perf_counter()
            model.train()
            sums = torch.zeros(3, device=fabric.device)  # loss, right answers, images
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            for step in range(steps):
                lr = _learning_rate(recipe, epoch * steps + step, recipe.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                batch = order[step * batch_size : (step + 1) * batch_size]
                batch = batch[fabric.global_rank :: fabric.world_size].to(fabric.device)
                images, labels = train.images[batch], train.labels[batch]
                logits = network(images)
                loss = nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
                fabric.backward(loss)
                if recipe.clip is not None:
                    fabric.clip_gradients(network, stepper, max_norm=recipe.clip, error_if_nonfinite=False)
                stepper.step()
                optimizer.zero_grad()
                sums += _sums(logits.detach(), labels, loss.detach())
                advance(f"epoch {epoch + 1}/{recipe.epochs}")
            train_loss, train_accuracy = _means(fabric, sums)
            test_loss, test_accuracy = evaluate(network, test, fabric)
            if not math.isfinite(train_loss) or not math.isfinite(test_loss):
                kept = f"The last good state is in '{checkpoint}'" if checkpoint and history else "Nothing was kept"
                raise TrainingError(
                    f"The loss is {train_loss} in training and {test_loss} on the test images in epoch {epoch + 1}: it "
                    f"diverged. {kept}. "
                    f"Lower train.lr (now {recipe.lr})."
                )
            history.append(
                {
                    "epoch": epoch + 1,
                    "lr": optimizer.param_groups[0]["lr"],
                    "train_loss": train_loss,
                    "train_accuracy": train_accuracy,
                    "test_loss": test_loss,
                    "test_accuracy": test_accuracy,
                    "seconds": time.perf_counter() - started,
                }
            )
            if checkpoint:
                if fabric.is_global_zero:
                    state = {"run": run, "history": history, "scaler": scaler.state_dict() if scaler else None}
                    write_snapshot(checkpoint, model, optimizer, state)
                    lines = (json.dumps(row, allow_nan=False) + "\n" for row in history)
                    write_text(checkpoint.with_name(METRICS), "".join(lines))
                fabric.barrier()
    return history


def evaluate(
    model: nn.Module, split: Split, fabric: "Fabric | None" = None, batch_size: int = 512
) -> tuple[float, float]:
    """Mean loss and accuracy (a fraction) of a classifier on a split, in evaluation mode; its mode is put back."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, device=split.images.device)
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    with torch.no_grad():
        for start in range(0, len(split), batch_size):
            images = split.images[start : start + batch_size][rank::world]
            labels = split.labels[start : start + batch_size][rank::world]
            if len(labels):
                logits = model(images)
                sums += _sums(logits, labels, nn.functional.cross_entropy(logits, labels))
    model.train(was_training)
    return _means(fabric, sums)


def _learning_rate(recipe: Recipe, step: int, total: int) -> float:
    warmup = int(recipe.warmup * total)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _sums(logits: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
    right = (logits.argmax(1) == labels).sum()
    return torch.stack(
        [loss.float() * len(labels), right.float(), torch.tensor(float(len(labels)), device=loss.device)]
    )


def _means(fabric: "Fabric | None", sums: Tensor) -> tuple[float, float]:
    if fabric and fabric.world_size > 1:
        sums = torch.as_tensor(fabric.all_reduce(sums, reduce_op="sum"))
    loss, right, images = sums.tolist()
    return loss / images, right / images


def _expect_logits(model: nn.Module, split: Split, classes: int) -> None:
    was_training = model.training
    model.eval()
    images = split.images[:2]
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:  # whatever a network of the user's raises
        shape = tuple(images.shape)
        raise TrainingError(f"{type(model).__name__} cannot run on images of shape {shape}: {error}") from error
    finally:
        model.train(was_training)
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    needed = (len(images), classes)
    if got != needed:
        raise TrainingError(
            f"{type(model).__name__} gives {got} for {len(images)} images, need a tensor {needed}: one logit a class."
        )


def _resume(
    checkpoint: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: dict[str, Any],
    scaler: torch.amp.GradScaler | None,
) -> History:
    if checkpoint is None or not checkpoint.exists():
        return []
    progress = read_snapshot(checkpoint, model, optimizer, run)
    if scaler and progress["scaler"]:
        scaler.load_state_dict(progress["scaler"])
    return progress["history"]


@contextmanager
def _progress(fabric: "Fabric", label: str, total: int, done: int) -> Iterator[Any]:
    """A bar with the time left on a terminal; elsewhere ten plain lines."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    if not fabric.is_global_zero or done >= total:
        yield lambda _: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, *left, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda text: bar.update(task, advance=1, description=f"{label}, {text}")
    else:
        started, made = time.perf_counter(), 0
        tenth = max(1, (total - done) // 10)

        def line(text: str) -> None:
            nonlocal made
            made += 1
            if made % tenth == 0:
                left = (time.perf_counter() - started) / made * (total - done - made)
                print(f"{label}, {text}, step {done + made}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)

        yield line
