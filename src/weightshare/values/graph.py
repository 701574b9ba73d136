"""Total variation on a graph: `argmin_z ½‖z − w‖² + step·Σ_{i>j} C_ij |z_i − z_j|` for scalars and sparse `C`.

In the grid: the proximal map of `R_C` where few pairs of values pull at each other, such as neighbours in a filter or
one position in several filters. A chain is the fused lasso.

How: the weights of a piece of the graph start as one, at their mean level. A minimum cut tells which of them lie above
that level; if none do, the piece stands there, otherwise it falls in two, between which every edge pulls with its
full weight, and so on. All pieces are cut by one maximum flow. The flows are the dual variables, from which comes the
duality gap (as in `convex`), so that what rounding capacities to integers costs is stated, not assumed.

Source: Shakerinava 2023, open questions (sparse `C`). Cutting by levels: Hochbaum 2001; Chambolle & Darbon 2009.
"""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
import numpy as np
import torch
from torch import Tensor

from weightshare.errors import ConfigError
from weightshare.values import check, coupling
from weightshare.values.convex import Clusters
from weightshare.values.groups import filters

UNITS = 2**30 - 1  # the greatest capacity: with what flows back it still fits 32 bits


def prox_graph(
    w: Tensor, edges: Int[Tensor, "2 edges"] | None, weights: Float[Tensor, " edges"] | Tensor | None, step: float
) -> Tensor:
    """Pull coupled weights together: `argmin_z ½‖z − w‖² + step·Σ_{i>j} C_ij |z_i − z_j|`.

    Each connected part keeps its mean. The cost is one maximum flow for each level of cuts, of which there are about
    `log n` unless levels are far apart. On one core: 0.3 to 2 s for an image of 100 000 weights, 11 s for a chain of as
    many that all become one.

    Args:
        w: Float tensor of any shape; the items are its numbers, flattened. Computed in float64, on the processor.
        edges: As for `group_penalty`; pairs of indices into the flattened `w`.
        weights: As for `group_penalty`: one number for each edge, or a symmetric (n, n) matrix if edges are `None`.
        step: Strength times learning rate; finite, at least 0.

    Returns:
        A new tensor like `w`, without gradient. Items that met are equal to the bit.

    Raises:
        SpecError: If `w` is no dense float tensor, or holds NaN or infinity; if an argument is out of its range.
        ConfigError: If scipy, which finds the flows, is not installed.

    Source: Shakerinava 2023, open questions: `R_C` with sparse `C`.
    Differs: Capacities are rounded to integers; `graph_clusters` returns what that costs at most.

    Example:
        >>> chain = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> prox_graph(torch.tensor([0.0, 1.0, 5.0, 6.0]), chain, None, step=0.5)
        tensor([0.5000, 1.0000, 5.0000, 5.5000])
    """
    return graph_clusters(w, edges, weights, step).z


def graph_clusters(
    w: Tensor, edges: Int[Tensor, "2 edges"] | None, weights: Float[Tensor, " edges"] | Tensor | None, step: float
) -> Clusters:
    """Pull coupled weights together, and say which ones met and how far that can be from the optimum.

    Args:
        w: As for `prox_graph`.
        edges: As for `prox_graph`.
        weights: As for `prox_graph`.
        step: As for `prox_graph`.

    Returns:
        `Clusters`. Labels are those of the flattened `w`: pieces of the graph that stand at one level. Two pieces that
        rounding has put at nearly one level keep their two labels. The gap is computed from the flows: each capacity
        is rounded by at most `2**-30` of the greatest in its cut. `iterations` counts the flows.

    Raises:
        SpecError: As `prox_graph`.
        ConfigError: As `prox_graph`.

    Example:
        >>> chain = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> found = graph_clusters(torch.tensor([0.0, 1.0, 5.0, 6.0]), chain, None, step=1.0)
        >>> found.labels, found.gap < 1e-15
        (tensor([0, 0, 1, 1]), True)
    """
    what = "prox_graph"
    step = check.strength(step, f"{what}'s step")
    flat = filters(check.tensor(w, what).detach().reshape(-1), what).reshape(-1).cpu().double().numpy()[: w.numel()]
    pairs = coupling.as_edges(flat.size, weights, edges, torch.device("cpu"), what)
    once = _once(pairs, flat.size, step)
    levels, pieces, duals, count = _cut(flat, once)
    z = torch.from_numpy(levels).to(w.device, w.dtype).view(w.shape)
    return Clusters(z, torch.from_numpy(pieces).to(w.device), _gap(flat, levels, once, duals), count)


class _Edges(NamedTuple):
    """Each coupled pair once."""

    one: np.ndarray  # (m) of int64
    other: np.ndarray  # (m) of int64
    pulls: np.ndarray  # (m), step times weight, positive


def _once(pairs: coupling.Edges, n: int, step: float) -> _Edges:
    one, other = torch.minimum(pairs.one, pairs.other), torch.maximum(pairs.one, pairs.other)
    keys, place = torch.unique(one * n + other, return_inverse=True)
    pulls = (step * torch.zeros(len(keys), dtype=torch.float64).index_add_(0, place, pairs.weights)).numpy()
    kept = pulls > 0
    return _Edges((keys // max(n, 1)).numpy()[kept], (keys % max(n, 1)).numpy()[kept], pulls[kept])


def _cut(w: np.ndarray, edges: _Edges) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The level and the piece of each node, the flow on each edge from one end to the other, and how often was cut."""
    csgraph, sparse = _scipy()
    n, count, named = w.size, 0, 0
    own, level, piece = w.copy(), w.copy(), np.zeros(n, np.int64)
    duals, alive, nodes = np.zeros(edges.pulls.size), np.arange(edges.pulls.size), np.arange(n)
    local = np.empty(n, np.int64)
    while nodes.size:
        local[nodes] = np.arange(nodes.size)
        one, other, pulls = local[edges.one[alive]], local[edges.other[alive]], edges.pulls[alive]
        graph = sparse.csr_array((np.ones(one.size, np.int8), (one, other)), shape=(nodes.size, nodes.size))
        parts, part = csgraph.connected_components(graph, directed=False)
        cut = _Cut(own[nodes], part, parts, one, other, pulls)
        flow, above, short = cut.solve(csgraph, sparse) if one.size else (pulls, part < 0, np.zeros(parts, np.int64))
        count += bool(one.size)
        stands = short <= cut.sizes  # short by no more than rounding is not short
        rests = stands[part]
        level[nodes[rests]], piece[nodes[rests]] = cut.levels[part[rests]], named + part[rests]
        named += parts
        # an edge of a piece that stands has its flow; one that is cut pulls with all it has; the others go on
        ends, crosses = rests[one], above[one] != above[other]
        sign = np.where(above[one], 1.0, -1.0)
        duals[alive] = np.where(ends, flow, np.where(crosses, sign * pulls, 0.0))
        torn = crosses & ~ends
        np.subtract.at(own, nodes[one[torn]], (sign * pulls)[torn])
        np.add.at(own, nodes[other[torn]], (sign * pulls)[torn])
        alive, nodes = alive[~ends & ~crosses], nodes[~rests]
    return level, _by_first(piece), duals, count


class _Cut:
    """One flow for all pieces: what lies above its piece's mean level feeds it, what lies below drains it."""

    def __init__(
        self, own: np.ndarray, part: np.ndarray, parts: int, one: np.ndarray, other: np.ndarray, pulls: np.ndarray
    ) -> None:
        self.part, self.parts, self.one, self.other, self.pulls = part, parts, one, other, pulls
        self.sizes = np.bincount(part, minlength=parts)
        base = np.empty(parts)
        base[part] = own  # of equal weights the mean is their value, to the bit
        self.levels = base + np.bincount(part, own - base[part], parts) / self.sizes
        self.excess = own - self.levels[part]

    def solve(self, csgraph: Any, sparse: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The flow on each edge, which nodes lie above their level, and what each piece's feeds are short of."""
        n, piece = self.part.size, self.part[self.one]
        fed = np.bincount(self.part, self.excess.clip(min=0), self.parts)
        pulls = np.minimum(self.pulls, fed[piece])  # no edge carries more than all there is
        unit = np.zeros(self.parts)
        np.maximum.at(unit, self.part, np.abs(self.excess))
        np.maximum.at(unit, piece, pulls)
        unit = np.where(unit > 0, unit, 1.0) / UNITS
        excess = np.rint(self.excess / unit[self.part]).astype(np.int32)
        capacity = np.rint(pulls / unit[piece]).astype(np.int32)
        up, down = np.flatnonzero(excess > 0), np.flatnonzero(excess < 0)
        start = np.concatenate([self.one, self.other, np.full(up.size, n), down])
        end = np.concatenate([self.other, self.one, up, np.full(down.size, n + 1)])
        values = np.concatenate([capacity, capacity, excess[up], -excess[down]])
        graph = sparse.csr_array((values, (start, end)), shape=(n + 2, n + 2))
        graph.indices, graph.indptr = graph.indices.astype(np.int32), graph.indptr.astype(np.int32)
        flow = csgraph.maximum_flow(graph, n, n + 1).flow
        residual = graph - flow
        residual.eliminate_zeros()
        above = np.zeros(n + 2, bool)
        above[csgraph.breadth_first_order(residual, n, return_predecessors=False)] = True
        flow.sort_indices()
        filled = flow.tocoo()
        keys = filled.row.astype(np.int64) * (n + 2) + filled.col
        sent = filled.data[np.searchsorted(keys, self.one * (n + 2) + self.other)] * unit[piece]
        got = np.zeros(n, np.int64)
        got[up] = filled.data[np.searchsorted(keys, n * (n + 2) + up)]
        short = np.zeros(self.parts, np.int64)
        np.add.at(short, self.part[up], excess[up] - got[up])
        return sent.clip(-self.pulls, self.pulls), above[:n], short


def _by_first(piece: np.ndarray) -> np.ndarray:
    """Pieces numbered from 0 by their first nodes."""
    _, first, place = np.unique(piece, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[place]


def _gap(w: np.ndarray, z: np.ndarray, edges: _Edges, duals: np.ndarray) -> float:
    """What the objective at `z` is above the dual objective, as a sum of what is at least 0."""
    missing = w - z
    np.subtract.at(missing, edges.one, duals)
    np.add.at(missing, edges.other, duals)
    apart = z[edges.one] - z[edges.other]
    return float(np.square(missing).sum() / 2 + (edges.pulls * np.abs(apart) - duals * apart).clip(min=0).sum())


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import sparse
        from scipy.sparse import csgraph
    except ImportError as error:
        raise ConfigError(
            f"prox_graph finds maximum flows with scipy ({error}): pip install 'weightshare[graph]'."
        ) from error
    return csgraph, sparse
