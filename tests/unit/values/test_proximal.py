"""`Proximal` in a training loop: it is the map after the step, for any optimizer, and it keeps what it counts."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softshrink

from tests.particles import exact
from tests.stepping import OPTIMIZERS, network, step
from tests.support import bits
import weightshare as ws
from weightshare.errors import SpecError
from weightshare.values import proximal
from weightshare.values.proximal import Ramp


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    return OPTIMIZERS[request.param]


@pytest.fixture(params=[False, True], ids=["exact", "sort-free"])
def _either_map(request, monkeypatch):
    monkeypatch.setattr(proximal, "SORT_FREE_FROM", 1 if request.param else 1 << 62)


@pytest.mark.usefixtures("_either_map")
def test_a_step_is_the_optimizers_step_and_then_the_map(make):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), 0.05), make(twin.parameters(), 0.05)
    handle = ws.Proximal(strength=0.3).attach_(optimizer, model, where="0.weight")
    for seed in range(3):
        step(model, optimizer, seed)
        step(twin, plain, seed)
        with torch.no_grad():
            twin[0].weight.copy_(exact(twin[0].weight, 0.05 * 0.3))
    assert torch.allclose(model[0].weight, twin[0].weight, rtol=0, atol=1e-4)
    assert torch.allclose(model[3].weight, twin[3].weight, rtol=0, atol=1e-4)
    assert handle.steps == 3


def test_every_group_has_its_own_learning_rate_and_schedule():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": [*model[1].parameters(), *model[3].parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    handle = ws.Proximal(strength=0.2).attach_(optimizer, model)
    assert handle.paths == ("0.weight", "3.weight")
    assert handle.lrs == [0.5, 0.1]
    for factor in (1.0, 0.1):
        before = [exact(model[at].weight, lr * factor * 0.2) for at, lr in ((0, 0.5), (3, 0.1))]
        optimizer.step()  # no gradients: the map alone
        schedule.step()
        for at, wanted in zip((0, 3), before, strict=True):
            assert torch.allclose(model[at].weight.double(), wanted, rtol=0, atol=1e-6)


def test_every_k_steps_it_applies_the_sum():
    model, twin = network(), network()
    optimizer, other = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, twin))
    ws.Proximal(strength=0.2, every=3).attach_(optimizer, model)
    once = ws.Proximal(strength=0.2).attach_(other, twin)
    start = bits(model[0].weight)
    for number in range(1, 4):
        assert bits(model[0].weight) == start
        optimizer.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.1 * number
        optimizer.step()
        other.step()
    assert bits(model[0].weight) != start
    assert torch.allclose(model[0].weight, twin[0].weight, rtol=0, atol=1e-6)  # steps compose
    once.remove()
    kept = bits(twin[0].weight)
    other.step()
    once.remove()
    assert bits(twin[0].weight) == kept


def test_now_applies_what_waits_and_nothing_twice():
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(strength=0.2, every=10).attach_(optimizer, model, where="0.weight")
    optimizer.step()
    optimizer.step()
    handle.now()
    assert torch.allclose(model[0].weight.double(), exact(twin[0].weight, 2 * 0.1 * 0.2), rtol=0, atol=1e-6)
    kept = bits(model[0].weight)
    handle.now()
    assert bits(model[0].weight) == kept


def test_the_threshold_with_and_without_the_learning_rate():
    for per_step, threshold in ((True, 0.1 * 0.3), (False, 0.3)):
        model, twin = network(), network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ws.Proximal(strength=0.5, l1=0.3, l1_per_step=per_step).attach_(optimizer, model, where="0.weight")
        optimizer.step()
        wanted = softshrink(exact(twin[0].weight, 0.05), threshold)
        assert torch.allclose(model[0].weight.double(), wanted, rtol=0, atol=1e-6)
        assert (model[0].weight == 0).sum() == (wanted == 0).sum() > 0


@pytest.mark.parametrize("granularity", ["layer", "row", [torch.arange(3, 17)]])
def test_the_threshold_alone(granularity):
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.Proximal(strength=0.0, l1=0.7, granularity=granularity).attach_(optimizer, model, where="0.weight")
    optimizer.step()
    named = torch.zeros(35, dtype=torch.bool).index_fill(0, torch.arange(3, 17), True).view(7, 5)
    everything = torch.ones_like(named) if isinstance(granularity, str) else named
    wanted = torch.where(everything, softshrink(twin[0].weight, 0.07), twin[0].weight)
    assert torch.allclose(model[0].weight, wanted, rtol=0, atol=1e-7)
    with torch.no_grad():
        model[0].weight[1, 2] = float("inf")
    with pytest.raises(SpecError, match=r"Proximal on '0.weight' after step 2: .*NaN or infinite"):
        optimizer.step()


def rewound(w: torch.Tensor, step: float, threshold: float, rewind: float) -> torch.Tensor:
    """The slow twin: merge, then let every cluster go 1 − ρ of its way, to 0 exactly where the threshold puts it."""
    old, new = w.double().flatten(), exact(w, step).flatten()
    out = torch.empty_like(new)
    for value in new.unique():
        members = new == value
        mean = old[members].mean()
        soft = value.sign() * max(abs(value) - threshold, 0.0)
        out[members] = 0.0 if threshold and soft == 0 else mean + (1 - rewind) * (soft - mean)
    return out.view(w.shape)


@pytest.mark.usefixtures("_either_map")
@pytest.mark.parametrize("threshold", [0.0, 0.1])
@pytest.mark.parametrize("rewind", [0.5, 1.0])
def test_rewinding(rewind, threshold):
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    spec = ws.Proximal(strength=0.1, l1=threshold, rewind=rewind)
    spec.attach_(optimizer, model, where="0.weight")
    optimizer.step()
    wanted = rewound(twin[0].weight.detach(), 0.1, threshold, rewind)
    assert torch.allclose(model[0].weight.double(), wanted, rtol=0, atol=2e-5)
    assert len(wanted.unique()) < 35


def test_rewinding_wholly_merges_without_moving_a_mean():
    model = network()
    mean = float(model[0].weight.detach().mean())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    handle = ws.Proximal(strength=0.1, rewind=1.0).attach_(optimizer, model, where="0.weight")
    clusters = handle.finish()["0.weight"]
    assert clusters.shape == (7, 5)
    assert 1 < int(clusters.max()) + 1 < 35
    assert float(model[0].weight.detach().mean()) == pytest.approx(mean, abs=1e-7)


def test_a_schedule_of_rewinding():
    seen = []

    def schedule(count: int) -> float:
        seen.append(count)
        return 0.5

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    ws.Proximal(strength=0.1, rewind=schedule).attach_(optimizer, model, where="0.weight")
    for _ in range(3):
        optimizer.step()
    assert seen == [1, 2, 3]
    assert Ramp(0.9, 0.1, 4)(2) == pytest.approx(0.5)
    wrong = ws.Proximal(strength=0.1, rewind=lambda _: 1.5)
    with pytest.raises(SpecError, match=r"rewind\(3\)=1.5: need a finite number from 0 to 1"):
        wrong.rewind_at(3)


def test_finish_makes_members_equal_to_the_bit_and_names_them(monkeypatch):
    monkeypatch.setattr(proximal, "SORT_FREE_FROM", 1)
    torch.manual_seed(0)
    model = nn.Linear(211, 307)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(strength=0.05, l1=0.01).attach_(optimizer, model)
    for _ in range(5):
        optimizer.step()
    assert 0 < handle.bounds["weight"] < 1e-5
    kept = bits(model.weight)
    measured = handle.measure()["weight"]
    assert bits(model.weight) == kept
    clusters = handle.finish()["weight"]
    assert handle.bounds["weight"] == 0
    count = int(clusters.max()) + 1
    assert count == measured["distinct"] == len(clusters.unique())
    low = torch.full((count,), torch.inf).scatter_reduce_(
        0, clusters.flatten(), model.weight.detach().flatten(), "amin"
    )
    high = torch.full((count,), -torch.inf).scatter_reduce_(
        0, clusters.flatten(), model.weight.detach().flatten(), "amax"
    )
    assert torch.equal(low, high)
    assert measured["zero"] == int((model.weight == 0).sum()) > 0
    after = handle.measure()["weight"]
    assert (after["distinct"], after["zero"]) == (len(model.weight.unique()), measured["zero"])
    assert measured["weights"] == 211 * 307


def test_finish_with_a_learning_rate_of_your_own():
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.Proximal(strength=0.2).attach_(optimizer, model, where="0.weight").finish(lr=0.7)
    assert torch.allclose(model[0].weight.double(), exact(twin[0].weight, 0.14), rtol=0, atol=1e-6)


def test_exact_turns(monkeypatch):
    monkeypatch.setattr(proximal, "SORT_FREE_FROM", 1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(strength=0.01, exact_every=3).attach_(optimizer, model, where="0.weight")
    exact_turns = []
    for _ in range(6):
        optimizer.step()
        exact_turns.append(handle.bounds["0.weight"] == 0)
    assert exact_turns == [False, False, True, False, False, True]


def test_a_weight_with_two_readers_is_moved_once():
    model = nn.Sequential(nn.Linear(7, 7), nn.Linear(7, 7))
    ws.share_(model, ws.Tie(rate=2), where="*.weight")
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.0), lr=0.1)
    handle = ws.Proximal(strength=0.2).attach_(optimizer, model)
    optimizer.step()
    assert handle.paths == ("0.weight",)
    assert model[0].weight is model[1].weight
    assert torch.allclose(model[0].weight.double(), exact(before, 0.02), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strength": -1}, r"Proximal\(strength\)=-1: need a finite number of at least 0"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": "much"}, "need a number"),
        ({"strength": True}, "need a number"),
        ({"strength": 1, "l1": float("inf")}, "l1"),
        ({"strength": 1, "rewind": 1.01}, r"rewind\)=1.01: need a finite number from 0 to 1"),
        ({"strength": 1, "rewind": -0.1}, "rewind"),
        ({"strength": 1, "every": 0}, "every"),
        ({"strength": 1, "every": 1.5}, "whole number"),
        ({"strength": 1, "exact_every": -1}, "exact_every"),
        ({"strength": 1, "granularity": "column"}, "need layer, row, filter, tap"),
        ({"strength": 1, "granularity": []}, "index tensors"),
        ({"strength": 1, "granularity": [1, 2]}, "index tensors"),
    ],
)
def test_values_out_of_range(given, said):
    with pytest.raises(SpecError, match=said):
        ws.Proximal(**given)


def test_a_weight_that_is_not_finite_is_named_with_its_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.Proximal(strength=0.1).attach_(optimizer, model)
    with torch.no_grad():
        model[3].weight[1, 2] = float("nan")
    with pytest.raises(SpecError, match=r"Proximal on '3.weight' after step 1: .*NaN or infinite"):
        optimizer.step()


def test_biases_are_problems_of_their_own():
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(strength=0.2, granularity="row").attach_(optimizer, model, where="0")
    optimizer.step()
    assert handle.paths == ("0.weight", "0.bias")
    assert torch.allclose(model[0].bias.double(), exact(twin[0].bias, 0.02), rtol=0, atol=1e-6)
    for got, start in zip(model[0].weight, twin[0].weight, strict=True):
        assert torch.allclose(got.double(), exact(start, 0.02), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_either_map")
def test_a_cluster_that_merges_at_zero_stays_there():
    for start in ([-0.5, 2.0], [-0.49, 2.0], [-0.51, 2.0]):
        model = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([start]))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        ws.Proximal(0.5, l1=0.1, rewind=0.5).attach_(optimizer, model)
        optimizer.step()
        assert float(model.weight.detach()[0, 0]) == 0


def test_a_range_that_cannot_be_cut_into_bins_is_served_exactly(monkeypatch):
    monkeypatch.setattr(proximal, "SORT_FREE_FROM", 1)
    model = nn.Linear(5, 7).double()
    with torch.no_grad():
        model.weight.mul_(1e-308)
    start = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-308)
    handle = ws.Proximal(0.1).attach_(optimizer, model)
    optimizer.step()
    assert handle.bounds["weight"] == 0
    assert not torch.equal(model.weight, start)
