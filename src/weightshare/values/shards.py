"""Parameters that are spread over processes (`DTensor`, as FSDP2's `fully_shard` makes them), for maps of all weights.

A part that lies here is worked on here where the map allows it (the sort-free one reduces counts over the group);
otherwise the whole is gathered, changed alike by every process, and each keeps its part.
"""

from typing import Any

import torch
from torch import Tensor

from weightshare.errors import SpecError


def is_spread(parameter: Tensor) -> bool:
    """Whether a parameter is spread over processes."""
    return _spread(parameter) is not None


def spread_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """A tensor that every process holds, spread over them as a parameter is; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    spread = _spread(parameter)
    return distribute_tensor(whole, spread.device_mesh, spread.placements, src_data_rank=None)


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


@torch.no_grad()
def replaced(parameter: Tensor, whole: Tensor | None = None) -> Tensor:
    """The whole parameter as a plain tensor; given one, its part for this process is written first.

    The tensor is the parameter's own memory where all of it lies here, and else a copy.
    """
    spread = _spread(parameter)
    if spread is None:
        return parameter.detach()
    if whole is None:
        return spread.full_tensor().detach()
    from torch.distributed.tensor import distribute_tensor

    part = distribute_tensor(whole, spread.device_mesh, spread.placements, src_data_rank=None).to_local()
    spread.to_local().copy_(part)
    torch.autograd.graph.increment_version(parameter)
    return whole


def _spread(parameter: Tensor) -> Any:
    """The parameter as `DTensor`, or `None`: by name first, so that nothing distributed is imported for others."""
    return parameter.data if type(parameter.data).__name__ == "DTensor" else None
