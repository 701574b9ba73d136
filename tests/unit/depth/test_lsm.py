"""Which layers mix templates alike: groups by name, rows of zeros, sizes, and what is refused."""

from itertools import pairwise
import math

import pytest
import torch
from torch import nn

import weightshare as ws
from weightshare.depth.lsm import (
    layer_similarity,
    mean_similarity,
    mixtures,
    similarity_matrix,
    template_gram,
)
from weightshare.depth.measure import Similarity
from weightshare.errors import NoMatch, SpecError


def chain(*widths: int, templates: int = 2, init: str = "sparse") -> nn.Module:
    net = nn.Sequential(*(nn.Linear(one, two, bias=False) for one, two in pairwise(widths)))
    ws.share_(net, ws.Templates(templates, init=init, within="model"))
    return net


def test_groups_of_one_role_are_told_apart_by_shape():
    net = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(5, 5), nn.Linear(5, 5)])
    ws.share_(net, ws.Templates(2, within="model"))
    assert {name: mixture.layers for name, mixture in mixtures(net).items()} == {
        "*.weight 3×3": ("0.weight", "1.weight"),
        "*.weight 5×5": ("2.weight", "3.weight"),
    }


def test_a_part_that_was_shared_on_its_own_is_named_from_the_root():
    net = nn.ModuleDict({"inner": chain(3, 3, 3)})
    (name,) = layer_similarity(net)
    assert name == "inner.*.weight"
    assert layer_similarity(net)[name].rows == ("inner.0.weight", "inner.1.weight")
    assert mixtures(net)[name].site.path == "inner.0.weightshare_banks.weight.coefficients"


def test_a_compiled_model_is_read_by_its_own_names():
    net = chain(3, 3, 3)
    assert list(mixtures(torch.compile(net, backend="eager"))) == ["*.weight"]


def test_sparse_layers_are_one_template_each():
    (found,) = layer_similarity(chain(3, 3, 3, 3, 3, 3)).values()
    assert found.values.tolist() == [[float((i - j) % 2 == 0) for j in range(5)] for i in range(5)]


def test_a_row_of_zeros_has_no_direction():
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 4.0]])
    for found in (similarity_matrix(rows), similarity_matrix(rows, signed=True, gram=torch.eye(2))):
        assert [[math.isnan(value) for value in line] for line in found.tolist()] == [
            [False, True, False],
            [True, True, True],
            [False, True, False],
        ]
    named = ("a", "b", "c")
    assert mean_similarity({"x": Similarity("|cos|", named, named, similarity_matrix(rows))}) == pytest.approx(1 / 3)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_sizes_of_rows_do_not_matter(size):
    rows = torch.tensor([[3.0, 4.0], [4.0, -3.0], [6.0, 8.0]], dtype=torch.float64)
    scaled = rows * torch.tensor([[size], [1.0], [-1.0]], dtype=torch.float64)
    torch.testing.assert_close(similarity_matrix(scaled), similarity_matrix(rows), rtol=0, atol=1e-15)


def test_alike_templates_make_alike_weights_of_unlike_rows():
    net = chain(3, 3, 3)
    bank = next(iter(mixtures(net).values())).bank
    with torch.no_grad():
        bank.templates[1] = -2 * bank.templates[0]
    assert layer_similarity(net)["*.weight"].values[0, 1] == 0
    assert layer_similarity(net, signed=True, of="weights")["*.weight"].values[0, 1].item() == pytest.approx(-1)


def test_layers_of_several_widths_are_compared_with_those_of_their_shape():
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(3, 5), nn.Linear(7, 5), nn.Linear(3, 5), nn.Linear(7, 5)]).double()
    ws.share_(net, ws.Templates(2, within="model", across_widths=True))
    (found,) = layer_similarity(net, signed=True, of="weights").values()
    weights = [layer.weight.flatten() for layer in net]
    for i, j in ((0, 2), (1, 3)):
        wanted = torch.cosine_similarity(weights[i], weights[j], dim=0).item()
        assert found.values[i, j].item() == pytest.approx(wanted, abs=1e-12)
    assert found.values.isnan().sum() == 8
    assert not layer_similarity(net)["*.weight"].values.isnan().any()


def test_the_products_of_templates_do_not_depend_on_how_they_are_cut(monkeypatch):
    templates = torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(0))
    at_once = template_gram(templates)
    monkeypatch.setattr("weightshare.depth.nearest.CHUNK", 13)
    torch.testing.assert_close(template_gram(templates), at_once, rtol=0, atol=1e-12)


def test_what_is_refused():
    with pytest.raises(NoMatch, match="share them first"):
        layer_similarity(nn.Linear(2, 2))
    with pytest.raises(SpecError, match="need 'coefficients' or 'weights'"):
        layer_similarity(chain(3, 3, 3), of="templates")
    with pytest.raises(SpecError, match="on the meta device"):
        layer_similarity(chain(3, 3, 3).to("meta"))
