"""Parameters that are spread over processes: `DTensor`, as FSDP2's `fully_shard` makes them.

A part that lies here is worked on here where a map allows it (the sort-free one reduces counts over the group);
otherwise the whole is gathered, changed alike by every process, and each keeps its part. All by the names of torch's
classes, so that nothing distributed is imported for others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import SpecError

WHOLE = "Every process: whole = weightshare.training.distributed.unsharded_copy(model), and do it with that."


def is_spread(parameter: Tensor) -> bool:
    """Whether a parameter is spread over processes."""
    return _spread(parameter) is not None


def is_unit(module: nn.Module) -> bool:
    """Whether `fully_shard` was called with a module, which has put a class of its own before the module's."""
    return type(module).__mro__[1].__name__ == "FSDPModule"


def held_by_wrapper(module: nn.Module) -> str | None:
    """Why no other parameters can be read in a module, or below it; nothing for most."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return (
            "Cannot change which parameters a model reads inside DistributedDataParallel, which reduces those that it "
            "was made with: share first, wrap then."
        )
    if is_unit(module):
        return (
            "Cannot change which parameters a model reads after fully_shard, which spreads those that it was made "
            f"with: share first, shard then. {WHOLE}"
        )
    return None


def refuse_spread(model: nn.Module, what: str, instead: str = WHOLE) -> None:
    """Raise `SpecError` for a model whose parameters are spread over processes."""
    if any(is_spread(parameter) for parameter in model.parameters()) or any(map(is_unit, model.modules())):
        raise SpecError(f"{what}: the parameters of {type(model).__name__} are spread over processes. {instead}")


def settle_(model: nn.Module) -> None:
    """Make the model hold the parameters that an optimizer knows: a unit holds others while it is gathered.

    FSDP2 leaves the root unit gathered after a forward pass without a backward pass, as in evaluation.
    """
    for module in model.modules():
        if is_unit(module):
            unit: Any = module
            unit.reshard()


def expect_one_cut(path: str, parameter: Tensor) -> None:
    """Refuse a parameter that is cut along two dimensions of its mesh, or holds partial sums."""
    placements = () if (spread := _spread(parameter)) is None else spread.placements
    if any(one.is_partial() for one in placements) or sum(one.is_shard() for one in placements) > 1:
        raise SpecError(f"'{path}' is placed as {placements}: need one sharded dimension of the mesh at most.")


def local_part(parameter: Tensor) -> tuple[Tensor, Any]:
    """The numbers that lie in this process, as a view, and the group that holds the others; `None` if all lie here."""
    spread = _spread(parameter)
    if spread is None:
        return parameter.detach(), None
    cut = [number for number, placement in enumerate(spread.placements) if placement.is_shard()]
    local = spread.to_local().detach()
    return local, (spread.device_mesh.get_group(cut[0]) if cut else None)


def whole(parameter: Tensor) -> Tensor:
    """All numbers of a parameter without its history: its own memory if they lie here, else a copy in every process."""
    spread = _spread(parameter)
    return (parameter if spread is None else spread.full_tensor()).detach()


def placed_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, alike in every process, spread as a parameter is."""
    spread = _spread(parameter)
    if spread is None:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, spread.device_mesh, spread.placements, src_data_rank=None)


@torch.no_grad()
def keep_part_(parameter: Tensor, value: Tensor) -> None:
    """Write this process's part of a whole tensor to a parameter that is spread; to any other nothing is done."""
    spread = _spread(parameter)
    if spread is not None:
        placed: Any = placed_like(parameter, value)
        spread.to_local().copy_(placed.to_local())
        torch.autograd.graph.increment_version(parameter)


@contextmanager
def gathered(module: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Let a module hold some of its own parameters whole, in every process; afterwards each keeps its part of them.

    Args:
        module: Holds the parameters itself.
        parameters: Those that are not spread stay the objects that they are.

    Yields:
        What the module holds in their place.
    """
    names = {id(held): name for name, held in module.named_parameters(recurse=False)}
    wholes = [nn.Parameter(whole(one), one.requires_grad) if is_spread(one) else one for one in parameters]
    try:
        for one, every in zip(parameters, wholes, strict=True):
            module._parameters[names[id(one)]] = every
        yield wholes
        for one, every in zip(parameters, wholes, strict=True):
            keep_part_(one, every.detach())
    finally:
        for one in parameters:
            module._parameters[names[id(one)]] = one


def _spread(parameter: Tensor) -> Any:
    return parameter.data if type(parameter.data).__name__ == "DTensor" else None
