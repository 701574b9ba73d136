"""The penalty on layer similarity, as any optimizer sees it, and what it refuses."""

import pytest
import torch
from torch import nn

from tests.stepping import OPTIMIZERS
from tests.support import bits
import weightshare as ws
from weightshare.depth.lsm import layer_similarity, mean_similarity, mixtures
from weightshare.depth.regularise import SimilarityPenalty, penalty_gradient, similarity_penalty
from weightshare.errors import NoMatch, OptimizerMismatch, SpecError
from weightshare.values.proximal import Ramp


def network(layers: int = 5, templates: int = 3) -> nn.Module:
    torch.manual_seed(0)
    net = nn.ModuleDict({"deep": nn.Sequential(*(nn.Linear(7, 7) for _ in range(layers))), "head": nn.Linear(7, 2)})
    ws.share_(net, ws.Templates(templates), "deep")
    with torch.no_grad():  # away from orthogonal rows, where the penalty has its peaks
        coefficients(net).add_(0.2)
    return net


def coefficients(net: nn.Module) -> nn.Parameter:
    return next(iter(mixtures(net).values())).bank.coefficients


def loss(net: nn.Module, rows: int = 11) -> torch.Tensor:
    x = torch.randn(rows, 7, generator=torch.Generator().manual_seed(1))
    return net["head"](net["deep"](x)).square().mean()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_gradient_is_that_of_the_penalty_in_the_loss(kind):
    net, twin = network(), network()
    optimizer, plain = OPTIMIZERS[kind](net.parameters(), 0.05), OPTIMIZERS[kind](twin.parameters(), 0.05)
    handle = SimilarityPenalty(strength=0.3).attach_(optimizer, net)
    assert handle.paths == ("deep.0.weightshare_banks.deep_weight.coefficients",)
    for _ in range(3):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
        plain.zero_grad()
        (loss(twin) + 0.3 * similarity_penalty(twin)).backward()
        plain.step()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_a_fused_optimizer_that_unscales_gets_it_scaled():
    net, twin = network(), network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, fused=True, eps=1.0)
    plain = torch.optim.AdamW(twin.parameters(), lr=0.05, fused=True, eps=1.0)
    for one, model in ((optimizer, net), (plain, twin)):
        SimilarityPenalty(strength=0.3).attach_(one, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss(net)).backward()
    scaler.step(optimizer)
    loss(twin).backward()
    plain.step()
    torch.testing.assert_close(coefficients(net), coefficients(twin), rtol=0, atol=1e-6)


def test_layers_become_one():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    SimilarityPenalty(strength=1.0).attach_(optimizer, net)
    before = mean_similarity(layer_similarity(net))
    for _ in range(300):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
    assert before < 0.7
    assert mean_similarity(layer_similarity(net)) > 0.99


def test_rows_of_zeros_and_orthogonal_rows_are_not_pulled():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    assert penalty_gradient(rows)[1].tolist() == [0.0, 0.0]
    assert penalty_gradient(rows[:3]).abs().max() == 0
    net = network(templates=2)
    with torch.no_grad():
        coefficients(net).copy_(torch.cat([rows, rows[3:]]))
    value = similarity_penalty(net)
    value.backward()
    torch.testing.assert_close(coefficients(net).grad, penalty_gradient(coefficients(net).detach()))
    assert coefficients(net).grad.isfinite().all()
    assert 0 < value < 1


def test_lengths_stay():
    rows = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert (penalty_gradient(rows) * rows).sum(1).abs().max() < 1e-15


def test_a_schedule_scales_it_by_the_steps_done():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    SimilarityPenalty(strength=1.0, schedule=Ramp(0.0, 1.0, 2)).attach_(optimizer, net)
    moved = []
    for _ in range(4):
        before = coefficients(net).detach().clone()
        coefficients(net).grad = torch.zeros_like(before)
        optimizer.step()
        pulls = (coefficients(net).detach() - before) / -0.1
        moved.append((pulls.norm() / penalty_gradient(before).norm()).item())
    assert moved == pytest.approx([0.0, 0.5, 1.0, 1.0], abs=1e-4)


def test_where_names_layers_and_the_whole_group_is_pulled():
    torch.manual_seed(0)
    net = nn.ModuleDict({name: nn.Sequential(*(nn.Linear(5, 5) for _ in range(3))) for name in ("one", "two")})
    ws.share_(net, ws.Templates(2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with SimilarityPenalty(1.0).attach_(optimizer, net, where="two.1") as handle:
        assert handle.paths == ("two.0.weightshare_banks.two_weight.coefficients",)
    assert len(SimilarityPenalty(1.0).attach_(optimizer, net, where=nn.Linear).paths) == 2
    with pytest.raises(NoMatch, match="three"):
        SimilarityPenalty(1.0).attach_(optimizer, net, where="three")


def test_what_has_no_gradient_stays():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    SimilarityPenalty(1.0).attach_(optimizer, net)
    kept = bits(coefficients(net))
    net["head"](torch.ones(1, 7)).sum().backward()
    optimizer.step()
    assert bits(coefficients(net)) == kept


def test_what_is_refused():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for wrong in (-1.0, float("nan"), "x"):
        with pytest.raises(SpecError, match="strength"):
            SimilarityPenalty(wrong)
    with pytest.raises(SpecError, match="need a function of the step"):
        SimilarityPenalty(1.0, schedule=0.5)
    with pytest.raises(NoMatch, match="No layers of Linear mix templates"):
        SimilarityPenalty(1.0).attach_(optimizer, nn.Linear(2, 2))
    with pytest.raises(OptimizerMismatch, match="in no group of the optimizer"):
        SimilarityPenalty(1.0).attach_(torch.optim.SGD(net["head"].parameters(), lr=0.1), net)
    handle = SimilarityPenalty(1.0).attach_(optimizer, net)
    with pytest.raises(SpecError, match="has one already"):
        SimilarityPenalty(2.0).attach_(optimizer, net)
    handle.remove()
    coefficients(net).requires_grad_(False)
    with pytest.raises(SpecError, match="is frozen"):
        SimilarityPenalty(1.0).attach_(optimizer, net)
