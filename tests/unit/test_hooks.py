"""Handles: what they attach to and what they refuse, then and later; what they count; steps within steps."""

import copy
import json

import pytest
import torch
from torch import nn

from tests.particles import exact
from tests.stepping import network, step
from tests.support import bits
import weightshare as ws
from weightshare.errors import ModelChanged, NoMatch, OptimizerMismatch, SpecError
from weightshare.values.baselines import Subgradient
from weightshare.values.proximal import Ramp


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
    spec = ws.Proximal(strength=0.2, every=3, rewind=Ramp(0.0, 1.0, 10))
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
        {"waited": 10**400},
        {"steps": 10**400},
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


class Calling(torch.optim.SGD):
    """Its step calls its parent's, which torch has hooked by itself if a plain SGD was made before."""

    def step(self, closure=None):
        return super().step(closure)


class Failing(Calling):
    """Its step raises where it is told to."""

    fails = False

    def step(self, closure=None):
        loss = super().step(closure)
        if self.fails:
            raise RuntimeError("out of memory")
        return loss


@pytest.mark.parametrize("kind", [Calling, Failing])
def test_a_step_within_a_step_counts_once(kind):
    torch.optim.SGD(network().parameters(), lr=0.1)
    model, twin = network(), network()
    optimizer, plain = kind(model.parameters(), lr=0.1), torch.optim.SGD(twin.parameters(), lr=0.1)
    handles = [ws.Proximal(0.2).attach_(optimizer, model), ws.Proximal(0.2).attach_(plain, twin)]
    handles += [Subgradient(0.2).attach_(optimizer, model), Subgradient(0.2).attach_(plain, twin)]
    for seed in range(2):
        step(model, optimizer, seed)
        step(twin, plain, seed)
    assert [handle.steps for handle in handles] == [2, 2, 2, 2]
    assert [bits(p) for p in model.parameters()] == [bits(p) for p in twin.parameters()]


def test_a_step_that_raised_does_not_silence_those_after_it():
    model = network()
    optimizer = Failing(model.parameters(), lr=0.1)
    handle = ws.Proximal(0.2).attach_(optimizer, model)
    added = Subgradient(0.2).attach_(optimizer, model)
    optimizer.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        step(model, optimizer)
    optimizer.fails = False
    before = handle.steps
    step(model, optimizer)
    assert (handle.steps, added.steps) == (before + 1, before + 1)


class Outer(torch.optim.Optimizer):
    """Like timm's Lookahead: it never calls Optimizer.__init__, so its step runs no hooks."""

    def __init__(self, base):
        self.base_optimizer, self.param_groups, self.defaults = base, base.param_groups, base.defaults
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}

    def step(self, closure=None):
        return self.base_optimizer.step(closure)


def test_an_optimizer_that_runs_no_hooks_is_refused():
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(OptimizerMismatch, match=r"Outer does not call .* runs no hooks"):
        ws.Proximal(0.2).attach_(Outer(base), model)


@pytest.mark.parametrize("change", ["codebook", "tie", "assign"])
def test_what_the_model_does_not_read_any_more_is_not_moved(change):
    model = nn.Sequential(nn.Linear(23, 23), nn.Linear(23, 23))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(0.2).attach_(optimizer, model)
    changes = {
        "codebook": lambda: ws.share_(model, ws.Codebook(clusters=4), where="1.weight"),
        "tie": lambda: ws.share_(model, ws.Tie(rate=2), where="*.weight"),
        "assign": lambda: model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True),
    }
    changes[change]()
    for call in (optimizer.step, handle.finish, handle.measure):
        with pytest.raises(ModelChanged, match=r"does not read the '[01].weight' any more"):
            call()


def test_what_is_refused_at_first_is_refused_later():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.Proximal(0.2).attach_(optimizer, model)
    model.to(torch.bfloat16)
    with pytest.raises(SpecError, match=r"'0.weight' is torch.bfloat16"):
        optimizer.step()


def test_what_is_frozen_later_stays():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.Proximal(100.0).attach_(optimizer, model)
    model[0].weight.requires_grad_(False)
    kept = bits(model[0].weight)
    optimizer.step()
    assert bits(model[0].weight) == kept
    assert len(model[3].weight.unique()) == 1


def half(_: int) -> float:
    return 0.5


def third(_: int) -> float:
    return 1 / 3


def test_specs_are_told_apart_by_what_they_say_in_every_process():
    groups = [torch.arange(1000), torch.arange(1000, 2000)]
    swapped = [torch.arange(1000), torch.arange(1000, 2000).flip(0)]
    assert ws.Proximal(1.0, rewind=half) == ws.Proximal(1.0, rewind=half) != ws.Proximal(1.0, rewind=third)
    assert ws.Proximal(1.0, granularity=groups) == ws.Proximal(1.0, granularity=groups)
    assert ws.Proximal(1.0, granularity=groups) != ws.Proximal(1.0, granularity=swapped)
    assert len({ws.Proximal(1.0, granularity=groups), ws.Proximal(1.0, granularity=groups)}) == 1
    model = network()
    handle = ws.Proximal(1.0, rewind=half).attach_(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert "test_hooks.half" in handle.state_dict()["spec"]
    assert "0x" not in handle.state_dict()["spec"]


def test_an_error_at_one_weight_moves_no_other_twice():
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = ws.Proximal(0.2).attach_(optimizer, model)
    bad = model[3].weight.detach().clone()
    with torch.no_grad():
        model[3].weight[0, 0] = float("nan")
    with pytest.raises(SpecError, match="NaN or infinite"):
        optimizer.step()
    with torch.no_grad():
        model[3].weight.copy_(bad)
    handle.now()
    for at in (0, 3):
        assert torch.allclose(model[at].weight.double(), exact(twin[at].weight, 0.02), rtol=0, atol=1e-6)


def test_learning_rates_that_are_not_there_or_not_where_they_were():
    model = network()
    groups = [{"params": [model[0].weight], "lr": 0.5}, {"params": [model[3].weight], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.3)
    handle = ws.Proximal(0.2).attach_(optimizer, model)
    optimizer.param_groups.reverse()
    assert handle.lrs == [0.5, 0.1]
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(OptimizerMismatch, match=r"the group of '3.weight' has no learning rate"):
        ws.Proximal(0.2).attach_(optimizer, model, where="3.weight")
    optimizer.param_groups.pop(0)
    with pytest.raises(OptimizerMismatch, match=r"'3.weight' is in no group"):
        optimizer.step()


def test_a_handle_is_not_copied():
    model = network()
    handle = ws.Proximal(0.2).attach_(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(TypeError, match="belongs to its optimizer"):
        copy.deepcopy(handle)
    with pytest.raises(SpecError, match=r"finish\(lr\)"):
        handle.finish(lr=0.0)


def test_a_codebook_is_not_regularised():
    model = nn.Sequential(nn.Linear(23, 23))
    ws.share_(model, ws.Codebook(clusters=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match="no forward pass reads it"):
        ws.Proximal(0.2).attach_(optimizer, model, where="0")


@pytest.mark.parametrize("model", [nn.Embedding(5, 7), nn.EmbeddingBag(5, 7)])
def test_an_embedding_is_no_layer_even_where_it_is_the_model(model):
    with pytest.raises(SpecError, match="no trainable weight"):
        ws.Proximal(0.2).attach_(torch.optim.SGD(model.parameters(), lr=0.1), model)
