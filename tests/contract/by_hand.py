"""What each kind of sharing comes to, computed naively: gradients of what is stored, and how many things differ."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.contract.trial import read
from weightshare.decoding import Clusters
from weightshare.depth.bank import Generated
from weightshare.depth.templates import TemplateGroup
from weightshare.sharing import Group
from weightshare.space.positions import Mixtures, Positions


class Kind(NamedTuple):
    """Of one kind of group.

    Args:
        gradients: From the group, the shared model's state and the gradient of the dense weight, what the tensors that
            are stored for it get, by name. Empty for ties, whose gradients are those of their readers, added up, and
            for banks: see there.
        slots: How many different items the group can hold at most.
        different: How many it reads in a model.
    """

    gradients: Callable[[Any, dict[str, Tensor], Tensor | None], dict[str, Tensor | None]]
    slots: Callable[[Any], int]
    different: Callable[[Any, nn.Module], int]


def _of_values(group: Clusters, state: dict[str, Tensor], dense: Tensor | None) -> dict[str, Tensor | None]:
    slots, index = group.keys
    members = [state[index] == label for label in range(group.clusters)]
    mean = None if dense is None else torch.stack([dense[chosen].double().mean() for chosen in members]).to(dense.dtype)
    return {slots: mean}


def _of_classes(group: Positions, state: dict[str, Tensor], dense: Tensor | None) -> dict[str, Tensor | None]:
    slots, index = group.keys
    members = [state[index] == label for label in range(group.slots)]
    summed = None if dense is None else torch.stack([dense[chosen].double().sum(0) for chosen in members])
    return {slots: None if dense is None or summed is None else summed.to(dense.dtype)}


def _of_templates(group: Mixtures, state: dict[str, Tensor], dense: Tensor | None) -> dict[str, Tensor | None]:
    templates, coefficients = group.keys
    if dense is None:
        return {templates: None, coefficients: None}
    kernels = dense.double().reshape(len(state[coefficients]), -1)
    mixed = state[coefficients].double().T @ kernels
    weighed = kernels @ state[templates].double().flatten(1).T
    return {templates: mixed.view(state[templates].shape).to(dense.dtype), coefficients: weighed.to(dense.dtype)}


def _weights(group: Group, model: nn.Module) -> int:
    return len({tuple(read(model, path).reshape(-1).tolist()) for path in group.items})


def _scalars(group: Clusters, model: nn.Module) -> int:
    return read(model, group.name).unique().numel()


def _kernels(group: Positions, model: nn.Module) -> int:
    return len(read(model, group.name).flatten(0, len(group.positions) - 1).unique(dim=0))


def _rank_of_layers(group: Group, model: nn.Module) -> int:
    rows = torch.stack([read(model, path).to(torch.complex128).flatten() for path in group.items])
    return int(torch.linalg.matrix_rank(rows, rtol=1e-2 if group.dtype == "bfloat16" else 1e-5))


def _rank(group: Mixtures, model: nn.Module) -> int:
    return int(torch.linalg.matrix_rank(read(model, group.name).double().flatten(0, 1).flatten(1), rtol=1e-5))


KINDS: dict[type[Group], Kind] = {
    Generated: Kind(lambda *_: {}, lambda group: group.assignment.slots, _weights),
    TemplateGroup: Kind(lambda *_: {}, lambda group: group.templates, _rank_of_layers),
    Group: Kind(lambda *_: {}, lambda group: group.assignment.slots, _weights),
    Clusters: Kind(_of_values, lambda group: group.clusters, _scalars),
    Positions: Kind(_of_classes, lambda group: group.slots, _kernels),
    Mixtures: Kind(_of_templates, lambda group: group.slots, _rank),
}
