"""Groups of scalars: the proximal map of blocks, and the value of the general penalty in each of its forms."""

import math

import pytest
import torch

from tests.particles import each_kernel, weights  # noqa: F401
from tests.support import bits
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values.groups import group_penalty, prox_groups

pytestmark = pytest.mark.usefixtures("each_kernel")
W = torch.tensor([0.3, 0.1, 0.2])
ONE = torch.zeros(3, dtype=torch.int64)
NOT_WEIGHTS = {
    "integers": (torch.arange(3), "int64"),
    "complex": (W + 1j, "complex64"),
    "sparse": (W.to_sparse(), "sparse"),
    "meta": (W.to("meta"), "meta"),
    "list": ([0.3, 0.1, 0.2], "list"),
}


def labels_of(n: int, groups: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-1, groups, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "tied", "equal", "outlier"])
@pytest.mark.parametrize("groups", [1, 3, 13, 211])
def test_each_group_is_its_own_problem(kind, groups, dtype):
    w, labels = weights(kind, 101).to(dtype), labels_of(101, groups)
    z = prox_groups(w, labels, 0.05)
    alone = w.clone()
    for group in range(groups):
        alone[labels == group] = ws.prox_pairwise(w[labels == group], 0.05)
    assert torch.equal(z, alone)


def test_one_group_is_the_plain_map():
    w = weights("normal", 105).view(3, 5, 7)
    assert torch.equal(prox_groups(w, torch.full((3, 5, 7), 11), 0.05), ws.prox_pairwise(w, 0.05))


def test_rows_as_groups_are_the_batched_map():
    w = weights("normal", 105).view(5, 21)
    rows = torch.arange(5)[:, None].expand(5, 21)
    assert torch.equal(prox_groups(w, rows, 0.05), ws.prox_pairwise(w, 0.05, batch_dims=1))


def test_what_is_left_alone_stays_whatever_it_is():
    w = torch.tensor([0.0, math.nan, 1.0, -math.inf, -0.0])
    z = prox_groups(w, torch.tensor([0, -1, 0, -1, -1]), 0.25)
    assert torch.equal(z[[0, 2]], torch.tensor([0.25, 0.75]))
    assert bits(z[[1, 3, 4]]) == bits(w[[1, 3, 4]])


def test_empty_groups_and_groups_of_one():
    w = torch.tensor([0.0, 1.0, 5.0])
    z = prox_groups(w, torch.tensor([2**40, 2**40, 7]), 0.25)
    assert torch.equal(z, torch.tensor([0.25, 0.75, 5.0]))


@pytest.mark.parametrize("shape", [(0,), (), (3, 0)])
def test_nothing_to_meet(shape):
    w = torch.full(shape, 0.7)
    for label in (-1, 0):
        assert torch.equal(prox_groups(w, torch.full(shape, label), 1.0), w)
        assert float(group_penalty(w, torch.full(shape, label))) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    w, labels = weights("normal", 101).to(dtype), labels_of(101, 7)
    z = prox_groups(w, labels, 0.01)
    assert z.dtype == dtype
    assert torch.equal(z, prox_groups(w.float(), labels, 0.01).to(dtype))
    assert group_penalty(w, labels).dtype == torch.float32


def test_the_input_is_left_alone_whatever_its_strides():
    w, labels = weights("normal", 105).view(3, 5, 7).permute(2, 0, 1), labels_of(105, 5).view(7, 3, 5).int()
    before = w.clone()
    assert torch.equal(prox_groups(w, labels, 0.05), prox_groups(w.contiguous(), labels, 0.05))
    assert torch.equal(w, before)
    assert torch.equal(prox_groups(w, labels, 0), w)


def test_the_gradient_is_that_of_finite_differences():
    w, labels = weights("normal", 31).requires_grad_(), labels_of(31, 5)
    assert torch.autograd.gradcheck(lambda w: prox_groups(w, labels, 0.05), w)
    assert torch.autograd.gradgradcheck(lambda w: prox_groups(w, labels, 0.05), w)
    assert torch.equal(prox_groups(w, labels, 0.05), prox_groups(w.detach(), labels, 0.05))
    with torch.no_grad():
        assert not prox_groups(w, labels, 0.05).requires_grad


def test_the_penalty_of_groups_is_the_sum_of_theirs():
    for kind in ("normal", "tied", "equal"):
        w, labels = weights(kind, 101).requires_grad_(), labels_of(101, 7)
        together = group_penalty(w, labels)
        each = torch.stack([ws.pairwise_penalty(w[labels == group]) for group in range(7)]).sum()
        assert together.item() == pytest.approx(each.item(), rel=1e-13)
        slopes = [torch.autograd.grad(value, w)[0] for value in (together, each)]
        assert torch.allclose(*slopes, rtol=0, atol=1e-14)


def test_the_penalty_of_rows_has_a_gradient():
    w = weights("normal", 35).view(5, 7).requires_grad_()
    coupled = torch.ones(5, 5, dtype=torch.float64)
    edges = torch.tensor([[0, 1, 2], [3, 4, 0]])
    for value in (group_penalty, lambda w: group_penalty(w, weights=coupled), lambda w: group_penalty(w, edges=edges)):
        assert torch.autograd.gradcheck(value, w)
    equal = torch.ones(3, 2, requires_grad=True)
    group_penalty(equal).backward()
    assert torch.equal(equal.grad, torch.zeros(3, 2))


def test_all_forms_of_one_coupling_have_one_penalty():
    w = weights("normal", 35).view(5, 7)
    dense = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dense = dense + dense.T  # with a diagonal, which counts nothing
    one, other = torch.triu_indices(5, 5)
    values = [
        group_penalty(w, weights=dense),
        group_penalty(w, weights=dense.to_sparse()),
        group_penalty(w, weights=dense.to_sparse_coo().to_sparse()),
        group_penalty(w, weights=dense[one, other], edges=torch.stack([one, other])),
        group_penalty(w, weights=dense[one, other].repeat(2) / 2, edges=torch.stack([one, other]).flip(0).repeat(1, 2)),
    ]
    assert [float(v) for v in values] == pytest.approx([float(values[0])] * 5, rel=1e-13)
    everyone = torch.full((5, 5), 0.25, dtype=torch.float64)
    assert float(group_penalty(w)) == pytest.approx(float(group_penalty(w, weights=everyone)), rel=1e-13)


def test_a_penalty_of_scalars_is_the_pairwise_one():
    w = weights("normal", 13)
    assert torch.equal(group_penalty(w), ws.pairwise_penalty(w))
    written = group_penalty(w[:, None], weights=torch.full((13, 13), 1 / 12, dtype=torch.float64))
    assert float(written) == pytest.approx(float(ws.pairwise_penalty(w)), rel=1e-13)


@pytest.mark.parametrize("what", NOT_WEIGHTS)
def test_what_is_no_dense_float_tensor(what):
    w, named = NOT_WEIGHTS[what]
    for call in (lambda: prox_groups(w, ONE, 0.1), lambda: group_penalty(w), lambda: group_penalty(w, ONE)):
        with pytest.raises(SpecError, match=named):
            call()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite(value):
    w = torch.tensor([[0.3, value, 0.2]])
    for call in (prox_groups, group_penalty):
        with pytest.raises(SpecError, match="NaN or infinite"):
            call(w, ONE[None], *[0.1] * (call is prox_groups))
    with pytest.raises(SpecError, match="NaN or infinite"):
        group_penalty(w)


@pytest.mark.parametrize("step", [-1e-9, math.inf, math.nan, "much", None])
def test_a_step_that_is_no_strength(step):
    with pytest.raises(SpecError, match="finite number of at least 0"):
        prox_groups(W, ONE, step)


def test_labels_that_are_none():
    for labels, named in ((W, "float32"), (ONE > 0, "bool"), ([0, 0, 0], "list"), (ONE[:2], r"\(2,\)")):
        with pytest.raises(SpecError, match=named):
            prox_groups(W, labels, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpecError, match="got -2"):
        prox_groups(W, ONE - 2, 0.1)
    with pytest.raises(SpecError, match="one of them"):
        group_penalty(W, ONE, edges=torch.tensor([[0], [1]]))


E3 = torch.tensor([[0, 1], [1, 2]])
NOT_COUPLINGS = {
    "asymmetric": ({"weights": torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]])}, "symmetric"),
    "asymmetric sparse": ({"weights": torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]).to_sparse()}, "symmetric"),
    "negative": ({"weights": -torch.ones(3, 3)}, "at least 0"),
    "NaN": ({"weights": torch.full((3, 3), math.nan)}, "finite"),
    "NaN sparse": ({"weights": torch.full((3, 3), math.nan).to_sparse()}, "finite"),
    "not square": ({"weights": torch.ones(3)}, r"\(3, 3\), got \(3,\)"),
    "complex": ({"weights": torch.ones(3, 3) + 0j}, "complex"),
    "list": ({"weights": [[1.0]]}, "list"),
    "matrix with edges": ({"weights": torch.ones(3, 3), "edges": E3}, "without edges"),
    "too few": ({"weights": torch.ones(1), "edges": E3}, "2 edges"),
    "negative edge": ({"weights": torch.tensor([1.0, -1.0]), "edges": E3}, "at least 0"),
    "infinite edge": ({"weights": torch.tensor([1.0, math.inf]), "edges": E3}, "finite"),
    "out of range": ({"edges": E3 + 1}, "from 0 to 2"),
    "below zero": ({"edges": E3 - 1}, "from 0 to 2"),
    "turned": ({"edges": torch.zeros(3, 2, dtype=torch.int64)}, r"\(3, 2\)"),
    "floats": ({"edges": E3.float()}, "float32"),
    "no tensor": ({"edges": [[0], [1]]}, "list"),
}


@pytest.mark.parametrize("what", NOT_COUPLINGS)
def test_what_is_no_coupling(what):
    arguments, named = NOT_COUPLINGS[what]
    with pytest.raises(SpecError, match=named):
        group_penalty(W, **arguments)


def test_items_need_a_dimension():
    with pytest.raises(SpecError, match="single number"):
        group_penalty(torch.tensor(1.0))
