"""The price of merging, from small matrices, against the weights themselves."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from weightshare.depth.merge import BlockList, Role, agglomerate, cost, stored


def products(weights: Tensor, inputs: Tensor) -> Tensor:
    """`T_i[j, k] = ⟨X_i W_jᵀ, X_i W_kᵀ⟩ / ‖X_i W_iᵀ‖²`."""
    outputs = torch.einsum("irc,joc->ijro", inputs, weights).flatten(2)
    inner = outputs @ outputs.mT
    return inner / inner.diagonal(dim1=1, dim2=2).diagonal()[:, None, None]


def slow_cost(weights: Tensor, inputs: Tensor, cluster: list[int]) -> float:
    """`Σ_i ‖X_i (W̄ − W_i)ᵀ‖² / ‖X_i W_iᵀ‖²`."""
    average = weights[cluster].mean(0)
    terms = [((inputs[i] @ (average - weights[i]).T).norm() / (inputs[i] @ weights[i].T).norm()) ** 2 for i in cluster]
    return float(sum(terms))


def made(layers: int) -> tuple[Tensor, Tensor, Role]:
    torch.manual_seed(0)
    weights = torch.randn(layers, 3, 5, dtype=torch.float64)
    inputs = torch.randn(layers, 11, 5, dtype=torch.float64)
    return weights, inputs, Role(tuple(range(layers)), 15, products(weights, inputs))


def test_the_cost_of_every_cluster_is_that_of_its_mean() -> None:
    weights, inputs, role = made(5)
    for size in range(1, 6):
        for cluster in combinations(range(5), size):
            expected = slow_cost(weights, inputs, list(cluster))
            assert role.cost(frozenset(cluster)) == pytest.approx(expected, abs=1e-12)


def test_with_two_layers_left_to_merge_the_cheapest_pair_is() -> None:
    weights, inputs, role = made(7)
    one = BlockList("blocks", tuple(range(7)), (role,))
    found = agglomerate([one], 6 * 15)["blocks"]
    pairs = {pair: slow_cost(weights, inputs, list(pair)) for pair in combinations(range(7), 2)}
    assert max(found, key=len) == frozenset(min(pairs, key=lambda pair: pairs[pair]))
    runs = agglomerate([one], 6 * 15, runs=True)["blocks"]
    neighbours = {pair: price for pair, price in pairs.items() if pair[1] - pair[0] == 1}
    assert max(runs, key=len) == frozenset(min(neighbours, key=lambda pair: neighbours[pair]))


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_no_single_move_lowers_the_cost(slots: int) -> None:
    _, _, role = made(7)
    one = BlockList("blocks", tuple(range(7)), (role,))
    found = agglomerate([one], slots * 15)
    labels = one.labels(found["blocks"])
    assert stored([one], found) == slots * 15
    assert one.labels(one.clusters(labels)) == labels
    for place in range(7):
        for slot in range(slots):
            moved = {"blocks": one.clusters([slot if at == place else label for at, label in enumerate(labels)])}
            assert cost([one], moved) >= cost([one], found) - 1e-9 or stored([one], moved) < slots * 15


def test_what_shares_nothing_is_not_merged() -> None:
    """Blocks of two kinds in one list: even ones share among themselves, and so do odd ones."""
    _, _, role = made(3)
    one = BlockList("blocks", tuple(range(6)), (Role((0, 2, 4), 15, role.products), Role((1, 3, 5), 15, role.products)))
    found = agglomerate([one], 2 * 15)
    assert stored([one], found) == 2 * 15
    assert {frozenset({0, 2, 4}), frozenset({1, 3, 5})} == set(found["blocks"])


def test_the_list_that_saves_more_for_its_cost_merges_first() -> None:
    _, _, role = made(3)
    small, large = (
        BlockList("small", (0, 1, 2), (role,)),
        BlockList("large", (0, 1, 2), (Role((0, 1, 2), 150, role.products),)),
    )
    found = agglomerate([small, large], 3 * 15 + 2 * 150)
    assert (len(found["small"]), len(found["large"])) == (3, 2)
