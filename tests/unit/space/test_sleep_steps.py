"""When layers sleep: after steps of any optimizer, on schedule, and on from where they were."""

import copy
import json

import pytest
import torch
from torch import nn

from tests.support import bits
from weightshare.errors import SpecError
from weightshare.space.lattice import Lattice
from weightshare.space.local import LocallyConnected1d
from weightshare.space.plasticity import Hebbian
from weightshare.space.sleep import Sleep, pull_


def net():
    torch.manual_seed(0)
    first = LocallyConnected1d(2, 3, 3, 23, bias="position")
    nn.init.normal_(first.bias)
    return nn.Sequential(first, nn.Tanh(), LocallyConnected1d(3, 5, 2, 21), nn.Flatten(), nn.Linear(100, 7))


X = torch.randn(11, 2, 23, generator=torch.Generator().manual_seed(2))


def step(model, optimizer):
    optimizer.zero_grad()
    model(X).square().mean().backward()
    optimizer.step()


def asleep(model):
    """Whether its first layer has just slept: later positions of a class are equal."""
    return torch.equal(model[0].weight[0], model[0].weight[3]) and torch.equal(model[0].bias[0], model[0].bias[3])


@pytest.mark.parametrize("every", [1, 4, 10])
def test_the_first_step_of_an_epoch_is_followed_by_a_sleep(every):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = Sleep(every=every).attach_(optimizer, model)
    slept = []
    for number in range(1, 26):
        step(model, optimizer)
        slept.extend([number] * asleep(model))
    assert slept == list(range(1, 26, every))
    assert (handle.sleeps, handle.steps, handle.in_epoch) == (len(slept), 25, 25)
    handle.epoch_ended()
    step(model, optimizer)
    assert asleep(model)
    assert (handle.in_epoch, handle.epochs) == (1, 1)


def test_or_it_sleeps_after_epochs():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = Sleep(every=2, unit="epoch").attach_(optimizer, model)
    slept = []
    for _ in range(5):
        for _ in range(3):
            step(model, optimizer)
            assert not asleep(model)
        handle.epoch_ended()
        slept.append(asleep(model))
    assert slept == [False, True, False, True, False]
    assert handle.sleeps == 2


@pytest.mark.parametrize("mode", ["instant", "hebbian", Hebbian(noise=0.1, iterations=3)])
def test_it_goes_on_where_its_state_was_taken(mode):
    spec = Sleep(every=3, mode=mode)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = spec.attach_(optimizer, model)
    for _ in range(5):
        step(model, optimizer)
    kept = json.loads(json.dumps(handle.state_dict()))
    twin = copy.deepcopy(model)
    other = torch.optim.SGD(twin.parameters(), lr=0.1)
    resumed = spec.attach_(other, twin)
    resumed.load_state_dict(kept)
    for _ in range(5):
        step(model, optimizer)
        step(twin, other)
    assert [bits(one) for one in model.parameters()] == [bits(one) for one in twin.parameters()]
    assert resumed.state_dict() == handle.state_dict()


@pytest.mark.parametrize(
    "change", [{"sleeps": -1}, {"in_epoch": None}, {"epochs": 1.5}, {"spec": "Sleep()"}, {"paths": []}, {"more": 1}]
)
def test_a_state_that_does_not_fit_changes_nothing(change):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = Sleep().attach_(optimizer, model)
    step(model, optimizer)
    kept = handle.state_dict()
    with pytest.raises(SpecError, match=r"state of a hook"):
        handle.load_state_dict(kept | change)
    assert handle.state_dict() == kept


class Feedback(torch.optim.Optimizer):
    """A rule that never looks at a gradient: everything moves by a fixed random direction."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for one in group["params"]:
                one.add_(
                    torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel())), alpha=group["lr"]
                )


class Twice(torch.optim.SGD):
    """Calls the step of its parent, which has hooks too."""

    def step(self, closure=None):
        return super().step(closure)


class Wrapper:
    """Holds an optimizer, as Fabric's and Accelerate's do."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()

    def zero_grad(self):
        self.optimizer.zero_grad()


OPTIMIZERS = {
    "a rule of its own": lambda params: Feedback(params, lr=0.1),
    "nested": lambda params: Twice(params, lr=0.1),
    "wrapped twice": lambda params: Wrapper(Wrapper(torch.optim.SGD(params, lr=0.1))),
    "fused": lambda params: torch.optim.AdamW(params, lr=0.1, fused=True),
    "tensor lr": lambda params: torch.optim.Adam(params, lr=torch.tensor(0.1), foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_the_step_of_any_optimizer(name):
    model, twin = net(), net()
    optimizer, plain = OPTIMIZERS[name](list(model.parameters())), OPTIMIZERS[name](list(twin.parameters()))
    handle = Sleep(every=2).attach_(optimizer, model)
    for _ in range(3):
        for one, other in ((model, optimizer), (twin, plain)):
            one.zero_grad()
            one(X).square().mean().backward()
            other.step()
        pulled = handle.steps % 2 == 1
        for layer in (twin[0], twin[2]):
            pull_(layer, Lattice(), float(pulled))
    assert (handle.steps, handle.sleeps) == (3, 2)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert asleep(model)


def test_without_any_backward_pass():
    model = net()
    optimizer = Feedback(model.parameters(), lr=0.1)
    Sleep(every=1).attach_(optimizer, model)
    optimizer.step()
    assert asleep(model)
    assert all(one.grad is None for one in model.parameters())


def test_a_step_with_a_closure_is_one_step():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    handle = Sleep(every=1).attach_(optimizer, model)

    def closure():
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (handle.steps, handle.sleeps) == (1, 1)
    assert asleep(model)


@pytest.mark.parametrize("fused", [True, False])
def test_an_overflow_of_mixed_precision_is_no_step(fused):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    handle = Sleep(every=1).attach_(optimizer, model)
    before = [bits(one) for one in model.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    scaler.scale(model(X).square().mean() * 1e30).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (handle.steps, [bits(one) for one in model.parameters()]) == (0, before)
    step(model, optimizer)
    assert (handle.steps, asleep(model)) == (1, True)


def test_moments_of_the_optimizer_are_left_alone():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    step(model, optimizer)
    handle = Sleep().attach_(optimizer, model)
    moments = bits(optimizer.state[model[0].weight]["exp_avg"])
    handle.now()
    assert asleep(model)
    assert bits(optimizer.state[model[0].weight]["exp_avg"]) == moments


def test_gradients_through_a_weight_that_slept_are_refused_by_torch():
    model = net()
    loss = model(X).square().mean()
    Sleep().now_(model)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        loss.backward()


def test_removed_it_sleeps_no_more():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Sleep(every=1).attach_(optimizer, model) as handle:
        step(model, optimizer)
    step(model, optimizer)
    assert not asleep(model)
    handle.remove()
    assert handle.sleeps == 1
    assert not optimizer._optimizer_step_post_hooks
