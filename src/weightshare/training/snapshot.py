"""Training state in one file: model, optimizer, random generators and history, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import FileError, TrainingError
from weightshare.files import archive
from weightshare.files.checkpoint import owners

KIND = "training"


def write_snapshot(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write the state of a training run in one step.

    Args:
        path: The file; the one before is replaced once this one is whole.
        model: Its parameters and buffers are written, each tensor once.
        optimizer: Its state and groups.
        progress: Whatever else a resumed run needs, as JSON.

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
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    content = {
        "kind": KIND,
        "groups": state["param_groups"],
        "numbers": numbers,
        "progress": dict(progress),
    }
    archive.write(path, tensors, {f"model.{name}": f"model.{owner}" for name, owner in aliases.items()}, content)


def read_snapshot(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: Mapping[str, Any]
) -> dict[str, Any]:
    """Put a model, an optimizer and the random generators where a run was.

    Args:
        path: A file of `write_snapshot`.
        model: Shared as it was when the file was written.
        optimizer: Made for that model.
        run: What `progress["run"]` has to be; nothing is changed if it is not.

    Returns:
        The `progress` that was written.

    Raises:
        TrainingError: If the file belongs to another run; what differs is named.
        FileError: If the file is damaged, or the model or the optimizer is not the one that it was written for.
    """
    held = archive.read(path, KIND)
    written = held.content["progress"]["run"]
    if written != run:
        differs = ", ".join(sorted(key for key in run if written.get(key) != run[key]))
        raise TrainingError(f"'{path}' belongs to another run: {differs} differ. Choose another folder, or delete it.")
    owned, aliases = owners(model)
    if {f"model.{name}": f"model.{owner}" for name, owner in aliases.items()} != held.aliases:
        raise FileError(f"'{path}' was written for a model that shares otherwise: apply the same plan before resuming.")
    for name, tensor in owned.items():
        value = held.tensors.get(f"model.{name}")
        if value is None or (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
            got = "missing" if value is None else f"{tuple(value.shape)} {value.dtype}"
            raise FileError(f"'{name}' is {got} in '{path}', the model has {tuple(tensor.shape)} {tensor.dtype}.")
    state: dict[int, dict[str, Any]] = {}
    for name, value in held.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    for index, entries in held.content["numbers"].items():
        state.setdefault(int(index), {}).update(entries)
    try:
        optimizer.load_state_dict({"state": state, "param_groups": held.content["groups"]})
    except (ValueError, KeyError) as error:
        raise FileError(f"'{path}' was written for another optimizer: {error}.") from error
    with torch.no_grad():
        for name, tensor in owned.items():
            tensor.copy_(held.tensors[f"model.{name}"])
    torch.set_rng_state(held.tensors["rng.cpu"])
    if "rng.cuda" in held.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(held.tensors["rng.cuda"])
    return held.content["progress"]
