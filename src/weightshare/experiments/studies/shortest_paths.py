"""Learn a search: a network of equal layers marks every pixel on some shortest path, on paths that grow longer.

Three ways to hold the same layers: each a kernel of its own, all of them mixtures of a few templates, and templates
whose layers are driven to be alike. All see the same grids in the same order, in phases of growing distance between the
query points. What is asked: how fast each gets used to a new phase, and what it does at distances that no phase had.

Source: Savarese 2019 (poster), "Extrapolation bias". Differs: its distances, widths, optimizer, rates and numbers are
not in the text that the project has; what `shortest_paths_table` sets there is ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
import json
import math
from pathlib import Path
import time
from typing import Any

from jaxtyping import Bool, Float
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from weightshare.depth.lsm import layer_similarity
from weightshare.depth.regularise import similarity_penalty
from weightshare.depth.templates import Templates
from weightshare.errors import ConfigError, TrainingError
from weightshare.files.atomic import read_json, write_json
from weightshare.files.checkpoint import load, save
from weightshare.models.grid import GridCNN, grid_cnn
from weightshare.optimizer import param_groups
from weightshare.training.data.shortest_paths import Grids, draw_grids, mixed_seed
from weightshare.training.environment import environment
from weightshare.training.keeper import CHECKPOINT
from weightshare.training.snapshot import Progress, generators, read_snapshot, write_snapshot
from weightshare.training.workplace import at_work
from weightshare.verbs import share_

WHERE = "layers.*.conv.weight"
HELD_OUT = 2**40  # first of the numbers that grids to be measured on are drawn from; training's start with its seed
MOMENTS = (0.0, 0.02, 0.1, 0.5)
"""Fractions of a training at which layer similarity matrices are kept, besides its end."""
MODEL, CURVE, DONE = "model.safetensors", "curve.json", "run.json"


@dataclass(frozen=True)
class Row:
    """A network.

    Args:
        templates: How many all layers share; 0 for a kernel each.
        similarity: Strength of what makes the layers' coefficients parallel.
        lr: Highest learning rate. Of 4e-3 and 8e-3 the better one in a trial of 20 layers with 32 channels, which was
            the lower one without templates and the higher one with them.
        grids: How many a phase has, seen again and again in another order; 0 draws new ones for each step.
        width: Channels.
        depth: Layers.
    """

    templates: int = 0
    similarity: float = 0.0
    lr: float = 4e-3
    grids: int = 0
    width: int = 24
    depth: int = 32


@dataclass(frozen=True)
class Task:
    """The grids.

    Args:
        phases: Least and most steps between the query points, phase by phase.
        size: Pixels of a side.
        obstacles: Probability that a pixel is one.
        longest: Distances are measured up to it.
        larger: Side of the larger grids that are only measured on.
        held_out: Grids for each measurement.
    """

    phases: tuple[tuple[int, int], ...] = ((1, 3), (4, 6), (7, 9), (10, 12))
    size: int = 16
    obstacles: float = 0.3
    longest: int = 24
    larger: int = 32
    held_out: int = 256

    def __post_init__(self) -> None:
        if not self.phases or self.held_out < 1 or self.longest < 1:
            raise ConfigError(f"{self}: need a phase, and grids and distances to measure on.")

    def measured_on(self, distance: tuple[int, int], size: int | None = None) -> Grids:
        """Held-out grids: the same for every network and seed."""
        size = self.size if size is None else size
        return draw_grids(self.held_out, size, distance, self.obstacles, (HELD_OUT, size, *distance))


@dataclass(frozen=True)
class Schedule:
    """How a network is trained: AdamW, whose rate falls as a cosine in each phase and starts again in the next.

    Args:
        steps: Of each phase.
        batch: Grids of a step.
        weight_decay: Coefficients, norms and biases have none.
        warmup: Steps in which the rate rises at the very start.
        every: Steps between measurements.
        precision: `bfloat16` for products in it, or `float32`.
    """

    steps: int = 300
    batch: int = 32
    weight_decay: float = 1e-4
    warmup: int = 30
    every: int = 30
    precision: str = "bfloat16"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.every) < 1 or self.precision not in ("bfloat16", "float32"):
            raise ConfigError(f"{self}: need steps, batches and measurements, in bfloat16 or float32.")

    def moments(self, total: int) -> set[int]:
        """Steps of a training of so many at whose measurements the layer similarity matrix is kept, but for the end."""
        return {self.every * round(fraction * total / self.every) for fraction in MOMENTS}

    def rate(self, step: int) -> float:
        """The learning rate of a step, relative to the highest one; down to a twentieth at a phase's end."""
        fallen = 0.5 * (1 - math.cos(math.pi * (step % self.steps) / self.steps))
        return min(1.0, (step + 1) / max(1, self.warmup)) * (1 - 0.95 * fallen)


def built(row: Row, seed: int) -> GridCNN:
    """The network of a row. All rows start from the same stem, norms and head; templates from the first kernels."""
    torch.manual_seed(seed)
    model = grid_cnn(row.width, row.depth)
    if row.templates:
        share_(model, Templates(row.templates), WHERE)
    return model


def scores(marked: Bool[Tensor, "grids h w"], truth: Bool[Tensor, "grids h w"]) -> dict[str, float]:
    """Compare what a network marks with the truth.

    Args:
        marked: Pixels that it holds to be on a path.
        truth: Those that are; some in each grid.

    Returns:
        Means over grids: `accuracy` of pixels; `iou`, pixels in both over pixels in either; `whole`, grids without a
        wrong pixel.

    Example:
        >>> truth = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [1, 1]]]).bool()
        >>> scores(torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 1]]]).bool(), truth)
        {'accuracy': 0.875, 'iou': 0.75, 'whole': 0.5}
    """
    right = (marked == truth).flatten(1).float()
    both, either = (marked & truth).sum((1, 2)), (marked | truth).sum((1, 2))
    return {
        "accuracy": right.mean().item(),
        "iou": (both / either).mean().item(),
        "whole": (right == 1).all(1).float().mean().item(),
    }


@torch.no_grad()
def marks(model: GridCNN, inputs: Float[Tensor, "grids 2 h w"], precision: str) -> Float[Tensor, "grids h w"]:
    """Logits for all pixels, in evaluation mode; the mode is as it was afterwards."""
    training = model.training
    model.eval()
    device = _device_of(model)
    with _autocast(precision, device):
        logits = torch.cat([model(_laid(part, device)).float().cpu() for part in inputs.split(128)])
    model.train(training)
    return logits


def measured(model: GridCNN, grids: Grids, precision: str) -> dict[str, float]:
    """The scores of a network on grids."""
    return scores(marks(model, grids.inputs, precision) > 0, grids.on_path)


def batch_of(row: Row, task: Task, schedule: Schedule, seed: int, step: int) -> Grids:
    """The grids of a step, which depend on the seed and the step alone.

    Raises:
        ConfigError: If a phase has fewer grids than a batch.
    """
    phase, at = divmod(step, schedule.steps)
    distance = task.phases[phase]
    if not row.grids:
        return draw_grids(schedule.batch, task.size, distance, task.obstacles, (seed, step))
    if row.grids < schedule.batch:
        raise ConfigError(f"{row.grids} grids in a phase, {schedule.batch} in a batch: need no fewer.")
    epoch, batch = divmod(at, row.grids // schedule.batch)
    order = torch.randperm(row.grids, generator=torch.Generator().manual_seed(mixed_seed(seed, phase, epoch)))
    chosen = order[batch * schedule.batch : (batch + 1) * schedule.batch]
    return Grids(*(part[chosen] for part in _of_phase(row.grids, task.size, distance, task.obstacles, seed, phase)))


@lru_cache(maxsize=1)
def _of_phase(grids: int, size: int, distance: tuple[int, int], obstacles: float, seed: int, phase: int) -> Grids:
    """All grids of a phase that has a number of them."""
    return draw_grids(grids, size, distance, obstacles, (seed, -1 - phase))


def train(
    name: str,
    seed: int,
    out: str | Path,
    task: Task,
    schedule: Schedule,
    rows: Mapping[str, Row],
    device: str = "cpu",
) -> Any:
    """Train a network through all phases; go on where an earlier call was stopped, to the same weights.

    Args:
        name: One of `rows`.
        seed: Of the start and of the grids.
        out: Folder of runs.
        task: The grids.
        schedule: The steps.
        rows: The networks.
        device: Where it trains.

    Returns:
        What `run.json` of the run holds: `curve`, measurements with `step`, `phase` and the scores on held-out grids of
        that phase, of networks with templates also `likeness`, the mean of the layer similarity matrix, and at the
        `moments` of the schedule and the end the `matrix` itself; `distances` and `larger`, scores for each distance on
        grids of the trained size and of the larger one; `likeness`, the last matrix, or `None`; `stored`, `seconds`,
        `environment`.

    Raises:
        ConfigError: If there is no such row.
        TrainingError: If another process is at work there, the folder holds another run, or the loss is not finite.
    """
    if name not in rows:
        raise ConfigError(f"There is no row {name!r}: need one of {', '.join(rows)}.")
    folder, row = Path(out) / f"{name}-seed{seed}", rows[name]
    # Through JSON, as the files have it: tuples are lists there.
    config = json.loads(
        json.dumps({"row": asdict(row), "task": asdict(task), "schedule": asdict(schedule), "seed": seed})
    )
    with at_work(folder):
        if (folder / DONE).is_file():
            held = read_json(folder / DONE)
            if held["config"] != config:
                raise TrainingError(
                    f"'{folder}' holds a run of {held['config']}, need {config}. Choose another folder."
                )
            return held
        model = built(row, seed).to(device)
        curve, seconds = _through_phases(model, row, seed, folder, task, schedule, config)
        measured_there = _at_distances(model, task, schedule.precision)
        save(model.cpu(), folder / MODEL)
        made = {
            "config": config,
            "curve": curve,
            **measured_there,
            "likeness": _likeness(model) if row.templates else None,
            "stored": sum(parameter.numel() for parameter in model.parameters()),
            "seconds": round(seconds, 1),
            "environment": environment(),
        }
        write_json(folder / DONE, made)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return made


def trained_model(name: str, seed: int, out: str | Path, rows: Mapping[str, Row]) -> GridCNN:
    """The network of a run that is done.

    Raises:
        FileError: If there is none.
    """
    model = grid_cnn(rows[name].width, rows[name].depth)
    load(Path(out) / f"{name}-seed{seed}" / MODEL, model)
    return model


def _through_phases(
    model: GridCNN, row: Row, seed: int, folder: Path, task: Task, schedule: Schedule, config: dict[str, Any]
) -> tuple[list[dict[str, Any]], float]:
    """All steps that are left; the curve and the seconds of all."""
    optimizer = torch.optim.AdamW(param_groups(model, schedule.weight_decay, lr=row.lr), lr=row.lr, fused=True)
    total = len(task.phases) * schedule.steps
    run = {**config, "steps": total + 1, "recipe": {"epochs": 1}}  # to a snapshot all phases are one epoch
    at, curve = Progress(run), []
    if (folder / CHECKPOINT).exists():
        at = read_snapshot(folder / CHECKPOINT, model, optimizer, run)
        # What was measured before this step; at a phase's end that is one measurement of two.
        here = (at.step, at.step // schedule.steps)
        curve = [one for one in read_json(folder / CURVE) if (one["step"], one["phase"]) < here]
    held_out = [task.measured_on(distance) for distance in task.phases]
    moments, device = schedule.moments(total), _device_of(model)
    begun = time.perf_counter() - at.seconds
    for step in range(at.step, total):
        phase = step // schedule.steps
        if step % schedule.every == 0 or step % schedule.steps == 0:
            curve.append(_point(model, row, step, phase, held_out[phase], schedule, step in moments))
            at.step, at.seconds = step, time.perf_counter() - begun
            write_json(folder / CURVE, curve)
            write_snapshot(folder / CHECKPOINT, model, optimizer, at, [generators()])
        grids = batch_of(row, task, schedule, seed, step)
        with _autocast(schedule.precision, device):
            logits = model(_laid(grids.inputs, device))
        loss = binary_cross_entropy_with_logits(logits.float(), grids.on_path.to(device).float())
        if not math.isfinite(loss.item()):
            raise TrainingError(f"The loss is {loss.item()} at step {step}: it diverged. Lower the rate, now {row.lr}.")
        if row.similarity:
            loss = loss + row.similarity * similarity_penalty(model)
        for group in optimizer.param_groups:
            group["lr"] = row.lr * schedule.rate(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % schedule.steps == 0:
            curve.append(_point(model, row, step + 1, phase, held_out[phase], schedule, step + 1 == total))
    return curve, time.perf_counter() - begun


def _point(
    model: GridCNN, row: Row, step: int, phase: int, grids: Grids, schedule: Schedule, whole: bool
) -> dict[str, Any]:
    """A measurement; at the end of a phase there are two of one step, on its grids and on the next one's."""
    found: dict[str, Any] = {"step": step, "phase": phase, **measured(model, grids, schedule.precision)}
    if row.templates:
        with torch.no_grad():
            found["likeness"] = 1 - similarity_penalty(model).item()  # the mean over pairs of layers
        if whole:
            found["matrix"] = _likeness(model)
    return found


def _at_distances(model: GridCNN, task: Task, precision: str) -> dict[str, list[dict[str, float]]]:
    """Scores at single distances, on grids of the trained size and on larger ones; these at every second distance."""

    def at(size: int, distances: Sequence[int]) -> Iterator[dict[str, float]]:
        for distance in distances:
            yield {"distance": distance, **measured(model, task.measured_on((distance, distance), size), precision)}

    return {
        "distances": list(at(task.size, range(1, task.longest + 1))),
        "larger": list(at(task.larger, range(2, task.longest + 1, 2))),
    }


def _likeness(model: GridCNN) -> list[list[float]]:
    (found,) = layer_similarity(model).values()
    return [[round(value, 4) for value in line] for line in found.values.tolist()]


def _laid(inputs: Tensor, device: torch.device) -> Tensor:
    """With channels last in memory, which convolutions on a CPU run faster on."""
    return inputs.to(device).contiguous(memory_format=torch.channels_last)


def _device_of(model: GridCNN) -> torch.device:
    return model.head.weight.device


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
