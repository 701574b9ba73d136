"""Sticky particles on a line: the weights move towards each other for unit time, and those that meet go on as one.

The `i`-th smallest of `d` weights (from 0) starts with velocity `step (d − 1 − 2i)/(d − 1)`; a cluster has the mean
velocity of its members. Where they stand in the end is isotonic regression of place plus velocity, found by sorting
and pooling neighbours, and it is the proximal map of `step·R`. `prox` is the door to it.
"""

from typing import Any

import torch
from torch import Tensor

from weightshare.kernels import followed, on
from weightshare.values import check


def solve(
    flat: Tensor, masses: Tensor | None, bounds: Tensor, step: float, label: bool = True
) -> tuple[Tensor, Tensor]:
    """Where each particle stands in the end, and the number of its cluster; differentiable.

    Args:
        flat: (n), a float tensor.
        masses: Of n numbers, float64, or `None` for ones.
        bounds: (problems + 1), as `check.bounds` gives them.
        step: At least 0.
        label: Number the clusters; otherwise the second tensor is empty, and a backward pass has to solve once more.
    """
    masses = None if masses is None else masses.reshape(-1)
    if not followed(flat):  # all that torch does around a function takes as long as a thousand weights
        return _Sticky.forward(flat, masses, bounds, step, label)
    z, labels = _Sticky.apply(flat, masses, bounds, step, label)  # pyright: ignore[reportGeneralTypeIssues]
    return z, labels


def sort(flat: Tensor, bounds: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """The places of each problem in ascending order, in the dtype that they are computed in, and their indices."""
    flat = flat.to("cpu" if flat.device.type not in ("cpu", "cuda") else flat.device, check.width(flat.dtype))
    places, order = on(flat.device).sort(flat.contiguous(), bounds)
    check.finite(places, bounds, what)
    return places, order


class _Sticky(torch.autograd.Function):
    """The Jacobian takes the mean over each cluster, weighted by mass."""

    @staticmethod
    def forward(flat: Tensor, masses: Tensor | None, bounds: Tensor, step: float, label: bool) -> tuple[Tensor, Tensor]:
        places, order = sort(flat, bounds, "prox_pairwise")
        kernels = on(places.device)
        sorted_masses = None if masses is None else masses.to(places.device)[order.long()]
        ends, values = kernels.pool(places, sorted_masses, bounds, step)
        labels = torch.empty(flat.numel() if label else 0, dtype=torch.int64, device=places.device)
        kernels.spread(ends, values, order, places, labels if label else None)
        return places.to(flat.device, flat.dtype), labels.to(flat.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        flat, masses, *ctx.problem, ctx.label = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(flat, masses, output[1])
        ctx.save_for_forward(flat, masses, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        masses, labels = _clusters(ctx)
        shared = _sums(gradients[0], labels) / _sums(_like(masses, gradients[0]), labels)
        return (shared if masses is None else shared * masses.to(shared.dtype)), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
        masses, labels = _clusters(ctx)
        mass = _like(masses, tangents[0])
        return _sums(tangents[0] * mass, labels) / _sums(mass, labels), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        flat, masses, bounds, step, label = args
        rows, masses, many = _stacked(info, in_dims, flat, masses, bounds)
        z, labels = solve(rows, masses, many, step, label)
        count, n = info.batch_size, int(bounds[-1])
        labels = labels.view(count, n if label else 0)
        if labels.numel():
            labels = labels - labels.amin(1, keepdim=True)
        return (z.view(count, n), labels), (0, 0)


def _clusters(ctx: Any) -> tuple[Tensor | None, Tensor]:
    flat, masses, labels = ctx.saved_tensors
    return masses, labels if ctx.label else solve(flat.detach(), masses, *ctx.problem)[1]


def _stacked(info: Any, in_dims: Any, flat: Tensor, masses: Tensor | None, bounds: Tensor) -> Any:
    """The problems of all rows of a vmap, one after the other."""
    count, n = info.batch_size, int(bounds[-1])
    rows = flat.movedim(in_dims[0], 0) if in_dims[0] is not None else flat.expand(count, n)
    if masses is not None:
        masses = masses.movedim(in_dims[1], 0) if in_dims[1] is not None else masses.expand(count, n)
        masses = masses.reshape(-1)
    many = torch.cat([bounds[:1], (bounds[1:] + n * torch.arange(count)[:, None]).reshape(-1)])
    return rows.reshape(-1), masses, many


def _like(masses: Tensor | None, values: Tensor) -> Tensor:
    return torch.ones_like(values) if masses is None else masses.to(values.dtype)


def _sums(values: Tensor, labels: Tensor) -> Tensor:
    """For each particle the sum over its cluster."""
    return torch.zeros_like(values).index_add(0, labels, values)[labels]


def slopes(flat: Tensor, masses: Tensor | None, bounds: Tensor, what: str) -> Tensor:
    """The mean rank of each particle's value, from −1 to 1, times its mass: (n), float64, without gradient."""
    masses = None if masses is None else masses.reshape(-1)
    flat = flat.detach()
    if not followed(flat):
        return _Slopes.forward(flat, masses, bounds, what)
    return _Slopes.apply(flat, masses, bounds, what)  # pyright: ignore[reportReturnType]


def _ranks(below: Tensor, reached: Tensor, ends: Tensor, bounds: Tensor) -> Tensor:
    """The mean rank of each cluster of many problems, from the masses of all before it and up to its end."""
    edges = torch.searchsorted(ends, bounds, right=True)
    problem = torch.repeat_interleave(torch.arange(len(bounds) - 1, device=ends.device), edges.diff())
    limits = torch.cat([reached.new_zeros(1), reached])[edges]
    total = limits.diff()[problem]
    alone = (edges.diff() == 1)[problem]
    return torch.where(alone, 0.0, (below + reached - 2 * limits[problem] - total) / (total - 1))


class _Slopes(torch.autograd.Function):
    """A function for the sake of vmap alone."""

    @staticmethod
    def forward(flat: Tensor, masses: Tensor | None, bounds: Tensor, what: str) -> Tensor:
        places, order = sort(flat, bounds, what)
        kernels = on(places.device)
        ends, _ = kernels.pool(places, None, bounds, 0.0)
        device = ends.device
        mass = None if masses is None else masses.to(device)[order.long()]
        reached = ends.double() if mass is None else mass.cumsum(0)[ends - 1]
        below = torch.cat([reached.new_zeros(1), reached[:-1]])[: len(reached)]
        if len(bounds) == 2:  # one problem, as most are: half of what many take, where weights are few
            total = reached[-1:]
            ranks = (below + reached - total) / (total - 1) if len(ends) > 1 else torch.zeros_like(reached)
        else:
            ranks = _ranks(below, reached, ends, bounds.to(device))
        out = torch.empty(flat.numel(), dtype=torch.float64, device=device)
        kernels.spread(ends, ranks, order, out, None)
        out = out.to(flat.device)
        return out if masses is None else out * masses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, ...]:
        return None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        flat, masses, bounds, what = args
        rows, masses, many = _stacked(info, in_dims, flat, masses, bounds)
        return slopes(rows, masses, many, what).view(info.batch_size, -1), 0
