"""`Proximal` in a training loop: it is the map after the step, for any optimizer, and it keeps what it counts."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.functional import softshrink

from tests.particles import exact
from tests.support import bits
import weightshare as ws
from weightshare.errors import NoMatch, OptimizerMismatch, SpecError
from weightshare.values import proximal
from weightshare.values.baselines import BetaLasso, Subgradient

OPTIMIZERS = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr, fused=True),
    "tensor lr": lambda params, lr: torch.optim.Adam(params, lr=torch.tensor(lr), foreach=False),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(11, 5, generator=generator)).square().mean().backward()
    optimizer.step()


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
        out[members] = 0.0 if soft == 0 else mean + (1 - rewind) * (soft - mean)
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
    assert ws.Ramp(0.9, 0.1, 4)(2) == pytest.approx(0.5)
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


def test_an_overflow_of_mixed_precision_moves_nothing():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    handle = ws.Proximal(strength=0.2).attach_(optimizer, model)
    kept = bits(model[0].weight)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    loss = model(torch.randn(11, 5)).square().mean() * 1e30
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (handle.steps, bits(model[0].weight)) == (0, kept)
    optimizer.zero_grad()
    model(torch.randn(11, 5)).square().mean().backward()
    optimizer.step()
    assert handle.steps == 1


def test_counters_go_on_where_they_were():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    spec = ws.Proximal(strength=0.2, every=3, rewind=ws.Ramp(0.0, 1.0, 10))
    handle = spec.attach_(optimizer, model)
    for seed in range(4):
        step(model, optimizer, seed)
    state = json.loads(json.dumps(handle.state_dict()))
    twin = copy.deepcopy(model)
    other = torch.optim.SGD(twin.parameters(), lr=0.1)
    resumed = spec.attach_(other, twin)
    resumed.load_state_dict(state)
    for seed in range(4, 9):
        step(model, optimizer, seed)
        step(twin, other, seed)
    assert [bits(p) for p in model.parameters()] == [bits(p) for p in twin.parameters()]
    assert resumed.state_dict() == handle.state_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"spec": "Proximal(strength=9.0)"},
        {"paths": ["3.weight"]},
        {"steps": -1},
        {"steps": 1.5},
        {"waiting": [0.1]},
        {"waiting": [0.1, float("nan")]},
        {"last": "no"},
        {"waited": None},
        {"more": 1},
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(strength=0.2).attach_(optimizer, model)
    optimizer.step()
    own = handle.state_dict()
    with pytest.raises(SpecError, match="state of a hook"):
        handle.load_state_dict(own | change)
    assert handle.state_dict() == own


def test_wrappers_that_hold_the_optimizer():
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outer, stepper = fabric.setup(model, optimizer)
    handle = ws.Proximal(strength=100.0).attach_(stepper, outer, where="*0.weight")
    fabric.backward(outer(torch.randn(11, 5)).square().mean())
    stepper.step()
    assert handle.optimizer is optimizer
    assert len(model[0].weight.unique()) == 1


def test_a_context_detaches_at_its_end():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ws.Proximal(strength=0.2).attach_(optimizer, model):
        assert len(optimizer._optimizer_step_post_hooks) == 1
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks


class ScheduleFree(torch.optim.SGD):
    """Marks its groups as schedule-free optimizers do."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.param_groups[0]["train_mode"] = True


class FlatParameter(nn.Parameter):
    """Of FSDP1, by its name."""


def holding(tensor: nn.Parameter) -> nn.Module:
    model = nn.Linear(3, 5)
    model.weight = tensor
    return model


def partitioned() -> nn.Module:
    model = nn.Linear(3, 5)
    model.weight.ds_id = 7
    return model


def test_what_cannot_be_served_is_refused_and_leaves_no_hook():
    sgd = torch.optim.SGD
    half = nn.Linear(3, 5).bfloat16()
    frozen = nn.Linear(3, 5)
    frozen.weight.requires_grad_(False)
    flat = holding(FlatParameter(torch.zeros(5, 3)))
    spec = ws.Proximal(strength=0.1)
    for model, optimizer, where, error, said in (
        (net := network(), sgd(net[0].parameters(), lr=0.1), None, OptimizerMismatch, "'3.weight' is in no group"),
        (net := network(), ScheduleFree(net.parameters(), 0.1), None, OptimizerMismatch, "schedule-free"),
        (half, sgd(half.parameters(), lr=0.1), None, SpecError, "'weight' is torch.bfloat16 and has no float32 master"),
        (frozen, sgd(frozen.parameters(), lr=0.1), "weight", SpecError, "'weight' is frozen"),
        (flat, sgd(flat.parameters(), lr=0.1), None, OptimizerMismatch, "flat parameter of FSDP1"),
        (net := partitioned(), sgd(net.parameters(), lr=0.1), None, OptimizerMismatch, "partitioned by ZeRO"),
        (net := network(), sgd(net.parameters(), lr=0.1), "fc9", NoMatch, "fc9"),
        (net := network(), "sgd", None, SpecError, "Cannot attach to str"),
        (net := nn.LayerNorm(3), sgd(net.parameters(), lr=0.1), None, SpecError, "no trainable weight"),
        (net := complex_layer(), sgd(net.parameters(), lr=0.1), "weight", SpecError, "complex64, need float32"),
        (net := sparse_layer(), sgd(net.parameters(), lr=0.1), "weight", SpecError, "layout torch.sparse_coo, need"),
    ):
        with pytest.raises(error, match=said):
            spec.attach_(optimizer, model, where)
        assert not getattr(optimizer, "_optimizer_step_post_hooks", None)


def sparse_layer() -> nn.Module:
    return holding(nn.Parameter(torch.eye(5, 3).to_sparse()))


def complex_layer() -> nn.Module:
    return holding(nn.Parameter(torch.zeros(5, 3, dtype=torch.complex64)))


def test_two_on_one_weight_are_refused_and_two_on_two_are_not():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.Proximal(strength=0.1).attach_(optimizer, model, where="0.weight")
    ws.Proximal(strength=0.2).attach_(optimizer, model, where="3.weight")
    with pytest.raises(SpecError, match=r"'0.weight' has one already: Proximal\(strength=0.1"):
        ws.Proximal(strength=0.3).attach_(optimizer, model)
    assert len(optimizer._optimizer_step_post_hooks) == 2


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
