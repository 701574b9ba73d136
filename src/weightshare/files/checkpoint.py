"""Saving and loading models whose weights are shared: each tensor once, ties by name, checked to the last bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from weightshare.errors import FileError, ModelChanged
from weightshare.files import archive
from weightshare.planning import APPLIED, Plan, applied_plans, record
from weightshare.surgery import edit
from weightshare.surgery.sites import unwrapped
from weightshare.verbs import refuse_untied

KIND = "model"


def save(model: nn.Module, path: str | Path) -> int:
    """Write a model's parameters and persistent buffers to a safetensors file, each tensor once.

    Args:
        model: Any module, shared or folded. Plans that were applied to it are written too.
        path: Name of the file; replaced in one step once the new one is whole.

    Returns:
        Size of the file in bytes.

    Raises:
        ModelChanged: If ties have come undone; call `retie_` first.
        FileError: If the state holds anything but dense tensors, or different parameters in the same memory, or if the
            disk refuses.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(net, f"{folder}/net.safetensors")
        ...     same = load(f"{folder}/net.safetensors", nn.Linear(2, 3))
        >>> torch.equal(same.weight, net.weight)
        True
    """
    model = unwrapped(model)
    refuse_untied(model)
    owned, aliases = owners(model)
    plans = [[at, plan.to_json()] for at, plan in applied_plans(model)]
    return archive.write(path, owned, aliases, {"kind": KIND, "plans": plans})


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Read a file that `save` wrote into a model of the same structure, and restore its ties and plans.

    Args:
        path: The file.
        model: A model with the same names, shapes and dtypes, shared already or not yet.

    Returns:
        The same model, changed in place: what the file ties is one parameter, and its numbers are the file's.

    Raises:
        FileError: If the file is cut, edited or not ours, if a name, shape or dtype differs (the first one is named),
            or if the model ties what the file stores apart.
        ShapeMismatch: If the file ties what the model has frozen and trained, or on two devices. In every case the
            model is bit for bit as it was.
    """
    model = unwrapped(model)
    held = archive.read(path, KIND)
    names = {**{name: name for name in held.tensors}, **held.aliases}
    targets = _state(model)
    _expect(str(path), held.tensors, names, targets)
    plans = _plans(str(path), model, held.content.get("plans", []))
    with edit.transaction(model) as edits:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for alias, owner in held.aliases.items():
            if alias in parameters and owner in parameters and parameters[alias] is not parameters[owner]:
                edit.common_slot([owner, alias], [parameters[owner], parameters[alias]])
                edits.put(alias, parameters[owner])
        for name, target in _state(model).items():
            edits.write(target, held.tensors[names[name]].to(target.device))
        for at, plan in plans:
            if plan not in model.get_submodule(at).__dict__.get(APPLIED, ()):
                record(edits, at, plan)
        try:
            refuse_untied(model)
        except ModelChanged as error:
            raise FileError(f"'{path}' has a plan that its own tensors do not follow: {error}") from error
    return model


def tensors(path: str | Path) -> dict[str, Tensor]:
    """Read any safetensors file as a state dict of dense tensors, aliases resolved.

    Args:
        path: A file of ours (its checksum is verified) or of anyone else's.

    Returns:
        Every name with its tensor, on the CPU; aliases give the same tensor object as their owner.

    Raises:
        FileError: If the file is cut, damaged or no safetensors file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(nn.Linear(2, 3), f"{folder}/net.safetensors")
        ...     state = tensors(f"{folder}/net.safetensors")
        >>> sorted(state)
        ['bias', 'weight']
    """
    held = archive.read_any(path)
    return {**held.tensors, **{alias: held.tensors[owner] for alias, owner in held.aliases.items()}}


def owners(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's state with each tensor once, by object identity, and the further names with their owner's."""
    owned: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[int, str] = {}
    for name, tensor in _state(model).items():
        owner = first_name.setdefault(id(tensor), name)
        if owner == name:
            owned[name] = tensor
        else:
            aliases[name] = owner
    return owned, aliases


def _state(model: nn.Module) -> dict[str, Tensor]:
    # keep_vars gives the objects themselves, so that identity tells which names are one tensor.
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor) or name.rpartition(".")[2] == "_extra_state":
            raise FileError(
                f"Cannot store '{name}': it is a {type(value).__name__}. Only parameters and buffers are stored, never "
                "pickles or other state."
            )
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise FileError(f"Cannot store '{name}': its lazy module is not built. Run the model once on one batch.")
    return state


def _expect(path: str, held: Mapping[str, Tensor], names: Mapping[str, str], targets: Mapping[str, Tensor]) -> None:
    for name in targets:
        if name not in names:
            raise FileError(f"'{path}' lacks '{name}' {tuple(targets[name].shape)}, which the model has.")
    for name, owner in names.items():
        if name not in targets:
            raise FileError(f"'{path}' holds '{name}' {tuple(held[owner].shape)}, which the model lacks.")
    owner_of: dict[int, str] = {}
    for name, target in targets.items():
        value = held[names[name]]
        if target.is_meta:
            raise FileError(
                f"Cannot load '{name}': the model is on the meta device. Call model.to_empty(device=...) first."
            )
        if (value.shape, value.dtype) != (target.shape, target.dtype):
            raise FileError(
                f"'{name}' in '{path}' is {tuple(value.shape)} {value.dtype}, the model has {tuple(target.shape)} "
                f"{target.dtype}. Build the model as it was when it was saved."
            )
        other = owner_of.setdefault(id(target), names[name])
        if other != names[name]:
            raise FileError(
                f"The model ties '{name}' to '{other}', '{path}' stores them apart. Load it into a model that is not "
                "shared, then share that."
            )


def _plans(path: str, model: nn.Module, entries: object) -> list[tuple[str, Plan]]:
    try:
        plans = [(str(at), Plan.from_json(text)) for at, text in entries]  # type: ignore[union-attr]
        for at, plan in plans:
            part = model.get_submodule(at)
            for tie in plan.ties:
                for name in tie:
                    part.get_parameter(name)
    except (TypeError, ValueError, AttributeError) as error:
        raise FileError(f"'{path}' has a plan that does not fit the model: {error}") from error
    return plans
