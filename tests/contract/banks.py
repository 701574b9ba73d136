"""What a bank comes to, computed naively: how its layers start, what they read, and the gradients of what it stores."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.depth.bank import Generated
from weightshare.generating import bank_of
from weightshare.planning import Plan


def generated(plan: Plan) -> list[Generated]:
    """The groups of a plan whose weights a bank makes."""
    return [group for group in plan.groups if isinstance(group, Generated)]


def bank_path(model: nn.Module, group: Generated) -> str:
    """Where the bank of a group lies."""
    bank = bank_of(model, group.items)
    return next(path for path, module in model.named_modules() if module is bank)


def stored_keys(model: nn.Module, group: Generated) -> list[str]:
    """The names of the slots, or of all that they are fused from."""
    count = len(group.items) if group.through else group.assignment.slots
    return [f"{bank_path(model, group)}.stored.{number}" for number in range(count)]


def bank_keys(model: nn.Module, group: Generated) -> list[str]:
    """The names of all that the bank of a group stores."""
    path = bank_path(model, group)
    return [f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()]


def started(spec: Any, group: Generated, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What each layer reads at first: the mean of its slot's readers, and of rank 1 the best of what that lost."""
    wide = [_wide(tensor) for tensor in tensors]
    values = []
    for layer, label in enumerate(group.assignment.labels.tolist()):
        readers = group.assignment.readers[label]
        value = sum(wide[reader] for reader in readers) / len(readers)
        if spec.own is not None and len(readers) > 1 and value.ndim > 1:
            left, sizes, right = torch.linalg.svd((wide[layer] - value).flatten(1), full_matrices=False)
            value = value + (sizes[0] * left[:, :1] @ right[:1]).view(value.shape)
        values.append(value.to(tensors[layer].dtype))
    return values


def weights(group: Generated, path: str, state: Mapping[str, Tensor]) -> list[Tensor]:
    """The weight of each layer from the numbers that a bank at a path stores, layer by layer."""
    made = []
    rows = _rows(group)
    for layer, label in enumerate(group.assignment.labels.tolist()):
        readers = group.assignment.readers[label]
        value = state[f"{path}.stored.{label}"]
        if group.through:
            value = sum(_factor(rows, path, state, reader) * state[f"{path}.stored.{reader}"] for reader in readers)
            value = value / len(readers)
        if f"{path}.own.up" in state and layer in rows:
            up, down = (state[f"{path}.own.{name}"][rows[layer]] for name in ("up", "down"))
            value = value + (up @ down).view(value.shape)
        if f"{path}.own.scale" in state and layer in rows:
            value = value * state[f"{path}.own.scale"][rows[layer]]
            value = value + state.get(f"{path}.own.shift", torch.zeros(len(rows)))[rows[layer]]
        made.append(value)
    return made


def gradients(
    group: Generated, path: str, state: Mapping[str, Tensor], dense: Sequence[Tensor | None]
) -> dict[str, Tensor | None]:
    """What each stored tensor gets, given the gradients that the layers of an unshared network get.

    `V_i` gets `a_i / r` times the sum `G` of its slot's readers, `a_i` gets `⟨G, V_i⟩ / r`; of `S + B A` with gradient
    `G`, `B` gets `G Aᵀ` and `A` gets `Bᵀ G`.
    """
    names = [name for name in state if name.startswith(f"{path}.")]
    if all(one is None for one in dense):
        return dict.fromkeys(names)
    rows = _rows(group)
    of_layers = [torch.zeros(group.shape) if one is None else _wide(one) for one in dense]
    found = {name: torch.zeros_like(_wide(state[name])) for name in names}
    for label, readers in enumerate(group.assignment.readers):
        summed = sum(of_layers[reader] for reader in readers)
        if not group.through:
            found[f"{path}.stored.{label}"] = summed
            continue
        for reader in readers:
            factor = _factor(rows, path, state, reader)
            found[f"{path}.stored.{reader}"] = summed * factor / len(readers)
            if f"{path}.factors" in state and reader in rows:
                stored = state[f"{path}.stored.{reader}"]
                found[f"{path}.factors"][rows[reader]] = (summed * stored.conj()).sum() / len(readers)
    if f"{path}.own.up" in state:
        for layer, row in rows.items():
            up, down = (_wide(state[f"{path}.own.{name}"][row]) for name in ("up", "down"))
            matrix = of_layers[layer].flatten(1)
            found[f"{path}.own.up"][row] = matrix @ down.mH
            found[f"{path}.own.down"][row] = up.mH @ matrix
    return {name: value.to(state[name].dtype) for name, value in found.items()}


def folded_ties(plan: Plan) -> list[tuple[str, ...]]:
    """The paths that are one parameter once a plan's banks are folded; layers with something of their own are not."""
    readers = [(group, some) for group in generated(plan) if not group.dense for some in group.assignment.readers]
    return [tuple(group.items[reader] for reader in some) for group, some in readers]


def _rows(group: Generated) -> dict[int, int]:
    """Of each layer that shares, which row of what layers have of their own is its."""
    members = sorted(layer for readers in group.assignment.readers if len(readers) > 1 for layer in readers)
    return {layer: row for row, layer in enumerate(members)}


def _factor(rows: Mapping[int, int], path: str, state: Mapping[str, Tensor], layer: int) -> Any:
    factors = state.get(f"{path}.factors")
    return 1 if factors is None or layer not in rows else factors[rows[layer]]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
