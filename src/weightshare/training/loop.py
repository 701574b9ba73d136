"""One loop that trains a classifier, on Lightning Fabric: read it once and you know what every run here does."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
import hashlib
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from weightshare.depth.lsm import mixtures
from weightshare.depth.record import Record
from weightshare.errors import SpecError, TrainingError
from weightshare.hooks import Handle
from weightshare.optimizer import check, param_groups
from weightshare.training import attached
from weightshare.training.board import Board
from weightshare.training.data import Data, Split, augmentation
from weightshare.training.keeper import Keeper
from weightshare.training.measures import measured
from weightshare.training.progress import progress
from weightshare.training.recipe import Recipe
from weightshare.training.schedule import learning_rate
from weightshare.training.snapshot import PROCESSES, Progress
from weightshare.training.tutor import Tutor
from weightshare.training.workplace import at_work, stoppable
from weightshare.verbs import refuse_untied

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RECORDED = (0.02, 0.1, 0.5)
"""Fractions of all steps at which coefficients of templates are kept, beside the start and the end of each epoch."""
History = list[dict[str, float]]


def fit(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int = 0,
    folder: str | Path | None = None,
    fabric: "Fabric | None" = None,
    label: str = "training",
    checkpoint_minutes: float = 10.0,
    tensorboard: bool = False,
    identity: Mapping[str, Any] | None = None,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[History], bool] | None = None,
) -> History:
    """Train a classifier in place, evaluate it after every epoch, and keep what is needed to go on after a stop.

    A run that was killed and is started again ends with the weights that it would have had, to the last bit on one
    kind of machine: weights, optimizer, order of the data and torch's random generators are where they were.

    Args:
        model: From `(batch, in, h, w)` to `(batch, classes)`; shared already, if it is to be shared.
        data: Where it learns and is measured.
        recipe: The schedule.
        seed: Of the order of the images and of whatever the network and augmentation draw from torch.
        folder: Where `checkpoint.safetensors`, `metrics.jsonl` and, of a model with `Templates`,
            `similarity.safetensors` go, for this process alone; a checkpoint that is there already is resumed from.
            `None` keeps nothing.
        fabric: Device, precision and strategy; `None` is one process on the best device.
        label: What the progress bar says.
        checkpoint_minutes: After how many minutes state is kept inside an epoch too. It is so after every epoch, and
            when the process is asked to stop.
        tensorboard: Whether to write scalars and pictures to `folder/tensorboard`.
        identity: What else a checkpoint has to agree in to be resumed from, as JSON-able values.
        teacher: The network that `recipe.distil` learns from, with its numbers in it; `run` reads it from the file. It
            is put into evaluation mode and on the device, stays as it is, and is not kept in checkpoints.
        on_epoch: Called between two epochs, by the first process, with all rows so far, also those of before a stop;
            if it says true the training ends there, without what the last epoch does besides (the exact map of
            `Proximal`).

    Returns:
        One row for each epoch: `epoch`, `lr`, `train_loss` (with what a teacher adds), `train_accuracy`, `test_loss`,
        `test_accuracy` (fractions), `seconds` (training and evaluation of that epoch), `images_per_second` (training
        alone); with regularisers also `distinct_share` and `zero_share` (of the regularised weights), and `penalty`
        (the sum of their `R`); with local layers `noise_within_modules` and `noise_over_positions`, the inverse of
        `SNR_w`, averaged over them; with `Templates` also `layer_similarity`, the mean of `LSM_ij` over pairs.

    Raises:
        TrainingError: If the model does not fit the data or its teacher, the loss is not finite, another process is at
            work in the folder, or the checkpoint is of another run. After a SIGTERM a `Stopped`, the state kept; after
            an interrupt a `KeyboardInterrupt` likewise.
        NoMatch: If no module gives the hidden states that `recipe.distil` names.
        ModelChanged: If ties of an applied plan have come undone.
        FileError: If a checkpoint is damaged or cannot be written.
    """
    from lightning_fabric import Fabric

    fabric = fabric or Fabric(devices=1)
    refuse_untied(model)
    torch.manual_seed(seed + 1_000_003 * fabric.global_rank)
    network = fabric.setup_module(model)  # before the optimizer: sharding puts other parameters in their place
    optimizer = _optimizer(model, recipe)
    stepper: Any = fabric.setup_optimizers(optimizer)
    data = data.to(fabric.device)
    _expect_logits(model, data)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    mean = torch.tensor(data.train.mean)
    vary = augmentation(recipe.augment, data.train.shape, data.classes, mean, data.cut)
    copies = recipe.augment.repeats
    batch_size = min(recipe.batch_size // copies, len(data.train))  # of different images
    if batch_size < fabric.world_size:
        raise TrainingError(f"A batch of {batch_size} images cannot be cut for {fabric.world_size} processes.")
    steps = len(data.train) // batch_size  # the last, smaller batch is dropped: another one each epoch
    run = {"recipe": asdict(recipe), "seed": seed, "data": data.name, "images": len(data.train), "steps": steps}
    run |= {"labels": _digest(data), PROCESSES: fabric.world_size, **(identity or {})}
    tutor = _tutor(model, teacher, data, recipe, fabric)
    run |= {"teacher": tutor.digest()} if tutor else {}

    with ExitStack() as around:
        if folder is not None:
            around.enter_context(at_work(folder))
        hooks: list[Handle] = [
            around.enter_context(entry.spec(recipe.epochs * steps).attach_(optimizer, model, entry.where))
            for entry in recipe.regularise
        ]
        hooks += [around.enter_context(entry.spec.attach_(optimizer, model, entry.where)) for entry in recipe.sleep]
        if mixtures(model):
            moments = tuple(max(1, round(fraction * recipe.epochs * steps)) for fraction in RECORDED)
            hooks.append(around.enter_context(Record(at=moments).attach_(optimizer, model)))
        keeper = Keeper(folder, fabric, model, optimizer, run, checkpoint_minutes, hooks)
        at = keeper.resume()
        stop = around.enter_context(stoppable(active=folder is not None))
        done = len(at.history) * steps + at.step
        board = around.enter_context(Board(folder if tensorboard and fabric.is_global_zero else None, done))
        board.pictures(model, data, vary)
        advance = around.enter_context(progress(label, recipe.epochs * steps, done, fabric.is_global_zero))

        for epoch in range(len(at.history), recipe.epochs):
            if epoch and on_epoch is not None and keeper.any(fabric.is_global_zero and on_epoch(at.history)):
                break
            started = time.perf_counter() - at.seconds
            model.train()
            sums = torch.tensor(at.sums, device=fabric.device) * fabric.is_global_zero  # those of all processes
            order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            rows = rows_of(order, batch_size, copies, fabric.global_rank, fabric.world_size)[at.step : steps]
            for step, (images, labels) in enumerate(data.train.batches(rows), at.step + 1):
                lr = learning_rate(recipe, epoch * steps + step - 1, recipe.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group.get("lr_scale", 1.0)
                images, targets = vary(images, labels)
                seen = data.train.normalised(images).to(memory_format=layout)
                logits, taught = tutor(network, seen) if tutor else (network(seen), None)
                loss = nn.functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
                if tutor and taught is not None:
                    loss = tutor.spec.labels * loss + taught
                part = len(seen) * fabric.world_size / (batch_size * copies)  # of several processes some see one more
                fabric.backward(loss * part)
                if recipe.clip is not None:
                    fabric.clip_gradients(network, stepper, max_norm=recipe.clip, error_if_nonfinite=False)
                try:
                    stepper.step()
                except SpecError:  # a hook found a weight that is not finite, perhaps in this process alone
                    keeper.refuse_diverged(sums, epoch, recipe.lr, after_step=True, alone=True)
                    raise
                optimizer.zero_grad()
                sums += _sums(logits.detach(), labels, loss.detach(), sums)
                advance(f"epoch {epoch + 1}/{recipe.epochs}")
                if step % max(1, steps // 10) == 0 or step == steps:
                    keeper.refuse_diverged(sums, epoch, recipe.lr)
                    board.scalars(epoch * steps + step, batch_loss=loss, lr=lr)
                if step < steps and keeper.is_due(stop, step):
                    at.step, at.sums, at.seconds = step, _of_all(fabric, sums).tolist(), time.perf_counter() - started
                    keeper.refuse_diverged(sums, epoch, recipe.lr, after_step=True)
                    keeper.keep(at)
                    keeper.leave_if_asked(stop, f"in epoch {epoch + 1}, after step {step} of {steps}")
            trained = time.perf_counter() - started
            if epoch + 1 == recipe.epochs:
                attached.finish(hooks)
            attached.epoch_ended(hooks)
            train_loss, train_accuracy = _means(fabric, sums)
            # The bare model, since a wrapper has every process run as many batches as every other one.
            _share_buffers(fabric, model)
            test_loss, test_accuracy = evaluate(model, data.test, fabric)
            keeper.refuse_diverged(sums, epoch, recipe.lr, test_loss=test_loss, after_step=True)
            row = {
                "epoch": epoch + 1,
                "lr": learning_rate(recipe, (epoch + 1) * steps - 1, recipe.epochs * steps),
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "seconds": time.perf_counter() - started,
                "images_per_second": steps * batch_size * copies / trained,
                **measured(model, hooks),
            }
            at = Progress(run, [*at.history, row])
            board.scalars((epoch + 1) * steps, **{key: value for key, value in row.items() if key != "lr"})
            keeper.keep(at)
            if epoch + 1 < recipe.epochs:
                keeper.leave_if_asked(stop, f"after epoch {epoch + 1} of {recipe.epochs}")
    return at.history


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = param_groups(model, recipe.weight_decay, recipe.lr_scale, recipe.layer_decay)
    if recipe.optimizer == "sgd":
        made: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
    else:
        made = torch.optim.AdamW(groups, lr=recipe.lr, fused=recipe.fused or None)
    check(made, model)
    return made


def evaluate(
    model: nn.Module, split: Split, fabric: "Fabric | None" = None, batch_size: int = 512
) -> tuple[float, float]:
    """Mean loss and accuracy (a fraction) of a classifier on a split, in evaluation mode; its mode is put back.

    Of several processes each takes a part of every batch; one that has none of the last runs an image that counts for
    nothing, since sharded models are run together or not at all.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, device=split.device)
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    rows = [chunk[rank::world] for chunk in torch.arange(len(split)).split(batch_size)]
    with torch.no_grad(), fabric.autocast() if fabric else nullcontext():
        batches = split.batches([chunk if len(chunk) else torch.tensor([0]) for chunk in rows])
        for mine, (images, labels) in zip(rows, batches, strict=True):
            logits = model(split.normalised(images))
            if len(mine):
                sums += _sums(logits, labels, nn.functional.cross_entropy(logits, labels), sums)
    model.train(was_training)
    return _means(fabric, sums)


def rows_of(order: Tensor, batch_size: int, copies: int, rank: int, world: int) -> list[Tensor]:
    """Which images one process sees in each step: every `world`-th of a batch, and all copies of each.

    Args:
        order: Numbers of all images.
        batch_size: Different images of a batch, over all processes.
        copies: How often each comes up in it.
        rank: Number of this process.
        world: Processes.

    Example:
        >>> [rows.tolist() for rows in rows_of(torch.arange(7), 3, 2, rank=0, world=2)]
        [[0, 0, 2, 2], [3, 3, 5, 5], [6, 6]]
    """
    return [chunk[rank::world].repeat_interleave(copies) for chunk in order.split(batch_size)]


def _sums(logits: Tensor, labels: Tensor, loss: Tensor, before: Tensor) -> Tensor:
    """What a batch adds: loss, right answers, images, and whether all losses so far are finite; without a wait."""
    right = (logits.argmax(1) == labels).sum()
    images = torch.tensor(float(len(labels)), device=loss.device)
    return torch.stack([loss.float() * len(labels), right.float(), images, (before[0] + loss).isfinite().float()])


def _digest(data: Data) -> str:
    """Of the labels and the statistics of both parts: other data under the same name is another run."""
    cut = () if data.cut is None else (data.cut,)
    told = hashlib.sha256(repr((data.train.shape, data.train.mean, data.train.std, *cut)).encode())
    for part in (data.train, data.test):
        told.update(part.labels.cpu().numpy().tobytes())
    return told.hexdigest()[:16]


def _share_buffers(fabric: "Fabric", model: nn.Module) -> None:
    """Give every process the first one's running statistics, which are those that are kept."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _of_all(fabric: "Fabric | None", sums: Tensor) -> Tensor:
    """Over all processes: the first three add up, the count of good steps is their mean."""
    if fabric is None or fabric.world_size == 1:
        return sums
    total = torch.as_tensor(fabric.all_reduce(sums.clone(), reduce_op="sum"))
    return total / total.new_tensor([1, 1, 1, fabric.world_size])


def _means(fabric: "Fabric | None", sums: Tensor) -> tuple[float, float]:
    loss, right, images, _ = _of_all(fabric, sums).tolist()
    return loss / images, right / images


def _tutor(model: nn.Module, teacher: nn.Module | None, data: Data, recipe: Recipe, fabric: "Fabric") -> Tutor | None:
    if recipe.distil is None or teacher is None:
        if recipe.distil is not teacher:
            raise TrainingError("recipe.distil and a teacher go together: give fit both, or neither.")
        return None
    return Tutor(recipe.distil, model, teacher.to(fabric.device), data.test[:2][0], fabric.autocast)


def _expect_logits(model: nn.Module, data: Data) -> None:
    was_training = model.training
    model.eval()
    images, _ = data.test[:2]
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:  # whatever a network of the user's raises
        shape = tuple(images.shape)
        raise TrainingError(f"{type(model).__name__} cannot run on images of shape {shape}: {error}") from error
    finally:
        model.train(was_training)
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    needed = (len(images), data.classes)
    if got != needed:
        raise TrainingError(
            f"{type(model).__name__} gives {got} for {len(images)} images, need a tensor {needed}: one logit a class."
        )
