"""Savarese 2019: the layer similarity matrix and its regulariser, written naively in float64."""

from itertools import combinations
import math

import pytest
import torch
from torch import nn

import weightshare as ws
from weightshare.depth.lsm import layer_similarity, mixtures, similarity_matrix
from weightshare.depth.regularise import penalty_gradient, similarity_penalty


def mixed(layers: int = 7, templates: int = 3) -> nn.Module:
    """Layers that mix templates, with coefficients of any length and sign."""
    torch.manual_seed(layers)
    net = nn.Sequential(*(nn.Linear(5, 5) for _ in range(layers))).double()
    ws.share_(net, ws.Templates(templates))
    with torch.no_grad():
        next(iter(mixtures(net).values())).bank.coefficients.normal_(std=2.0)
    return net


def cosine(a: list[float], b: list[float]) -> float:
    """`aᵀb / (‖a‖ ‖b‖)`, number by number."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


@pytest.mark.parametrize("signed", [False, True])
def test_layer_similarity_matrix(signed: bool) -> None:
    """`LSM_ij = |cos(α_i, α_j)|`."""
    net = mixed()
    rows = next(iter(mixtures(net).values())).bank.coefficients.tolist()
    wanted = [[cosine(a, b) if signed else abs(cosine(a, b)) for b in rows] for a in rows]
    (found,) = layer_similarity(net, signed).values()
    torch.testing.assert_close(found.values, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("signed", [False, True])
def test_similarity_of_the_weights_that_are_made(signed: bool) -> None:
    """`cos(W_i, W_j)` from coefficients and the templates' products alone."""
    net = mixed()
    rows = [layer.weight.flatten().tolist() for layer in net if isinstance(layer, nn.Linear)]
    wanted = [[cosine(a, b) if signed else abs(cosine(a, b)) for b in rows] for a in rows]
    (found,) = layer_similarity(net, signed, of="weights").values()
    torch.testing.assert_close(found.values, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-13)


def test_complex_coefficients() -> None:
    """`|⟨a_i, a_j⟩| / (‖a_i‖ ‖a_j‖)`, which is 1 where one row is the other one turned by any phase."""
    torch.manual_seed(0)
    rows = torch.randn(3, 5, dtype=torch.complex128)
    rows[2] = rows[0] * torch.exp(torch.tensor(1.3j)) * 7
    found = similarity_matrix(rows)
    wanted = sum((x * y.conjugate() for x, y in zip(rows[0].tolist(), rows[1].tolist(), strict=True)), 0j)
    lengths = [math.sqrt(sum(abs(x) ** 2 for x in row)) for row in rows.tolist()]
    assert found[0, 1].item() == pytest.approx(abs(wanted) / lengths[0] / lengths[1])
    assert found[0, 2].item() == pytest.approx(1.0)
    assert similarity_matrix(rows, signed=True)[0, 1].item() == pytest.approx(wanted.real / lengths[0] / lengths[1])


def test_penalty() -> None:
    """`Σ_groups mean_{i<j} (1 − LSM_ij)`."""
    net = nn.ModuleList([mixed(7), mixed(2, templates=2)])
    terms = []
    for mixture in mixtures(net).values():
        rows = mixture.bank.coefficients.tolist()
        pairs = [1 - abs(cosine(a, b)) for a, b in combinations(rows, 2)]
        terms.append(sum(pairs) / len(pairs))
    assert len(terms) == 2
    assert similarity_penalty(net).item() == pytest.approx(sum(terms), abs=1e-14)


@pytest.mark.parametrize(("layers", "templates"), [(2, 2), (7, 3), (5, 11), (3, 1)])
def test_gradient_of_the_penalty(layers: int, templates: int) -> None:
    """In closed form, by autograd, and by differences of the formula."""
    net = mixed(layers, templates)
    coefficients = next(iter(mixtures(net).values())).bank.coefficients
    similarity_penalty(net).backward()
    closed = penalty_gradient(coefficients.detach())
    torch.testing.assert_close(closed, coefficients.grad, rtol=0, atol=1e-14)
    step, differences = 1e-6, torch.empty_like(coefficients)
    with torch.no_grad():
        for layer in range(layers):
            for template in range(templates):
                coefficients[layer, template] += step
                above = similarity_penalty(net)
                coefficients[layer, template] -= 2 * step
                below = similarity_penalty(net)
                coefficients[layer, template] += step
                differences[layer, template] = (above - below) / (2 * step)
    torch.testing.assert_close(closed, differences, rtol=0, atol=1e-8)
