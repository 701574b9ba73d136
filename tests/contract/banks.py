"""What a bank comes to, computed naively: how its layers start, what they read, and the gradients of what it stores."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.depth.templates import TemplateGroup
from weightshare.generating import Banked, bank_of
from weightshare.planning import Plan


def generated(plan: Plan) -> list[Any]:
    """The groups of a plan whose weights a bank makes: `Generated`, or `TemplateGroup`."""
    return [group for group in plan.groups if isinstance(group, Banked)]


def bank_path(model: nn.Module, group: Any) -> str:
    """Where the bank of a group lies."""
    bank = bank_of(model, group.items)
    return next(path for path, module in model.named_modules() if module is bank)


def stored_keys(model: nn.Module, group: Any) -> list[str]:
    """The names of the slots, or of all that they are fused from."""
    if isinstance(group, TemplateGroup):
        return [f"{bank_path(model, group)}.templates"]
    count = len(group.items) if group.through else group.assignment.slots
    return [f"{bank_path(model, group)}.stored.{number}" for number in range(count)]


def bank_keys(model: nn.Module, group: Any) -> list[str]:
    """The names of all that the bank of a group stores."""
    path = bank_path(model, group)
    return [f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()]


def started(spec: Any, group: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What each layer reads at first: the mean of its slot's readers, and of rank 1 the best of what that lost; or of
    so many templates the best of all layers."""
    if isinstance(group, TemplateGroup):
        left, sizes, right = torch.linalg.svd(
            torch.stack([_wide(one).flatten() for one in tensors]), full_matrices=False
        )
        kept = slice(group.templates)
        best = (left[:, kept] * sizes[kept]) @ right[kept]
        return [row.view(group.shape).to(tensors[0].dtype) for row in best]
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


def weights(group: Any, path: str, state: Mapping[str, Tensor]) -> list[Tensor]:
    """The weight of each layer from the numbers that a bank at a path stores, layer by layer."""
    made = []
    if isinstance(group, TemplateGroup):
        stored, mixtures = state[f"{path}.templates"], state[f"{path}.coefficients"]
        return [functools.reduce(torch.add, map(torch.mul, mixture, stored)) for mixture in mixtures]
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
    group: Any, path: str, state: Mapping[str, Tensor], dense: Sequence[Tensor | None]
) -> dict[str, Tensor | None]:
    """What each stored tensor gets, given the gradients that the layers of an unshared network get.

    `V_i` gets `a_i / r` times the sum `G` of its slot's readers, `a_i` gets `⟨G, V_i⟩ / r`; of `S + B A` with gradient
    `G`, `B` gets `G Aᵀ` and `A` gets `Bᵀ G`. A template gets the sum of all `α_i G_i`, `α_i` gets `⟨G_i, T⟩`.
    """
    names = [name for name in state if name.startswith(f"{path}.")]
    if all(one is None for one in dense):
        return dict.fromkeys(names)
    rows = {} if isinstance(group, TemplateGroup) else _rows(group)
    of_layers = [torch.zeros(group.shape) if one is None else _wide(one) for one in dense]
    found = {name: torch.zeros_like(_wide(state[name])) for name in names}
    if isinstance(group, TemplateGroup):
        templates, coefficients = (f"{path}.templates", f"{path}.coefficients")
        for layer, gradient in enumerate(of_layers):
            for j in range(group.templates):
                found[templates][j] += _wide(state[coefficients])[layer, j].conj() * gradient
                found[coefficients][layer, j] = (gradient * _wide(state[templates])[j].conj()).sum()
        return {name: value.to(state[name].dtype) for name, value in found.items()}
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
    tied = [group for group in generated(plan) if not isinstance(group, TemplateGroup) and not group.dense]
    readers = [(group, some) for group in tied for some in group.assignment.readers]
    return [tuple(group.items[reader] for reader in some) for group, some in readers]


def _rows(group: Any) -> dict[int, int]:
    """Of each layer that shares, which row of what layers have of their own is its."""
    members = sorted(layer for readers in group.assignment.readers if len(readers) > 1 for layer in readers)
    return {layer: row for row, layer in enumerate(members)}


def _factor(rows: Mapping[int, int], path: str, state: Mapping[str, Tensor], layer: int) -> Any:
    factors = state.get(f"{path}.factors")
    return 1 if factors is None or layer not in rows else factors[rows[layer]]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
