"""A run: one configuration becomes one directory that says all about itself.

config.yaml             the configuration, defaults included
environment.json        seeds, versions, hardware, commit
plan.json               what was shared (absent for a plain network)
metrics.jsonl           one line for each epoch
similarity.safetensors  coefficients of layers that mix templates, as they changed (absent where none do)
checkpoint.safetensors  state of the training, to resume from
model.safetensors       the trained model with its plans, for `weightshare.load`
folded.safetensors      the folded plain model
folded.md               its model card
tensorboard/            scalars and pictures, if asked for
summary.json            counts, accuracy, sizes, seconds
report.html             the page to look at
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
import json
import math
import os
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from weightshare.analysis.page import run_page
from weightshare.analysis.report import report
from weightshare.errors import ConfigError, FileError, TrainingError
from weightshare.files.atomic import read_json, write_json, write_text
from weightshare.files.checkpoint import load, owners, save
from weightshare.files.evolution import load_evolution
from weightshare.files.opening import parse_json, read_text
from weightshare.models.by_name import build
from weightshare.planning import Plan, applied_plans
from weightshare.surgery.shards import whole
from weightshare.training.data import Data, load_data
from weightshare.training.environment import environment, peak_memory
from weightshare.training.folded import save_folded
from weightshare.training.keeper import CHECKPOINT, EVOLUTION, METRICS
from weightshare.training.launch import launched, together
from weightshare.training.loop import History, evaluate, fit
from weightshare.training.recipe import RunConfig, read_yaml, strict
from weightshare.training.snapshot import OF_PROCESSES, differences
from weightshare.training.workplace import at_work
from weightshare.verbs import fold, plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CONFIG, SUMMARY, PLANS, ENVIRONMENT = "config.yaml", "summary.json", "plan.json", "environment.json"
MODEL, FOLDED, PAGE = "model.safetensors", "folded.safetensors", "report.html"

ANYWHERE = {"out", "data_dir", "checkpoint_minutes", "timeout_minutes", "tensorboard", *OF_PROCESSES}
"""What may differ when a run goes on: folders may be moved, another number of processes may take the same batches, and
the rest does not touch what is computed."""


def _silent(text: str) -> None:
    """Nobody listens."""


def run(
    config: RunConfig,
    echo: Callable[[str], None] = _silent,
    label: str = "training",
    on_epoch: Callable[[History], bool] | None = None,
) -> dict[str, Any]:
    """Build, share, train, fold, save and report, as a configuration says; a run that was stopped goes on.

    Args:
        config: What to do.
        echo: Gets the plans and the report as text.
        label: What the progress bar says.
        on_epoch: May end the training between two epochs; see `fit`. The summary then says `stopped_early`.

    Returns:
        What `summary.json` holds. A run that is finished already is read, not repeated.

    Raises:
        SharingError: If anything in the configuration does not fit, or the directory holds another run.
    """
    folder = Path(config.out)
    done = finished(folder, config)
    if done is not None:
        echo(f"'{folder}' is finished already: nothing to do.")
        return done
    with at_work(folder):
        try:
            return _work(config, echo, label, on_epoch)
        finally:
            if torch.distributed.is_initialized():  # else its threads outlive the interpreter, which aborts
                torch.distributed.destroy_process_group()


def _work(
    config: RunConfig, echo: Callable[[str], None], label: str, on_epoch: Callable[[History], bool] | None
) -> dict[str, Any]:
    folder = Path(config.out)
    fabric = launched(config)
    hint = f"Go on with: weightshare train --out {folder}, or let torchrun --max-restarts do so."
    with together(fabric, hint):
        return _together(config, fabric, echo, label, on_epoch)


def _together(
    config: RunConfig,
    fabric: "Fabric",
    echo: Callable[[str], None],
    label: str,
    on_epoch: Callable[[History], bool] | None,
) -> dict[str, Any]:
    folder = Path(config.out)
    if not fabric.is_global_zero:
        echo = _silent
    data = _data(config)
    model, plans = prepared(config, data, echo)
    for made in plans:
        echo(f"{made}\n")
    if fabric.is_global_zero:
        write_text(folder / CONFIG, config.to_yaml())
        write_json(folder / ENVIRONMENT, {"seed": config.seed, **environment()})
        if plans:
            write_json(folder / PLANS, [json.loads(made.to_json()) for made in plans])
    fabric.barrier()
    before = time.perf_counter()
    minutes, board = config.checkpoint_minutes, config.tensorboard
    identity = {"config": {key: value for key, value in _decisive(config).items() if key not in ("train", "seed")}}
    teacher = _teacher(config, data)
    twin = deepcopy(model) if config.strategy == "fsdp2" else None
    history = fit(
        *(model, data, config.train, config.seed, folder, fabric, label, minutes, board, identity, teacher, on_epoch)
    )
    seconds = time.perf_counter() - before
    model = model.cpu() if twin is None else _gathered(model, twin)
    summary = _finish(config, model, data, plans, history, seconds, echo) if fabric.is_global_zero else {}
    if torch.distributed.is_initialized():
        fabric.barrier()  # nobody leaves before the first process has written everything
    return summary


def _gathered(model: nn.Module, twin: nn.Module) -> nn.Module:
    """The numbers of a sharded model in one from before it was sharded; every process calls it."""
    with torch.no_grad():
        for held, tensor in zip(owners(twin)[0].values(), owners(model)[0].values(), strict=True):
            held.copy_(whole(tensor))
    return twin


def _finish(
    config: RunConfig,
    model: nn.Module,
    data: Data,
    plans: list[Plan],
    history: list[dict[str, float]],
    seconds: float,
    echo: Callable[[str], None],
) -> dict[str, Any]:
    """Fold, measure, save and report a trained model."""
    folder = Path(config.out)
    small = fold(model, tolerance=math.inf)  # of local layers the mean kernels; the difference is told
    difference, accuracy = output_difference(model, small, data), evaluate(small, data.test)[1]
    numbers = report(model, data.example)
    summary = {
        "config": asdict(config),
        "epochs": len(history),
        "stopped_early": len(history) < config.train.epochs,
        "model": numbers.model,
        "stored_before": plans[0].stored_before if plans else numbers.stored,
        "stored": numbers.stored,
        "logical": numbers.logical,
        "distinct": numbers.distinct,
        "parameter_bytes": numbers.bytes,
        "buffer_bytes": numbers.buffer_bytes,
        "macs": numbers.macs,
        "accuracy": history[-1]["test_accuracy"],
        "loss": history[-1]["test_loss"],
        "folded_accuracy": accuracy,
        "folded_output_difference": difference,
        "model_file_bytes": save(model, folder / MODEL),
        "folded_file_bytes": save_folded(small, folder / FOLDED, config, data, plans, accuracy, difference),
        "images_per_second": sum(row["images_per_second"] for row in history) / len(history),
        "training_seconds": sum(row["seconds"] for row in history),
        "wall_seconds_of_last_session": seconds,
        "peak_memory_bytes": peak_memory(),
    }
    write_page(folder, plans, history, summary)
    write_json(folder / SUMMARY, summary)  # last: its presence says that the run is finished
    echo(str(numbers))
    return summary


LOOKED_AT = 256
"""Training images that a fusion which reads activations is shown."""


def prepared(config: RunConfig, data: Data, echo: Callable[[str], None] = _silent) -> tuple[nn.Module, list[Plan]]:
    """The model of a configuration, on the CPU: built from its seed, started from `init`, made local, and shared.

    `echo` gets what became local, as text.

    Raises:
        SharingError: If the model, the file or a pattern does not fit.
    """
    torch.manual_seed(config.seed)
    model = _built(config, data)
    plans = [made for _, made in applied_plans(model)]  # of a network that is built shared
    if config.init is not None:
        load(config.init, model)
    for entry in config.localise:
        if config.init is not None and entry.start == "draw":
            raise ConfigError(
                f"localise draws kernels anew, so nothing would be left of the convolutions in '{config.init}': set "
                "start: copy, or take init away."
            )
        echo(f"{entry.apply_(model, data.example)}\n")
    for share in (*config.share, *config.codebook):
        made = plan(model, share.spec, share.where)
        made.apply_(model, some_images(data) if share.spec.reads_batches else None)
        plans.append(made)
    return model, plans


def some_images(data: Data) -> list[Tensor]:
    """A few batches of training images, from all over the set, for a fusion that reads activations."""
    rows = torch.linspace(0, len(data.train) - 1, min(LOOKED_AT, len(data.train))).long()
    return [data.train.normalised(images) for images, _ in data.train.batches(rows.split(64))]


def read_config(folder: str | Path) -> RunConfig:
    """The configuration of a run directory.

    Raises:
        ConfigError: If the folder is no run directory, or its configuration was edited into something else.
    """
    path = Path(folder) / CONFIG
    if not os.path.isfile(path):  # which is false, too, of a name that no file can have
        raise ConfigError(
            f"'{folder}' is no run directory: it has no {CONFIG}. Make one with: weightshare train --out ..."
        )
    return strict(RunConfig, read_yaml(path))


def finished(folder: str | Path, config: RunConfig) -> dict[str, Any] | None:
    """What `summary.json` holds of a finished run of this very configuration, or `None` if there is none yet.

    Raises:
        TrainingError: If the directory holds another run.
        SharingError: If its files are damaged.
    """
    folder = Path(folder)
    if any(os.path.exists(folder / name) for name in (CHECKPOINT, MODEL, SUMMARY)):
        differs = differences(_decisive(read_config(folder)), _decisive(config))
        if differs:
            raise TrainingError(f"'{folder}' holds another run: {', '.join(differs)}. Choose another, or delete it.")
    if not (folder / SUMMARY).is_file() or not (folder / MODEL).is_file():
        return None
    summary = read_json(folder / SUMMARY)
    if not isinstance(summary, dict) or not summary.keys() >= {"accuracy", "stored", "stored_before", "config"}:
        raise FileError(f"'{folder / SUMMARY}' is damaged. Delete it, and train again: what is done is not repeated.")
    return summary


def trained(folder: str | Path) -> tuple[nn.Module, Data]:
    """The trained model of a finished run, shared as it was, and its data.

    Raises:
        SharingError: If the folder is no run directory, the run is not finished or its files are damaged.
    """
    config = read_config(folder)
    if not os.path.isfile(Path(folder) / MODEL):
        raise TrainingError(f"The run '{folder}' is not finished. Go on with: weightshare train --out {folder}")
    data = _data(config)
    torch.manual_seed(config.seed)
    model = _built(config, data)
    for entry in config.localise:
        entry.apply_(model, data.example)
    return load(Path(folder) / MODEL, model), data


def rewrite_page(folder: str | Path) -> Path:
    """Make the page of a finished run again from its files.

    Raises:
        SharingError: If the run is not finished.
    """
    folder = Path(folder)
    config = read_config(folder)
    summary = finished(folder, config)
    if summary is None:
        raise TrainingError(f"The run '{folder}' is not finished: there is nothing to report yet.")
    model, _ = trained(folder)  # its plans are under the file's checksum
    return write_page(folder, [plan for _, plan in applied_plans(model)], read_history(folder), summary)


def read_history(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a run's `metrics.jsonl`, as `fit` returned them.

    Raises:
        FileError: If the file is missing or damaged.
    """
    path = Path(folder) / METRICS
    text = read_text(path)
    try:
        rows = [parse_json(line) for line in text.splitlines()]
    except ValueError as error:
        raise FileError(f"Cannot read '{path}': {error}. It is damaged.") from error
    if not rows or not all(isinstance(row, dict) and "test_accuracy" in row for row in rows):
        raise FileError(f"'{path}' is damaged: need one object with test_accuracy for each epoch.")
    return rows


def write_page(folder: Path, plans: list[Plan], history: list[dict[str, float]], summary: dict[str, Any]) -> Path:
    """Write `report.html` of a run."""
    details = read_json(folder / ENVIRONMENT)
    if not isinstance(details, dict) or not details.keys() >= {"gpu", "cores"}:
        raise FileError(f"'{folder / ENVIRONMENT}' is damaged: it names no machine.")
    config_text = read_text(folder / CONFIG)
    evolution = load_evolution(folder / EVOLUTION) if "layer_similarity" in history[-1] else None
    write_text(folder / PAGE, run_page(folder.name, plans, history, summary, details, config_text, evolution))
    return folder / PAGE


def output_difference(model: nn.Module, folded: nn.Module, data: Data) -> float:
    """Largest absolute difference of the two models' outputs on the test images."""
    model.eval()
    folded.eval()
    with torch.no_grad():
        images, _ = data.test[:512]
        return (model(images) - folded(images)).abs().max().item()


def _data(config: RunConfig) -> Data:
    return config.prepare(load_data(config.data, config.data_dir, config.image_size))


def _built(config: RunConfig, data: Data) -> nn.Module:
    given = {"in_channels": data.channels, "classes": data.classes, "size": data.size}
    return build(config.model, **given | config.model_args)


def _teacher(config: RunConfig, data: Data) -> nn.Module | None:
    """The network that the configuration's file was saved from: built anew, so that nothing of it is shared yet."""
    if config.train.distil is None:
        return None
    path = config.train.distil.teacher
    try:
        return load(path, _built(config, data))
    except FileError as error:
        raise FileError(
            f"train.distil.teacher: {error} Need a file that weightshare.save wrote of {config.model}, such as a run's "
            f"{MODEL}."
        ) from error


def _decisive(config: RunConfig) -> dict[str, Any]:
    """What a run cannot go on with another value of."""
    return {key: value for key, value in asdict(config).items() if key not in ANYWHERE}
