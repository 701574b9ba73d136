"""Rewinding in a regression, and least squares on known clusters."""

import math

import pytest
import torch

from tests.unit.values.test_solve import data
from weightshare.errors import SpecError
from weightshare.values.pairwise import pairwise_subgradient
from weightshare.values.refine import regress_clusters, regress_rewound
from weightshare.values.solve import regress_shared


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_without_rewinding_it_is_the_convex_answer(l1):
    x, y = data(41, 31)
    convex = regress_shared(x, y, 0.2, l1, tolerance=1e-12)
    w, labels, change = regress_rewound(x, y, 0.2, torch.zeros_like(x[0]), l1, 0.0, 1e-10, 5000)
    assert change <= 1e-10
    assert torch.allclose(w, convex.coefficients, rtol=0, atol=1e-5)
    assert torch.equal(labels, convex.labels)


@pytest.mark.parametrize("rewind", [0.5, 0.98, 1.0])
def test_at_rest_clusters_are_pulled_by_what_is_not_rewound(rewind):
    x, y = data(41, 31)
    start = regress_shared(x, y, 0.05).coefficients
    w, labels, change = regress_rewound(x, y, 0.5, start, rewind=rewind, tolerance=1e-10, max_iterations=5000)
    assert change <= 1e-10
    assert 1 < len(labels.unique()) < 20
    gradient = (x @ w - y) @ x / len(x)
    means = torch.stack([(gradient + (1 - rewind) * 0.5 * pairwise_subgradient(w))[labels == k].mean() for k in labels])
    assert float(means.abs().max()) < 1e-8


def test_rewound_to_the_end_it_is_a_refit():
    x, y = data(41, 31)
    start = regress_shared(x, y, 0.05).coefficients
    w, labels, _ = regress_rewound(x, y, 0.5, start, rewind=1.0, tolerance=1e-10, max_iterations=5000)
    assert torch.allclose(w, regress_clusters(x, y, labels), rtol=0, atol=1e-8)
    assert len(w.unique()) == len(labels.unique()) == int(labels.max()) + 1


def test_within_the_threshold_clusters_are_zero():
    x, y = data(41, 31)
    w, labels, _ = regress_rewound(x, y, 0.2, torch.zeros_like(x[0]), l1=0.5, rewind=0.98)
    zero = w == 0
    assert 3 < int(zero.sum()) < 31
    assert len(labels[zero].unique()) == 1
    assert bool((labels[w.argsort()].diff() >= 0).all())
    assert float(w[~zero].abs().min()) > 0.1


def test_narrow_types_keep_their_type():
    x, y = (tensor.float() for tensor in data(41, 31))
    w, labels, _ = regress_rewound(x, y, 0.5, torch.zeros(31))
    assert w.dtype == torch.float32
    assert len(w.unique()) == len(labels.unique())
    assert regress_clusters(x, y, labels).dtype == torch.float32


def test_known_clusters_are_found_exactly_without_noise():
    x, _ = data(11, 31)
    w = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)[torch.arange(31) % 3]
    found = regress_clusters(x, x @ w, 10 * (torch.arange(31) % 3) - 7)
    assert torch.allclose(found, w, rtol=0, atol=1e-12)
    zeros = torch.arange(31) % 3 == 0
    found = regress_clusters(x, x @ (w * ~zeros), torch.arange(31) % 3, zeros)
    assert torch.allclose(found, w * ~zeros, rtol=0, atol=1e-12)
    assert not found[zeros].any()


def test_every_coefficient_alone_is_least_squares():
    x, y = data(11, 31)
    found = regress_clusters(x, y, torch.arange(31))
    assert torch.allclose(found, torch.linalg.pinv(x) @ y, rtol=0, atol=1e-10)


X, Y, LABELS = torch.ones(3, 2), torch.ones(3), torch.arange(2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rewind": 1.5}, "taken back, from 0 to 1, got 1.5"),
        ({"rewind": math.nan}, "rewind needs"),
        ({"strength": -1.0}, "strength needs"),
        ({"start": torch.ones(3)}, r"shape \(2,\)"),
        ({"start": None}, "start needs a tensor, got NoneType"),
        ({"max_iterations": True}, "whole number"),
        ({"y": torch.ones(3, 1)}, r"y of shape \(n\), all"),
    ],
)
def test_what_cannot_be_rewound_is_refused(changed, message):
    with pytest.raises(SpecError, match=message):
        regress_rewound(**{"x": X, "y": Y, "strength": 0.1, "start": torch.zeros(2), **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.arange(3)}, r"needs 2 integer labels.*\(3,\)"),
        ({"labels": torch.zeros(2)}, "float32"),
        ({"zeros": torch.zeros(2)}, "zeros are 2 booleans, got torch.float32"),
        ({"y": torch.ones(3, 1)}, r"y of shape \(n\), all"),
        ({"x": X * math.nan}, "x holds NaN"),
    ],
)
def test_what_are_no_clusters_is_refused(changed, message):
    with pytest.raises(SpecError, match=message):
        regress_clusters(**{"x": X, "y": Y, "labels": LABELS, **changed})
