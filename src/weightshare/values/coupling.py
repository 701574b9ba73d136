"""Couplings: which items of one tensor pull at each other, and how hard, as the symmetric `C ≥ 0` of `R_C`.

`R_C(w) = Σ_{i>j} C_ij ‖w_i − w_j‖`, where an item is a scalar or a whole filter. `C` comes in one of three forms: as
`None` for all pairs with `1/(n − 1)`, which makes `R_C` of scalars `R`; as a symmetric (n, n) matrix, dense or sparse;
or as a list of edges with a weight for each. What an item would do to itself is 0 whatever its weight, so the diagonal
and edges from an item to itself are left out.

Source: Shakerinava 2023, the general penalty among the open questions. The forms are ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from weightshare.errors import SpecError
from weightshare.values import check


class Edges(NamedTuple):
    """Pairs of different items that pull at each other; a pair may come more than once, its weights then add up."""

    one: Tensor  # (m) of int64
    other: Tensor  # (m) of int64
    weights: Tensor  # (m) of float64, positive


def as_edges(n: int, weights: Tensor | None, edges: Tensor | None, device: torch.device, what: str) -> Edges:
    """The couplings of `n` items as a list of pairs; `SpecError` if they are none."""
    if edges is None and weights is None:
        one, other = torch.triu_indices(n, n, 1, device=device)
        return Edges(one, other, torch.full((len(one),), 1 / max(n - 1, 1), dtype=torch.float64, device=device))
    if edges is None:
        one, other, numbers = _of_matrix(n, weights, device, what)
    else:
        one, other = _ends(n, edges, device, what)
        numbers = _weights(torch.ones(len(one)) if weights is None else weights, device, what)
        if numbers.shape != one.shape:
            raise SpecError(
                f"{what} needs one weight for each edge, got shape {tuple(numbers.shape)} for {len(one)} edges. A "
                "matrix of weights comes without edges."
            )
    if not bool((numbers.isfinite() & (numbers >= 0)).all()):
        raise SpecError(f"{what}: weights between items have to be finite and at least 0; nothing may push apart.")
    kept = (numbers > 0) & (one != other)
    return Edges(one[kept], other[kept], numbers[kept])


def as_matrix(n: int, weights: Tensor | None, edges: Tensor | None, device: torch.device, what: str) -> Tensor:
    """The couplings of `n` items as a symmetric matrix, (n, n) of float64 with 0 on its diagonal."""
    if edges is None and weights is None:
        return torch.full((n, n), 1 / max(n - 1, 1), dtype=torch.float64, device=device).fill_diagonal_(0)
    one, other, numbers = as_edges(n, weights, edges, device, what)
    filled = torch.zeros(n, n, dtype=torch.float64, device=device)
    filled.index_put_((one, other), numbers, accumulate=True)
    return filled + filled.T


def components(n: int, one: Tensor, other: Tensor) -> Tensor:
    """Which connected part of a graph each of its `n` nodes is in: (n) of int64, numbered by their first nodes."""
    labels = torch.arange(n, device=one.device)
    while True:
        least = torch.minimum(labels[one], labels[other])
        after = labels.scatter_reduce(0, one, least, "amin").scatter_reduce(0, other, least, "amin")
        after = after.scatter_reduce(0, labels, after, "amin")  # roots too, so that long chains close up fast
        after = after[after]
        if torch.equal(after, labels):
            return torch.unique(labels, return_inverse=True)[1]
        labels = after


def _weights(weights: object, device: torch.device, what: str) -> Tensor:
    """As float64; integers and Booleans are welcome here."""
    wide = weights.double() if isinstance(weights, Tensor) and not weights.is_complex() else weights
    return check.tensor(wide, f"{what}'s weights").detach().to(device)


def _ends(n: int, edges: object, device: torch.device, what: str) -> tuple[Tensor, Tensor]:
    if not isinstance(edges, Tensor) or edges.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        got = edges.dtype if isinstance(edges, Tensor) else type(edges).__name__
        raise SpecError(f"{what}: edges are a tensor of integers, (2, edges), got {got}.")
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise SpecError(f"{what}: edges have shape (2, edges), one column for each pair, got {tuple(edges.shape)}.")
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= n):
        raise SpecError(
            f"{what}: edges name items from 0 to {n - 1}, got {int(edges.min())} to {int(edges.max())}: count from 0."
        )
    one, other = edges.to(device, torch.int64)
    return one, other


def _of_matrix(n: int, weights: object, device: torch.device, what: str) -> Edges:
    if isinstance(weights, Tensor) and weights.shape != (n, n):
        raise SpecError(f"{what}: weights between {n} items have shape ({n}, {n}), got {tuple(weights.shape)}.")
    if isinstance(weights, Tensor) and weights.layout != torch.strided and not weights.is_complex():
        sparse = weights.detach().to_sparse_coo().double().coalesce()
        (one, other), numbers = sparse.indices(), sparse.values()
        one, other, numbers = one[numbers != 0], other[numbers != 0], numbers[numbers != 0]
    else:
        dense = _weights(weights, device, what)
        one, other = dense.nonzero().unbind(1)
        numbers = dense[one, other]
    turned = torch.argsort(other * n + one)  # pairs come in the order of one * n + other
    same = torch.equal(one, other[turned]) and torch.equal(other, one[turned]) and torch.equal(numbers, numbers[turned])
    same = same or not bool(numbers.isfinite().all())  # which is refused for what it is
    if not same:
        raise SpecError(f"{what}: weights between items have to be symmetric, to the bit; take (C + C.T) / 2.")
    upper = one <= other
    return Edges(one[upper].to(device), other[upper].to(device), numbers[upper].to(device))
