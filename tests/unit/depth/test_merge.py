"""The price of merging, from small matrices, against the weights themselves."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from weightshare.depth.merge import LEAST_LEFT, BlockList, Roles, agglomerate, cost, stored


def products(weights: Tensor, inputs: Tensor) -> Tensor:
    """`T_i[j, k] = ⟨X_i W_jᵀ, X_i W_kᵀ⟩ / ‖X_i W_iᵀ‖²`."""
    outputs = torch.einsum("irc,joc->ijro", inputs, weights).flatten(2)
    inner = outputs @ outputs.mT
    return inner / inner.diagonal(dim1=1, dim2=2).diagonal()[:, None, None]


def slow_cost(weights: Tensor, inputs: Tensor, cluster: list[int]) -> float:
    """`Σ_i ‖X_i (W̄ − W_i)ᵀ‖² / (‖X_i W_iᵀ‖² cos²(X_i W̄ᵀ, X_i W_iᵀ))`."""
    average = weights[cluster].mean(0)
    total = 0.0
    for i in cluster:
        before, after = (inputs[i] @ weight.T for weight in (weights[i], average))
        kept = torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), dim=0).clamp_min(0) ** 2
        total += float((after - before).norm() ** 2 / before.norm() ** 2 / kept.clamp_min(LEAST_LEFT))
    return total


def made(layers: int) -> tuple[Tensor, Tensor, Roles]:
    torch.manual_seed(0)
    weights = torch.randn(layers, 3, 5, dtype=torch.float64)
    inputs = torch.randn(layers, 11, 5, dtype=torch.float64)
    return weights, inputs, roles(tuple(range(layers)), 15, products(weights, inputs))


def roles(members: tuple[int, ...], numbers: int, made: Tensor) -> Roles:
    ones = torch.ones(len(members), dtype=torch.float64)
    return Roles(members, numbers, ones[:1], made[None], ones)


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
    one = BlockList(
        "blocks", tuple(range(6)), (roles((0, 2, 4), 15, role.products[0]), roles((1, 3, 5), 15, role.products[0]))
    )
    found = agglomerate([one], 2 * 15)
    assert stored([one], found) == 2 * 15
    assert {frozenset({0, 2, 4}), frozenset({1, 3, 5})} == set(found["blocks"])


def test_the_list_whose_layers_are_nearer_merges_first() -> None:
    _, _, role = made(3)
    nearer = roles((0, 1, 2), 15, (role.products[0] + 19) / 20)
    lists = [BlockList("far", (0, 1, 2), (role,)), BlockList("near", (0, 1, 2), (nearer,))]
    assert {path: len(rows) for path, rows in agglomerate(lists, 4 * 15).items()} == {"far": 3, "near": 1}
    assert {path: len(rows) for path, rows in agglomerate(lists, 2 * 15).items()} == {"far": 1, "near": 1}


def test_the_list_that_saves_more_at_equal_cost_merges_first() -> None:
    _, _, role = made(3)
    lists = [BlockList("small", (0, 1, 2), (role,))]
    lists += [BlockList("large", (0, 1, 2), (roles((0, 1, 2), 150, role.products[0]),))]
    assert {path: len(rows) for path, rows in agglomerate(lists, 45 + 300).items()} == {"small": 3, "large": 2}


def test_layers_with_nothing_in_common_cost_what_they_bury() -> None:
    """Of `r` orthogonal layers each costs `r − 1`, so slots are filled evenly."""
    inner = torch.eye(6, dtype=torch.float64).expand(6, 6, 6)
    role = roles(tuple(range(6)), 7, inner)
    assert [role.cost(frozenset(range(r))) for r in (1, 2, 3, 6)] == pytest.approx([0, 2, 6, 30])
    found = agglomerate([BlockList("blocks", tuple(range(6)), (role,))], 3 * 7)["blocks"]
    assert sorted(map(len, found)) == [2, 2, 2]


def test_influence_and_shares_weigh_the_cost() -> None:
    weights, inputs, role = made(3)
    shares = torch.tensor([0.25, 2.75], dtype=torch.float64)
    two = Roles(role.members, 45, shares, role.products.expand(2, -1, -1, -1), role.influence)
    assert two.cost(frozenset({0, 1})) == pytest.approx(3 * role.cost(frozenset({0, 1})))
    heavy = Roles(role.members, 15, role.shares, role.products, torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64))
    other = Roles(role.members, 15, role.shares, role.products, torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64))
    one = slow_cost(weights, inputs, [0, 1])
    assert heavy.cost(frozenset({0, 1})) + other.cost(frozenset({0, 1})) == pytest.approx(2 * one)
