"""Training state in one file: model, optimizer, random generators and progress, written whole or not at all.

Everything that a file says is looked at before anything is changed: a file that does not fit leaves model, optimizer
and generators as they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
import hashlib
from inspect import signature
from itertools import product
import math
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import FileError, SpecError, TrainingError
from weightshare.files import archive
from weightshare.files.checkpoint import owners
from weightshare.hooks import Handle
from weightshare.surgery.shards import is_spread, keep_part_, placed_like, whole
from weightshare.training.recipe import Recipe, RunConfig
from weightshare.training.regularise import Regularise
from weightshare.training.share import Share

KIND = "training"
ROW = ("epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "images_per_second")
SHARED = ("distinct_share", "zero_share", "penalty")  # of a run with regularisers
NOISE = ("noise_within_modules", "noise_over_positions")  # of a run with local layers
SIMILARITY = ("layer_similarity",)  # of a run with templates

PROCESSES = "processes"
OF_PROCESSES = ("devices", "strategy")
"""Of a configuration: over how many processes a run is spread, and how. It may go on over others."""


@dataclass
class Progress:
    """How far a run is.

    Args:
        run: What a resumed run has to agree in.
        history: One row for each epoch that is done.
        step: Steps done in the epoch after those.
        sums: Over these steps: loss, right answers, images, and steps before the first loss that is not finite.
        seconds: These steps took.
        scaler: State of the gradient scaler of mixed precision, where there is one.
        hooks: States of what is attached to the optimizer, in order.
    """

    run: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    seconds: float = 0.0
    scaler: dict[str, Any] | None = None
    hooks: list[dict[str, Any]] = field(default_factory=list)


def write_snapshot(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    generators: Sequence[Mapping[str, Tensor]],
    writes: bool = True,
) -> None:
    """Write the state of a training run in one step.

    What is spread over processes is gathered, so that the file is the same for any number of them; all call this then.

    Args:
        path: The file; the one before is replaced once this one is whole.
        model: Its parameters and buffers are written, each tensor once.
        optimizer: Its state and groups.
        progress: How far the run is; JSON-able.
        generators: For each process the states of its random generators, by device; see `generators`.
        writes: Whether this process is the one that writes; the others give their parts.

    Raises:
        FileError: If the disk refuses; the file before is then unchanged.
    """
    owned, aliases = owners(model)
    state = optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in owned.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    tensors = _whole(tensors, writes)
    if not writes:
        return
    for rank, of_rank in enumerate(generators):
        tensors |= {f"rng.{rank}.{device}": value for device, value in of_rank.items()}
    content = {"kind": KIND, "groups": state["param_groups"], "numbers": numbers, "progress": asdict(progress)}
    archive.write(path, tensors, {f"model.{name}": f"model.{owner}" for name, owner in aliases.items()}, content)


def _whole(tensors: dict[str, Tensor], kept: bool) -> dict[str, Tensor]:
    """All of each tensor, for the process that keeps them; one by one, since together they may not fit."""
    gathered = {}
    for name, tensor in tensors.items():
        all_of_it = whole(tensor)
        if kept:
            gathered[name] = all_of_it.cpu()
    return gathered


def read_snapshot(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: Mapping[str, Any],
    rank: int = 0,
    scaler: torch.amp.GradScaler | None = None,
    hooks: Sequence[Handle] = (),
) -> Progress:
    """Put a model, an optimizer and this process's random generators where a run was.

    Args:
        path: A file of `write_snapshot`.
        model: Shared as it was when the file was written.
        optimizer: Made for that model.
        run: What `Progress.run` has to be; needs `steps`, those of one epoch.
        rank: Number of this process.
        scaler: Of mixed precision; it is put where it was, too.
        hooks: What is attached to the optimizer, likewise.

    Returns:
        How far the run was.

    Raises:
        TrainingError: If the file belongs to another run; what differs is named.
        FileError: If the file is damaged, or the model or the optimizer is not the one that it was written for. In
            both cases nothing is changed.
    """
    held = archive.read(path, KIND)
    own = [hook.state_dict() for hook in hooks]
    try:
        progress = _progress(held.content["progress"], run)
        values = _model_values(held, model)
        state = _optimizer_state(held, optimizer)
        if scaler is not None:
            progress.scaler = _like("the gradient scaler", progress.scaler, scaler.state_dict())
        _set_hooks(hooks, progress.hooks, progress, run)
        try:
            _set_generators(held, rank)
        except FileError:
            for hook, state in zip(hooks, own, strict=True):
                hook.load_state_dict(state)
            raise
    except TrainingError as error:
        raise TrainingError(f"'{path}' {error} Choose another folder, or delete it.") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        said = str(error) if isinstance(error, FileError) else f"it is damaged ({type(error).__name__}: {error})."
        raise FileError(f"'{path}' cannot be resumed from: {said}") from error
    optimizer.load_state_dict(state)
    if scaler is not None and progress.scaler is not None:
        scaler.load_state_dict(progress.scaler)
    with torch.no_grad():
        for tensor, value in values:
            if is_spread(tensor):
                keep_part_(tensor, value)
            else:
                tensor.copy_(value)
    return progress


def generators() -> dict[str, Tensor]:
    """The states of torch's random generators in this process, by device."""
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _set_hooks(hooks: Sequence[Handle], states: object, progress: Progress, run: Mapping[str, Any]) -> None:
    """Set them all or none; none can have seen more steps than were made."""
    if not isinstance(states, list) or len(states) != len(hooks) or not all(isinstance(one, dict) for one in states):
        raise FileError(f"it does not hold the state of {len(hooks)} hooks on the optimizer.")
    own = [hook.state_dict() for hook in hooks]
    most = len(progress.history) * run["steps"] + progress.step
    try:
        for hook, state in zip(hooks, states, strict=True):
            hook.load_state_dict(state)
            if hook.steps > most:
                raise SpecError(f"A hook has seen {hook.steps} steps of {most}.")
    except SpecError as error:
        for hook, state in zip(hooks, own, strict=True):
            hook.load_state_dict(state)
        raise FileError(str(error)) from error


def _set_generators(held: archive.Archive, rank: int) -> None:
    """Set them; torch refuses a state that is none before it changes anything.

    A process that the run did not have before draws from a seed of its own, which follows from the first one's state.
    """
    for device, own in generators().items():
        value, first = (held.tensors.get(f"rng.{number}.{device}") for number in (rank, 0))
        if first is None and device != "cpu":
            continue  # the run was on another device so far
        if value is None and rank and first is not None:
            seed = hashlib.sha256(first.numpy().tobytes() + rank.to_bytes(8, "little")).digest()
            value = torch.Generator(device).manual_seed(int.from_bytes(seed[:8], "little")).get_state()
        if value is None or (value.shape, value.dtype) != (own.shape, own.dtype):
            raise FileError(f"it holds no state of the {device} random generator of process {rank}.")
        if device == "cpu":
            torch.set_rng_state(value)
        else:
            torch.cuda.set_rng_state(value)


def _progress(entry: dict[str, Any], run: Mapping[str, Any]) -> Progress:
    keys = {known.name for known in fields(Progress)}
    entry = {"hooks": []} | entry  # which came later
    if set(entry) != keys or not isinstance(entry["history"], list):
        raise FileError(f"it does not say how far the run was: need {', '.join(sorted(keys))}.")
    progress = Progress(**entry)
    decisive = _decisive(run)
    differs = differences(_completed(_decisive(progress.run), decisive), decisive)
    if differs:
        raise TrainingError(f"belongs to another run: {', '.join(differs)}.")
    for row in progress.history:
        more = product(((), SHARED), ((), NOISE), ((), SIMILARITY))
        known = [{*ROW, *shared, *noise, *alike} for shared, noise, alike in more]
        if set(row) not in known or not all(_finite(value) for value in row.values()):
            raise FileError(f"a row of its history is {short(row)}, need numbers for {', '.join(ROW)}.")
    counts = [row["epoch"] for row in progress.history]
    whole = type(progress.step) is int and 0 <= progress.step < run["steps"]
    in_order = counts == list(range(1, len(counts) + 1)) and len(counts) <= run["recipe"]["epochs"]
    summed = len(progress.sums) == 4 and all(_finite(value) for value in progress.sums) and _finite(progress.seconds)
    if not (whole and in_order and summed):
        raise FileError("it does not say how far the run was.")
    return progress


def _decisive(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a run cannot go on with another value of: the batches are the same, whoever takes which part of them."""
    config = {key: value for key, value in run.get("config", {}).items() if key not in OF_PROCESSES}
    return {key: value for key, value in run.items() if key != PROCESSES} | ({"config": config} if config else {})


def _completed(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its run, with the defaults of what configurations could not say yet when it was written."""
    regularise, share = [asdict(Regularise(strength=1.0))], [asdict(Share())]  # of a list one entry stands for all
    defaults = {
        "recipe": asdict(Recipe()) | {"regularise": regularise},
        "config": asdict(RunConfig(model="")) | {"share": share},
    }

    def filled(one: Any, other: Any, default: Any) -> Any:
        if all(isinstance(part, list) and part for part in (one, other, default)) and len(one) == len(other):
            return [filled(*pair, default[0]) for pair in zip(one, other, strict=True)]
        if not all(isinstance(part, dict) for part in (one, other, default)):
            return one
        later = {key: default[key] for key in other if key in default and key not in one}
        return later | {key: filled(value, other.get(key), default.get(key)) for key, value in one.items()}

    return {key: filled(value, here.get(key), defaults.get(key)) for key, value in there.items()}


def differences(there: Mapping[str, Any], here: Mapping[str, Any], at: str = "") -> list[str]:
    """What two descriptions of a run say differently, by name."""
    differs = []
    for key in sorted({**there, **here}):
        one, other = there.get(key), here.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            differs += differences(one, other, f"{at}{key}.")
        elif one != other:
            differs.append(f"{at}{key} is {one!r} there and {other!r} here")
    return differs


def _model_values(held: archive.Archive, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    owned, aliases = owners(model)
    if {f"model.{name}": f"model.{owner}" for name, owner in aliases.items()} != held.aliases:
        raise FileError("it was written for a model that shares otherwise. Apply the same plan before resuming.")
    values = []
    for name, tensor in owned.items():
        value = held.tensors.get(f"model.{name}")
        if value is None or (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
            got = "missing" if value is None else f"{tuple(value.shape)} {value.dtype}"
            raise FileError(f"'{name}' is {got}, the model has {tuple(tensor.shape)} {tensor.dtype}.")
        values.append((tensor, value))
    return values


def _optimizer_state(held: archive.Archive, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What `load_state_dict` may be given: every key, kind and shape is one that this optimizer has itself."""
    mine: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    groups = held.content["groups"]
    if len(groups) != len(mine):
        raise FileError(f"it was written for another optimizer, of {len(groups)} groups instead of {len(mine)}.")
    loaded = [_like(f"group {number}", *pair) for number, pair in enumerate(zip(groups, mine, strict=True))]
    if [group["params"] for group in loaded] != [group["params"] for group in mine]:
        raise FileError("it was written for another optimizer, whose groups hold other parameters.")
    parameters = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    keys = _state_of_a_number(optimizer)
    state: dict[int, dict[str, Any]] = {}
    for name, value in held.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            shapes = (parameters[int(index)].shape, torch.Size())
            real = value.is_floating_point() or (value.is_complex() and parameters[int(index)].is_complex())
            if int(index) < 0 or value.shape not in shapes or not real:
                raise FileError(f"'{name}' is {tuple(value.shape)} {value.dtype}, which this optimizer does not hold.")
            state.setdefault(int(index), {})[key] = _laid(value, parameters[int(index)]) if value.dim() else value
    for index, entries in held.content["numbers"].items():
        state.setdefault(int(index), {}).update(entries)
    for index, entries in state.items():
        if not 0 <= index < len(parameters) or set(entries) != keys:
            raise FileError(f"the optimizer's state of parameter {index} has {sorted(entries)}, need {sorted(keys)}.")
    return {"state": state, "param_groups": loaded}


def _laid(value: Tensor, parameter: Tensor) -> Tensor:
    """As the parameter lies in memory (channels last, say), which fused optimizers go through, and over processes."""
    if is_spread(parameter):
        return placed_like(parameter, value)
    return torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value)


def _like(name: str, value: Any, own: Any) -> Any:
    """A value as the optimizer or the scaler has it itself: the same keys and kinds; JSON knows no tuples."""
    if isinstance(own, dict):
        if not isinstance(value, dict) or set(value) != set(own):
            raise FileError(f"{name} is {short(value)}, need the keys {', '.join(own)}.")
        return {key: _like(f"{key} of {name}", value[key], own[key]) for key in own}
    if isinstance(own, list | tuple):
        if not isinstance(value, list) or len(value) != len(own):
            raise FileError(f"{name} is {short(value)}, need {len(own)} values.")
        return type(own)(_like(name, one, other) for one, other in zip(value, own, strict=True))
    if isinstance(own, bool | str | None):
        if type(value) is not type(own) or value != own:
            raise FileError(f"{name} is {short(value)}, here it is {own!r}.")
        return own
    if not _finite(value):
        raise FileError(f"{name} is {short(value)}, need a finite number.")
    return type(own)(value)


def _state_of_a_number(optimizer: torch.optim.Optimizer) -> set[str]:
    """The keys that this kind of optimizer keeps for a parameter that it has stepped: a twin steps a zero to say so."""
    zero = nn.Parameter(torch.zeros(1))
    zero.grad = torch.zeros(1)
    taken = signature(type(optimizer)).parameters  # `defaults` holds what subclasses of AdamW's kind set, too
    twin = type(optimizer)([zero], **{key: value for key, value in optimizer.defaults.items() if key in taken})
    twin.step()
    return set(twin.state[zero])


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
