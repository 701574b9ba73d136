"""Copies of whole modules."""

from collections.abc import Callable
import copy
from typing import Any

from torch import nn

from weightshare.errors import ModelChanged
from weightshare.surgery.shards import is_spread, is_unit, settle_, whole
from weightshare.surgery.sites import plain

FULLY_SHARD = "torch.distributed.fsdp"
MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, its ties intact.

    Args:
        model: To be copied.
        memo: What stands for what in the copy, by `id`.

    Raises:
        ModelChanged: If torch cannot copy the model.
    """
    try:
        return copy.deepcopy(model, memo)
    except RuntimeError as error:
        raise ModelChanged(
            f"{type(model).__name__} cannot be copied: {error}. Tensors that a forward pass left on a module, as the "
            "old weight_norm does, have to go first; torch.nn.utils.parametrizations has none."
        ) from error


def unsharded_copy(model: nn.Module, everywhere: bool = True) -> nn.Module | None:
    """A plain copy, on the CPU, of a model that `fully_shard` spread over processes. Every process has to call it.

    It has the model's own classes, whole parameters of its own, its ties, its plans and its hooks: `save`, `fold`,
    `unshare_` and `report` take it as any other. The model itself stays as it is.

    Args:
        model: After `shard_`, or torch's own `fully_shard`. One that is not sharded is copied too.
        everywhere: `False` gives the copy to the first process alone, and `None` to all others; they hold one
            parameter whole at a time.

    Raises:
        ModelChanged: If torch cannot copy the model.
    """
    model = plain(model)
    settle_(model)
    import torch.distributed as dist

    wanted = everywhere or not dist.is_initialized() or dist.get_rank() == 0
    memo: dict[int, Any] = {}
    for parameter in (one for one in model.parameters() if is_spread(one)):
        value = whole(parameter)
        if wanted:
            memo[id(parameter)] = nn.Parameter(value.cpu(), parameter.requires_grad)
    if not wanted:
        return None
    restore = remember(model)
    try:
        for module in model.modules():
            _strip_(module)
        return copied(model, memo).to("cpu")
    finally:
        restore()


def remember(model: nn.Module) -> Callable[[], None]:
    """A function that makes every module what it is now, with the objects that it holds now."""
    kept = []
    for module in model.modules():
        held = dict(vars(module))
        contents = [(value, copy.copy(value)) for value in held.values() if isinstance(value, dict | list)]
        kept.append((module, type(module), held, contents))

    def restore() -> None:
        for module, kind, held, contents in kept:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(held)
            for container, before in contents:
                container.clear()
                container.update(before) if isinstance(container, dict) else container.extend(before)

    return restore


def _strip_(module: nn.Module) -> None:
    """Take away what `fully_shard` puts on a module: its class, its state and its hooks."""
    if is_unit(module):
        module.__class__ = type(module).__mro__[2]
    held = vars(module)
    for key in [key for key in held if "composable_api" in key or key in MARKS]:
        del held[key]
    tables = [table for table in held.values() if isinstance(table, dict)]
    hooks = {
        number
        for table in tables
        for number, hook in table.items()
        if isinstance(number, int) and str(getattr(hook, "__module__", "")).startswith(FULLY_SHARD)
    }
    for table in tables:
        for number in hooks & table.keys():
            del table[number]
