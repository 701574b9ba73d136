"""The subgradient of the penalty and β-lasso, as any optimizer sees them."""

import functools

import pytest
import torch

from tests.stepping import OPTIMIZERS, network, step
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values.baselines import BetaLasso, Subgradient


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    return OPTIMIZERS[request.param]


def test_the_subgradient_is_added_to_the_gradient(make):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), 0.05), make(twin.parameters(), 0.05)
    handle = Subgradient(strength=0.3).attach_(optimizer, model, where="0.weight")
    step(model, optimizer)
    plain.zero_grad()
    generator = torch.Generator().manual_seed(0)
    loss = twin(torch.randn(11, 5, generator=generator)).square().mean()
    (loss + 0.3 * ws.pairwise_penalty(twin[0].weight)).backward()
    plain.step()
    assert torch.allclose(model[0].weight, twin[0].weight, rtol=0, atol=1e-6)
    assert handle.measure()["0.weight"]["distinct"] == 35


def test_the_subgradient_is_scaled_where_a_fused_optimizer_unscales():
    model, twin = network(), network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True, eps=1.0)
    plain = torch.optim.AdamW(twin.parameters(), lr=0.05, fused=True, eps=1.0)
    for one, net in ((optimizer, model), (plain, twin)):
        Subgradient(strength=0.3).attach_(one, net, where="0.weight")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(11, 5, generator=generator)
    scaler.scale(model(batch).square().mean()).backward()
    scaler.step(optimizer)
    twin(batch).square().mean().backward()
    plain.step()
    assert torch.allclose(model[0].weight, twin[0].weight, rtol=0, atol=1e-6)


def test_beta_lasso():
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = BetaLasso(strength=0.01, beta=20.0).attach_(optimizer, model, where="0.weight")
    model(torch.ones(2, 5)).sum().backward()
    twin(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    w = twin[0].weight.detach()
    moved = w - 0.1 * (twin[0].weight.grad + 0.01 * w.sign())
    wanted = torch.where(moved.abs() < 0.2, 0.0, moved)
    assert torch.allclose(model[0].weight, wanted, rtol=0, atol=1e-7)
    row = handle.measure()["0.weight"]
    assert row["zero"] == int((wanted == 0).sum()) > 0
    assert row["distinct"] == len(wanted.unique())


@pytest.mark.parametrize("wrong", [-1.0, float("inf"), "x"])
def test_baselines_refuse_a_strength_out_of_range(wrong):
    for make in (lambda: Subgradient(wrong), lambda: BetaLasso(wrong), lambda: BetaLasso(1.0, beta=wrong)):
        with pytest.raises(SpecError):
            make()


@pytest.mark.parametrize("kind", [torch.optim.SGD, functools.partial(torch.optim.LBFGS, max_iter=2)])
def test_baselines_add_to_the_gradient_of_a_closure(kind):
    model, twin = network(), network()
    batch = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    optimizer, plain = kind(model.parameters(), lr=0.05), kind(twin.parameters(), lr=0.05)
    Subgradient(0.3).attach_(optimizer, model, where="0.weight")

    def closure():
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        return loss

    def by_hand():
        plain.zero_grad()
        loss = twin(batch).square().mean()
        (loss + 0.3 * ws.pairwise_penalty(twin[0].weight)).backward()
        return loss.detach()

    for _ in range(2):
        optimizer.step(closure)
        plain.step(by_hand)
    assert torch.allclose(model[0].weight, twin[0].weight, rtol=0, atol=1e-6)
