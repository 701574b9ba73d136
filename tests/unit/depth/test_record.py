"""What is kept of a training: at which steps, to the bit, through a state; and of what."""

import json

import pytest
import torch
from torch import nn

from tests.support import bits
import weightshare as ws
from weightshare.depth.lsm import layer_similarity, mixtures
from weightshare.depth.record import Evolution, Record
from weightshare.errors import ModelChanged, NoMatch, OptimizerMismatch, SpecError


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3))).to(dtype)
    ws.share_(net, ws.Templates(2))
    return net


def coefficients(net: nn.Module) -> nn.Parameter:
    return next(iter(mixtures(net).values())).bank.coefficients


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    """The coefficients after each step."""
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.ones(2, 5, dtype=coefficients(net).dtype)).square().sum().backward()
        optimizer.step()
        seen.append(coefficients(net).detach().clone())
    return seen


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        (Record(), (0, 1, 2, 4, 8, 11)),
        (Record(every=4), (0, 4, 8, 11)),
        (Record(at=(7, 3, 3)), (0, 3, 7, 11)),
        (Record(at=(11,)), (0, 11)),
    ],
)
def test_steps_that_are_kept(spec, steps):
    net = network()
    start = coefficients(net).detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    handle = spec.attach_(optimizer, net)
    seen = [start, *train(net, optimizer, 11)]
    history = handle.history
    assert history.steps == steps
    assert [bits(one) for one in history.coefficients["*.weight"]] == [bits(seen[step]) for step in steps]
    assert history.layers == {"*.weight": ("0.weight", "1.weight", "2.weight")}
    now = layer_similarity(net)["*.weight"]
    assert history.similarity(-1)["*.weight"].values.tolist() == now.values.tolist()
    assert history.similarity(-1, signed=True)["*.weight"].measure == "cos of coefficients"


def test_now_keeps_the_present_and_replaces_that_of_the_same_step():
    net = network()
    handle = Record(every=5).attach_(optimizer := torch.optim.SGD(net.parameters(), lr=0.01), net)
    train(net, optimizer, 3)
    handle.now()
    with torch.no_grad():
        coefficients(net).mul_(2)
    handle.now()
    assert handle.kept.steps == (0, 3)
    assert bits(handle.kept.coefficients["*.weight"][-1]) == bits(coefficients(net))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_holds_it_to_the_bit_and_goes_on(dtype):
    net, other = network(dtype), network(dtype)
    with torch.no_grad():
        coefficients(net)[0, 0] = float("nan")
    optimizer, again = torch.optim.SGD(net.parameters(), lr=0.01), torch.optim.SGD(other.parameters(), lr=0.01)
    handle = Record().attach_(optimizer, net)
    train(net, optimizer, 3)
    state = json.loads(json.dumps(handle.state_dict(), allow_nan=False))
    resumed = Record().attach_(again, other)
    train(other, again, 2)
    resumed.load_state_dict(state)
    other.load_state_dict(net.state_dict())
    train(net, optimizer, 4)
    train(other, again, 4)
    assert resumed.history.steps == handle.history.steps == (0, 1, 2, 4, 7)
    assert resumed.state_dict() == handle.state_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"kept": None},
        {"kept": {"at": [], "coefficients": [""]}},
        {"kept": {"at": [0, 2, 1], "coefficients": [""]}},
        {"kept": {"at": [0, 9], "coefficients": [""]}},
        {"kept": {"at": [0], "coefficients": []}},
        {"kept": {"at": [0], "coefficients": ["AAAA"]}},
        {"kept": {"at": [0], "coefficients": ["ä"]}},
        {"kept": {"at": [0], "coefficients": [7]}},
        {"spec": "Record(every=3, at=[])"},
        {"steps": -1},
    ],
)
def test_a_damaged_state_changes_nothing(change):
    net = network()
    handle = Record().attach_(optimizer := torch.optim.SGD(net.parameters(), lr=0.01), net)
    train(net, optimizer, 3)
    before = handle.state_dict()
    with pytest.raises(SpecError):
        handle.load_state_dict({**before, **change})
    assert handle.state_dict() == before


def test_frozen_and_half_coefficients_are_kept_too():
    net = network(torch.bfloat16)
    net.requires_grad_(False)
    head = nn.Linear(5, 2)
    handle = Record().attach_(optimizer := torch.optim.SGD(head.parameters(), lr=0.1), net)
    optimizer.step()
    assert handle.history.coefficients["*.weight"].dtype == torch.bfloat16
    assert handle.history.steps == (0, 1)
    state = json.loads(json.dumps(handle.state_dict()))
    handle.load_state_dict(state)
    assert handle.state_dict() == state


def test_fractions_of_a_training():
    evolution = Evolution((0, 2, 10, 50, 100), {}, {})
    assert [evolution.nearest(at) for at in (0, 0.02, 0.1, 0.3, 0.7, 1)] == [0, 1, 2, 3, 3, 4]
    with pytest.raises(SpecError, match="fraction"):
        evolution.nearest(2)


def test_what_is_refused():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for wrong in ({"every": 0}, {"every": 1.5}, {"at": (-1,)}, {"every": 2, "at": (3,)}):
        with pytest.raises(SpecError, match="Record"):
            Record(**wrong)
    with pytest.raises(NoMatch, match="share them first"):
        Record().attach_(optimizer, nn.Linear(2, 2))
    with pytest.raises(OptimizerMismatch):
        Record().attach_(_Averaging(net.parameters()), net)
    Record().attach_(optimizer, net)
    with pytest.raises(SpecError, match="has one already"):
        Record(every=2).attach_(optimizer, net)


def test_a_bank_that_is_not_read_any_more_is_no_history():
    net = network()
    Record().attach_(optimizer := torch.optim.SGD(net.parameters(), lr=0.01), net)
    ws.unshare_(net)
    with pytest.raises(ModelChanged):
        optimizer.step()


class _Averaging(torch.optim.SGD):
    """As schedule-free optimizers say that they are."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, lr=0.1)
        self.param_groups[0]["train_mode"] = True
