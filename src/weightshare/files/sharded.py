"""Checkpoints of training that runs in several processes: each writes its part, any number of them reads it.

    save_sharded("run/step-000100", model, optimizer, extra={"step": 100})     # every process calls it
    extra = load_sharded("run/step-000100", model, optimizer)                  # 1, 2 or 3 processes; sharded or whole

A folder holds the safetensors files of `torch.distributed.checkpoint`, one for each process, and `state.json`: names,
shapes, ties, the optimizer's settings, a checksum of every file, and whatever the caller adds. There is no pickle in
it. Each tensor is stored once, under the name of its owner; the optimizer's state is stored by the parameter's name, so
that it does not depend on the order of groups. A folder is new, and gets its name when it is whole: a process that is
killed leaves a hidden folder behind, and never half a checkpoint.

These folders are for going on with a run, on a disk that all processes see. What is to be kept or given away is a file
of `weightshare.save`, made from `unsharded_copy(model)`.
"""

from collections.abc import Callable, Mapping
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any
import warnings

import torch
from torch import Tensor, nn
import torch.distributed as dist

from weightshare.errors import FileError, OptimizerMismatch, SharingError, SpecError
from weightshare.files.atomic import read_json, write_json
from weightshare.files.checkpoint import owners
from weightshare.files.recipes import dtype_name
from weightshare.hooks import innermost
from weightshare.surgery.shards import is_spread, settle_
from weightshare.surgery.sites import unwrapped
from weightshare.verbs import refuse_untied

FORMAT, STATE = "weightshare.sharded/1", "state.json"


def save_sharded(
    folder: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model and its optimizer to a new folder, each process its part. Every process has to call it.

    Args:
        folder: Its name, on a disk that all processes see; there must be nothing yet. Folders above it are made.
        model: After `shard_`, or inside DistributedDataParallel, or as it is: in one process no group is needed.
        optimizer: Of torch, or a wrapper that holds one as `.optimizer`; made from the model as it is now.
        extra: What else a resumed run needs, such as the step and the states of handles: values that JSON can hold.
            That of the first process is kept. Buffers, too, are those of the first process.

    Raises:
        FileError: If there is something at `folder`, `extra` is no JSON, or the disk refuses; then nothing is left.
        OptimizerMismatch: If the optimizer holds what is no parameter of the model.
        SpecError: If it keeps what is neither a number nor a tensor that can be stored; or torch is older than 2.9.
        ModelChanged: If ties have come undone; call `retie_` first.
    """
    writer_of, _ = _storage()
    model = unwrapped(model)
    settle_(model)
    refuse_untied(model)
    owned, aliases = owners(model)
    tensors = {f"model.{name}": tensor.detach() for name, tensor in owned.items()}
    content: dict[str, Any] = {
        "format": FORMAT,
        "aliases": aliases,
        "model": {name: [list(tensor.shape), dtype_name(tensor)] for name, tensor in owned.items()},
        "extra": dict(extra or {}),
    }
    if optimizer is not None:
        content["optimizer"], more = _described(innermost(optimizer), owned)
        tensors |= more
    target = Path(folder).resolve()
    temporary = target.with_name(f".{target.name}.tmp")
    _in_first(lambda: _begin(target, temporary, content))
    try:
        _quietly(
            lambda **alone: _dcp().save(tensors, storage_writer=writer_of(str(temporary)), planner=_planner(), **alone)
        )
        sums = _checksums(sorted(temporary.glob("*.safetensors")))
        _in_first(lambda: _finish(target, temporary, {**content, "files": sums}))
    except BaseException:
        if _rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_sharded(
    folder: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Read what `save_sharded` wrote into a model of the same structure, in any number of processes, sharded or not.

    Args:
        folder: As it was given to `save_sharded`.
        model: Shared as the saved one was; then sharded over these processes, or not.
        optimizer: With the same parameters in the same groups; their settings (learning rates ...) become the saved
            ones. `None` leaves the saved state of an optimizer alone.

    Returns:
        `extra`.

    Raises:
        FileError: If the folder is none of ours or damaged, a name, shape, dtype or tie differs (the first one is
            named), or an optimizer is given and none was saved.
        OptimizerMismatch: If the optimizer's groups hold other parameters. In every case model and optimizer are as
            they were.
    """
    _, reader_of = _storage()
    model = unwrapped(model)
    settle_(model)
    owned, aliases = owners(model)
    content = _content(Path(folder))
    tensors: dict[str, Any] = {f"model.{name}": torch.empty_like(tensor.detach()) for name, tensor in owned.items()}
    state: dict[str, Any] = {}
    try:
        _expect(str(folder), content, owned, aliases)
        if optimizer is not None:
            state, more = _restored(str(folder), content.get("optimizer"), innermost(optimizer), owned)
            tensors |= more
    except SharingError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        told = str(error).partition("\n")[0]
        raise FileError(f"'{folder}' is damaged: '{STATE}' says what cannot be: {told}.") from error
    sums = _checksums(sorted(Path(folder).glob("*.safetensors")))
    if sums != content.get("files"):
        wrong = sorted(name for name in {*sums, *content["files"]} if sums.get(name) != content["files"].get(name))
        raise FileError(f"'{folder}' is damaged: its file '{wrong[0]}' is not as it was written.")
    try:
        _quietly(lambda **alone: _dcp().load(tensors, storage_reader=reader_of(str(folder)), **alone))
    except (Exception, _dcp().CheckpointException) as error:  # the latter is torch's own, and no `Exception`
        raise FileError(f"Cannot read '{folder}': {error}") from error
    if optimizer is not None:
        innermost(optimizer).load_state_dict(state)
    with torch.no_grad():
        for name, tensor in owned.items():
            tensor.copy_(tensors[f"model.{name}"])
    return content["extra"]


def _described(
    optimizer: torch.optim.Optimizer, owned: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimizer as JSON and tensors, parameters by name."""
    groups, state, tensors = [], {}, {}
    for group in _named(optimizer, owned):
        settings = {key: _plain(key, value) for key, value in group.items() if key not in ("params", "param_names")}
        groups.append({"names": list(group["params"]), "settings": settings})
        for name, parameter in group["params"].items():
            state[name] = {}
            for key, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    state[name][key] = {"value": _plain(f"{name}: {key}", value)}
                    continue
                like = value.shape == parameter.shape
                if is_spread(value) and not (like and is_spread(parameter)):
                    raise SpecError(
                        f"Cannot save '{key}' of '{name}': it is spread over processes, and not as that is."
                    )
                state[name][key] = {"like": like, "shape": list(value.shape), "dtype": dtype_name(value)}
                tensors[f"optimizer.{name}.{key}"] = value.detach()
    return {"groups": groups, "state": state}, tensors


def _restored(
    folder: str, saved: Any, optimizer: torch.optim.Optimizer, owned: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state dict of an optimizer, and by their names on file those of its tensors that are still to be filled."""
    if saved is None:
        raise FileError(f"'{folder}' holds no optimizer: it was saved without one.")
    groups, state, tensors, number = [], {}, {}, 0
    now = _named(optimizer, owned)
    if [set(group["params"]) for group in now] != [set(group["names"]) for group in saved["groups"]]:
        raise OptimizerMismatch(
            f"The optimizer's groups hold other parameters than those in '{folder}'. Make it as it was made then."
        )
    for group, held in zip(now, saved["groups"], strict=True):
        settings = {key: _as(group.get(key), value) for key, value in held["settings"].items()}
        rest = {key: value for key, value in group.items() if key == "param_names"}
        groups.append({**settings, **rest, "params": list(range(number, number + len(group["params"])))})
        for name, parameter in group["params"].items():
            entries = {}
            for key, entry in saved["state"][name].items():
                if "value" in entry:
                    entries[key] = entry["value"]
                    continue
                dtype = _dtype(folder, entry["dtype"])
                like = entry["like"] and list(parameter.shape) == entry["shape"]
                made = (
                    torch.zeros_like(parameter.detach(), dtype=dtype)
                    if like
                    else torch.zeros(entry["shape"], dtype=dtype)
                )
                entries[key] = tensors[f"optimizer.{name}.{key}"] = made
            if entries:
                state[number] = entries
            number += 1
    return {"state": state, "param_groups": groups}, tensors


def _dtype(folder: str, name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise FileError(f"'{folder}' is damaged: {name!r} is no type of numbers.")
    return found


def _named(optimizer: torch.optim.Optimizer, owned: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The groups of an optimizer, with `params` by name."""
    names = {id(tensor): name for name, tensor in owned.items()}
    for tensor in (one for group in optimizer.param_groups for one in group["params"]):
        if id(tensor) not in names:
            raise OptimizerMismatch(
                f"The optimizer holds a parameter of shape {tuple(tensor.shape)} that the model does not have. Share, "
                "then shard, then make the optimizer from weightshare.param_groups(model, weight_decay)."
            )
    return [{**group, "params": {names[id(one)]: one for one in group["params"]}} for group in optimizer.param_groups]


def _plain(what: str, value: Any) -> Any:
    """A setting as JSON: a tensor of one number becomes that number."""
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(value, tuple | list):
        return [_plain(what, one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SpecError(f"Cannot save '{what}' of the optimizer: it is a {type(value).__name__}, need numbers or tensors.")


def _as(now: Any, value: Any) -> Any:
    """A setting as the optimizer holds it now: a tensor, a tuple, or what JSON gives."""
    if isinstance(now, int | float) and not isinstance(value, int | float):
        raise TypeError(f"a setting of the optimizer is {value!r}, need a number")
    if isinstance(now, Tensor):
        return torch.full_like(now, value)
    return tuple(_as(None, one) for one in value) if isinstance(value, list) and isinstance(now, tuple) else value


def _content(folder: Path) -> dict[str, Any]:
    content = read_json(folder / STATE)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(f"'{folder}' is no folder of save_sharded of this version: need format {FORMAT!r}.")
    if not all(isinstance(content.get(key), dict) for key in ("aliases", "model", "extra", "files")):
        raise FileError(f"'{folder}' is damaged: '{STATE}' lacks a part.")
    return content


def _expect(folder: str, content: Mapping[str, Any], owned: Mapping[str, Tensor], aliases: Mapping[str, str]) -> None:
    """Refuse a model of another structure than the saved one, or other ties."""
    now = {name: [list(tensor.shape), dtype_name(tensor)] for name, tensor in owned.items()}
    for name in (*now, *content["model"]):
        got, needed = content["model"].get(name), now.get(name)
        if got != needed:
            raise FileError(
                f"'{name}' in '{folder}' is {_said(got)}, in the model {_said(needed)}. Build and share the "
                "model as it was when it was saved."
            )
    for alias in (*aliases, *content["aliases"]):
        if aliases.get(alias) != content["aliases"].get(alias):
            raise FileError(
                f"'{alias}' is tied to {content['aliases'].get(alias)!r} in '{folder}', and to {aliases.get(alias)!r} "
                "in the model. Share the model as it was when it was saved."
            )


def _said(entry: Any) -> str:
    return "missing" if entry is None else f"{tuple(entry[0])} {entry[1]}"


def _begin(target: Path, temporary: Path, content: Mapping[str, Any]) -> None:
    if target.exists():
        raise FileError(f"Cannot write '{target}': it is there already. Give the name of a new folder.")
    try:
        json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FileError(f"Cannot write '{target}': extra or a setting is no JSON: {error}") from error
    shutil.rmtree(temporary, ignore_errors=True)  # what a process that was killed left
    temporary.mkdir(parents=True)


def _finish(target: Path, temporary: Path, content: Mapping[str, Any]) -> None:
    write_json(temporary / STATE, content)
    os.rename(temporary, target)
    above = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def _checksums(files: list[Path]) -> dict[str, str]:
    """SHA-256 of each file by name; processes share the work."""
    mine = {}
    for path in files[_rank() :: _world()]:
        with open(path, "rb") as file:
            mine[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    every: list[Any] = [mine]
    if _world() > 1:
        every = [None] * _world()
        dist.all_gather_object(every, mine)
    return {name: digest for part in every for name, digest in sorted(part.items())}


def _in_first(work: Callable[[], None]) -> None:
    """Run something in the first process alone; if it fails there, all raise."""
    said: list[str | None] = [None]
    if _rank() == 0:
        try:
            work()
        except (OSError, FileError) as error:
            said = [str(error)]
    if _world() > 1:
        dist.broadcast_object_list(said, 0)
    if said[0] is not None:
        raise FileError(said[0])


def _quietly(work: Callable[..., Any]) -> None:
    """Call something of torch that warns where there is no process group, which is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        work(no_dist=not _distributed())


def _storage() -> tuple[Callable[[str], Any], Callable[[str], Any]]:
    try:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
    except ImportError as error:
        raise SpecError("Sharded checkpoints need torch 2.9 or later, which stores them as safetensors.") from error
    return (lambda folder: HuggingFaceStorageWriter(folder, save_distributed=True)), HuggingFaceStorageReader


def _dcp() -> Any:
    import torch.distributed.checkpoint as dcp

    return dcp


def _planner() -> Any:
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    return DefaultSavePlanner(dedup_save_to_lowest_rank=True)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _distributed() else 0


def _world() -> int:
    return dist.get_world_size() if _distributed() else 1
