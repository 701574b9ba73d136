"""Which layers sleep, and what cannot: frozen and tied ones, numbers that are none, and values that cannot be."""

import pytest
import torch
from torch import nn

from tests.support import bits, state
import weightshare as ws
from weightshare.errors import ModelChanged, NoMatch, OptimizerMismatch, SpecError
from weightshare.optimizer import param_groups
from weightshare.space.lattice import Lattice
from weightshare.space.local import LocallyConnected1d
from weightshare.space.sleep import Sleep


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


def test_only_what_is_named_sleeps():
    model = net()
    kept = bits(model[2].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = Sleep().attach_(optimizer, model, where="0")
    handle.now()
    assert asleep(model)
    assert bits(model[2].weight) == kept
    assert handle.paths == ("0.weight", "0.bias")
    assert Sleep().attach_(optimizer, model, where="2").paths == ("2.weight",)
    for where in (None, "0", LocallyConnected1d):
        with pytest.raises(SpecError, match=r"Sleep: '0.weight' has one already: Sleep\(every=10"):
            Sleep(every=3).attach_(optimizer, model, where=where)


def test_frozen_layers_stay_as_they_are():
    model = net()
    model[0].requires_grad_(False)
    kept = bits(model[0].weight), bits(model[0].bias)
    for params in (model.parameters(), param_groups(model, weight_decay=0.0)):
        optimizer = torch.optim.SGD(params, lr=0.1)
        handle = Sleep().attach_(optimizer, model)
        handle.now()
        Sleep().now_(model)
        assert handle.paths == ("2.weight",)
    assert (bits(model[0].weight), bits(model[0].bias)) == kept
    for where in ("0", ["0", "2"]):
        with pytest.raises(SpecError, match=r"Sleep: '0' is frozen: no step changes it. Leave it out of where="):
            Sleep().attach_(optimizer, model, where=where)


def test_a_weight_or_a_bias_can_be_frozen_alone_and_later():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = Sleep(mode="hebbian").attach_(optimizer, model)
    model[0].weight.requires_grad_(False)
    kept, moved = bits(model[0].weight), bits(model[0].bias)
    handle.now()
    assert bits(model[0].weight) == kept
    assert bits(model[0].bias) != moved
    handle.remove()
    model.requires_grad_(False)
    with pytest.raises(SpecError, match=r"all local layers are frozen"):
        Sleep().now_(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mode", ["instant", "hebbian"])
@pytest.mark.parametrize("at", ["weight", "bias"])
def test_a_weight_that_is_no_number_is_said_to_be(mode, at, value):
    model = net()
    with torch.no_grad():
        model[0].get_parameter(at)[5].fill_(value)
    before = bits(model[0].get_parameter(at))
    with pytest.raises(SpecError, match=r"Sleep on '0': .*diverged"):
        Sleep(mode=mode).now_(model)
    assert bits(model[0].get_parameter(at)) == before


def test_a_model_without_local_layers_is_told_what_to_do():
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for call in (lambda: Sleep().now_(model), lambda: Sleep().attach_(optimizer, model)):
        with pytest.raises(
            NoMatch,
            match=r"Sequential has no local layer .* nothing to move. Make its convolutions local first: localize_",
        ):
            call()
    with pytest.raises(NoMatch, match=r"where='4' matches no local layer. There are: '0' '2'"):
        Sleep().now_(net(), where="4")


def test_what_the_optimizer_does_not_hold_is_refused():
    model = net()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with pytest.raises(OptimizerMismatch, match=r"Sleep: '0.weight' is in no group of the optimizer"):
        Sleep().attach_(optimizer, model)
    assert Sleep().attach_(optimizer, model, where="2").paths == ("2.weight",)


def test_a_model_that_changed_is_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = Sleep(every=1).attach_(optimizer, model)
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())
    with pytest.raises(ModelChanged, match=r"does not read the '0.weight' any more"):
        step(model, optimizer)
    assert handle.sleeps == 0


def small():
    """A layer with two positions beside one with many."""
    return nn.Sequential(LocallyConnected1d(2, 3, 3, 23), LocallyConnected1d(3, 5, 20, 21))


@pytest.mark.parametrize("mode", ["instant", "hebbian"])
def test_a_sleep_that_would_move_nothing_is_refused(mode):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for sleep, where in ((Sleep(mode=mode), "1"), (Sleep(mode=mode, lattice=Lattice(period=29)), None)):
        with pytest.raises(SpecError, match=r"Sleep would move nothing in .* no two positions share") as caught:
            sleep.attach_(optimizer, model, where)
        assert f"'1' of 2 positions: with {sleep.lattice!r}" in str(caught.value) or where is None
        with pytest.raises(SpecError, match="smaller period, such as lattice=Lattice"):
            sleep.now_(model, where)
    assert not optimizer._optimizer_step_post_hooks
    Sleep(mode=mode).attach_(optimizer, model, "*")  # the other one is moved


def test_a_small_layer_that_nobody_named_sleeps_beside_others():
    model = small()
    kept = bits(model[1].weight)
    Sleep().now_(model)
    assert torch.equal(model[0].weight[0], model[0].weight[3])
    assert bits(model[1].weight) == kept
    Sleep(lattice=Lattice(period=1)).now_(model, "1")  # as the message advises
    assert torch.equal(model[1].weight[0], model[1].weight[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype):
    model = net().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match=r"'0.weight' is torch\..* and has no float32 master"):
        Sleep().attach_(optimizer, model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, r"Sleep\(every\)=0: need a whole number of at least 1"),
        ({"every": 1.5}, r"Sleep\(every\)=1.5"),
        ({"every": True}, r"Sleep\(every\)=True"),
        ({"strength": 1.1}, r"Sleep\(strength\)=1.1: need a finite number from 0 to 1"),
        ({"strength": "all"}, r"Sleep\(strength\)='all'"),
        ({"mode": "circuit"}, r"mode='circuit'\): need 'instant', 'hebbian' or a Hebbian"),
        ({"unit": "batch"}, r"unit='batch'\): need 'step' or 'epoch'"),
        ({"lattice": 3}, r"lattice=3\): need a Lattice"),
    ],
)
def test_values_that_cannot_be(options, said):
    with pytest.raises(SpecError, match=said):
        Sleep(**options)


def test_a_mode_that_does_not_fit_is_refused_before_training():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = state(model)
    for lattice, said in ((Lattice(period=1), "taps of a kernel of 3"), (Lattice(period=(3, 3)), "1 axes")):
        with pytest.raises(SpecError, match=f"Sleep on '0': .*{said}"):
            Sleep(mode="hebbian", lattice=lattice).attach_(optimizer, model)
    assert state(model) == before
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("mode", ["instant", "hebbian"])
def test_on_the_meta_device_there_is_nothing_to_share(mode):
    model = net().to("meta")
    with pytest.raises(SpecError, match="Sleep: '0' is on the meta device and has no numbers to share: load the model"):
        Sleep(mode=mode).now_(model)


def test_a_sum_that_half_precision_cannot_hold_is_no_divergence():
    layer = LocallyConnected1d(2, 3, 1, 5, dtype=torch.float16)
    nn.init.constant_(layer.weight, 60_000)
    Sleep().now_(layer)
    assert layer.weight.unique().tolist() == [60_000]


def test_a_sleep_of_strength_0_is_none():
    model = net()
    before = [bits(one) for one in model.parameters()]
    Sleep(strength=0.0).now_(model)
    Sleep(strength=0.0, mode="hebbian").now_(model)
    assert [bits(one) for one in model.parameters()] == before


def test_a_weight_that_is_a_slot_of_a_bank_as_it_is():
    """Read as it is: a parameter, though not of the layer."""
    model = nn.Sequential(*(LocallyConnected1d(3, 3, 3, 5, padding=1) for _ in range(3)))
    ws.share_(model, ws.Tie(slots=[0, 0, 1], fuse=ws.through(ws.channel_weighted)))
    assert isinstance(model[2].weight, nn.Parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for ask in (lambda: Sleep(every=1).attach_(optimizer, model), lambda: Sleep().now_(model)):
        with pytest.raises(SpecError, match=r"'\d'.*made from stored slots"):
            ask()
