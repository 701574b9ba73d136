"""What comes in wrong is refused with a reason, and nothing is changed."""

import math

import pytest
import torch

import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values.collisions import end_collisions, imminent_collisions, search_collisions
from weightshare.values.pairwise import pairwise_conjugate, pairwise_subgradient, subdifferential_distance
from weightshare.values.prox import prox_clusters, prox_path

W = torch.tensor([0.3, 0.1, 0.2])
MAPS = {
    "exact": ws.prox_pairwise,
    "clusters": prox_clusters,
    "binned": ws.prox_pairwise_binned,
    "path": lambda w, step: prox_path(w, [step]),
    "end": end_collisions,
    "imminent": imminent_collisions,
    "search": search_collisions,
}
ALL = MAPS | {
    "penalty": lambda w, step: ws.pairwise_penalty(w),
    "subgradient": lambda w, step: pairwise_subgradient(w),
    "distance": lambda w, step: subdifferential_distance(w, W),
}
NOT_WEIGHTS = {
    "integers": (torch.arange(3), "int64"),
    "complex": (W + 1j, "complex64"),
    "bool": (W > 0.2, "bool"),
    "sparse": (W.to_sparse(), "sparse"),
    "meta": (W.to("meta"), "meta"),
    "list": (3.0, "float"),
}


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("what", NOT_WEIGHTS)
def test_what_is_no_dense_float_tensor(function, what):
    w, named = NOT_WEIGHTS[what]
    with pytest.raises(SpecError, match=named):
        ALL[function](w, 0.1)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_weight_that_is_not_finite(function, value, dtype):
    with pytest.raises(SpecError, match="NaN or infinite"):
        ALL[function](torch.tensor([0.3, value, 0.2], dtype=dtype), 0.1)


@pytest.mark.parametrize("function", [ws.prox_pairwise, ws.pairwise_penalty])
@pytest.mark.parametrize("row", range(3))
def test_a_weight_that_is_not_finite_in_one_row(function, row):
    w = torch.ones(3, 5)
    w[row, 2] = math.nan
    arguments = (w, 0.1)[: 1 + (function is ws.prox_pairwise)]
    with pytest.raises(SpecError, match="NaN or infinite"):
        function(*arguments, batch_dims=1)


@pytest.mark.parametrize("function", MAPS)
@pytest.mark.parametrize("step", [-1e-9, -math.inf, math.inf, math.nan, "much", None, torch.ones(2), 10**400])
def test_a_step_that_is_no_strength(function, step):
    with pytest.raises(SpecError, match="finite number of at least 0"):
        MAPS[function](W, step)


@pytest.mark.parametrize("dims", [-1, 2, True, 1.0])
def test_batch_dims_that_the_tensor_has_not(dims):
    with pytest.raises(SpecError, match=r"from 0 to 1 for shape \(3,\)"):
        ws.prox_pairwise(W, 0.1, batch_dims=dims)


@pytest.mark.parametrize("masses", [[1.0, 0.0, 1.0], [1.0, -1.0, 3.0], [1.0, math.nan, 1.0], [1.0, math.inf, 1.0]])
def test_masses_that_are_none(masses):
    with pytest.raises(SpecError, match="finite and positive"):
        ws.prox_pairwise(W, 0.1, torch.tensor(masses))


def test_masses_of_another_shape_or_kind():
    with pytest.raises(SpecError, match=r"shape \(2,\) do not fit \(3,\)"):
        ws.prox_pairwise(W, 0.1, torch.ones(2))
    with pytest.raises(SpecError, match="list"):
        ws.pairwise_penalty(W, [1, 2, 3])  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpecError, match="complex"):
        ws.pairwise_penalty(W, W + 1j)


def test_the_function_that_was_called_is_named():
    bad, light = torch.tensor([0.1, math.nan]), torch.full((3,), 0.2)
    for call, name in {
        (lambda: ws.prox_pairwise(bad, 0.1)): "prox_pairwise",
        (lambda: ws.prox_pairwise(W, 0.1, light)): "prox_pairwise",
        (lambda: ws.prox_pairwise(W, 0.1, -light)): "prox_pairwise",
        (lambda: ws.prox_pairwise(W, -0.1)): "prox_pairwise",
        (lambda: ws.pairwise_penalty(bad)): "pairwise_penalty",
        (lambda: ws.pairwise_penalty(W, light)): "pairwise_penalty",
        (lambda: ws.pairwise_penalty(3)): "pairwise_penalty",
        (lambda: pairwise_subgradient(bad)): "pairwise_subgradient",
        (lambda: pairwise_conjugate(W, tolerance=-1.0)): "pairwise_conjugate",
        (lambda: pairwise_conjugate(W, -light)): "pairwise_conjugate",
        (lambda: subdifferential_distance(bad, bad)): "subdifferential_distance",
        (lambda: prox_path(bad, [0.1])): "prox_path",
        (lambda: prox_path(W, [0.2, 0.1])): "prox_path",
    }.items():
        with pytest.raises(SpecError, match=rf"\b{name}\b"):
            call()


def test_masses_too_light_for_a_pace():
    with pytest.raises(SpecError, match="more than 1"):
        ws.prox_pairwise(W, 0.1, torch.full((3,), 0.2))
    with pytest.raises(SpecError, match=r"pairwise_conjugate: the masses .* more than 1"):
        pairwise_conjugate(W, torch.full((3,), 0.2))
    assert torch.equal(ws.prox_pairwise(W[:1], 0.1, torch.tensor([0.2])), W[:1])


def test_a_list_of_unequal_kinds():
    with pytest.raises(SpecError, match="one dtype and one device"):
        ws.prox_pairwise([W, W.double()], 0.1)
    with pytest.raises(SpecError, match="2 tensors, but masses for 1"):
        ws.prox_pairwise([W, W], 0.1, [W])


def test_a_path_that_goes_down():
    with pytest.raises(SpecError, match="weak to strong"):
        prox_path(W, [0.2, 0.1])


@pytest.mark.parametrize("bins", [1, 0, -3, 2**20 + 1, 3.0, True])
def test_bins_out_of_range(bins):
    with pytest.raises(SpecError, match="from 2 to 1048576 bins"):
        ws.prox_pairwise_binned(W, 0.1, bins)


def test_out_that_does_not_fit():
    for out in (torch.empty(2), torch.empty(3, dtype=torch.float64)):
        with pytest.raises(SpecError, match="out has to be like w"):
            ws.prox_pairwise_binned(W, 0.1, out=out)
    with pytest.raises(SpecError, match="contiguous"):
        ws.prox_pairwise_binned(W, 0.1, out=torch.empty(6)[::2])


@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (0.0, 5e-324)])
def test_a_range_that_cannot_be_cut(ends):
    with pytest.raises(SpecError, match="Call prox_pairwise"):
        ws.prox_pairwise_binned(torch.tensor(ends, dtype=torch.float64), 0.1)


def test_two_shapes():
    with pytest.raises(SpecError, match="one shape"):
        subdifferential_distance(W, torch.ones(2))


def test_a_tolerance_below_zero():
    with pytest.raises(SpecError, match="tolerance"):
        pairwise_conjugate(W, tolerance=-1.0)
