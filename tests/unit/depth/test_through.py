"""Fusions that are trained through: the formula on every order, the same start as the static ones, counts and files."""

from collections.abc import Sequence
import json

import pytest
import torch
from torch import Tensor, nn

from tests.banked import Net, check_close, gradients, loss, twins
from tests.support import state
import weightshare as ws
from weightshare.depth import topology
from weightshare.depth.bank import Generated
from weightshare.depth.fuse import Fusion, least_squares, permuted_mean
from weightshare.depth.transform import LoRA, Scale
from weightshare.errors import FileError, NoMatch, OptimizerMismatch, ShapeMismatch, SpecError
from weightshare.planning import Plan

DEPTH = 7
TOPOLOGIES = {
    "sequential": {"rate": 2},
    "strided": {"rate": 3, "order": ws.strided},
    "random": {"rate": 2.5, "order": ws.random(5)},
    "explicit": {"slots": [0, 1, 1, 0, 2, 1, 3]},
    "front": {"rate": 2, "spread": topology.front},
    "middle": {"rate": 2, "order": ws.strided, "spread": topology.middle},
    "back": {"rate": 3, "spread": topology.back},
    "one": {"rate": 7},
}
FACTORS = [0.5, -2.0, 3.0, 0.25, 1.0, 7.0, -0.125]
FUSIONS: dict[str, Fusion] = {
    "mean": ws.mean,
    "weighted": ws.weighted_mean(FACTORS),
    "scalars": ws.scalar_weighted,
    "channels": ws.channel_weighted,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def by_formula(tensors: Sequence[Tensor], labels: Sequence[int], factors: Sequence[float]) -> list[Tensor]:
    """`1/r Σ a_i W_i` for matrices, `1/r Σ W_i` for vectors; a layer alone keeps its own."""
    values = []
    for layer, label in enumerate(labels):
        readers = [other for other, of_other in enumerate(labels) if of_other == label]
        if len(readers) == 1:
            values.append(tensors[layer])
            continue
        weights = [factors[reader] if tensors[0].ndim > 1 else 1.0 for reader in readers]
        values.append(sum(a * tensors[reader] for a, reader in zip(weights, readers, strict=True)) / len(readers))
    return values


@pytest.mark.parametrize("where", TOPOLOGIES)
@pytest.mark.parametrize("name", FUSIONS)
def test_every_order_follows_its_assignment(name: str, where: str) -> None:
    """Trained through and static start alike, from the formula, and fold to it."""
    plain = Net(DEPTH).double()
    x = torch.randn(3, 3, dtype=torch.float64)
    through, static = Net(DEPTH).double(), Net(DEPTH).double()
    for model in (through, static):
        model.load_state_dict(plain.state_dict())
    fusion = FUSIONS[name]
    plan = ws.share_(through, ws.Tie(fuse=ws.through(fusion), **TOPOLOGIES[where]))
    ws.share_(static, ws.Tie(fuse=ws.mean if fusion.learned((2, 2)) else fusion, **TOPOLOGIES[where]))
    factors = FACTORS if name == "weighted" else [1.0] * DEPTH
    for group in plan.groups:
        tensors = [plain.get_parameter(path).detach() for path in group.items]
        wanted = by_formula(tensors, group.assignment.labels.tolist(), factors)
        for path, value in zip(group.items, wanted, strict=True):
            parent, _, last = path.rpartition(".")
            torch.testing.assert_close(getattr(through.get_submodule(parent), last).detach(), value)
    torch.testing.assert_close(through(x), static(x))
    folded = ws.fold(through)
    torch.testing.assert_close(folded(x), static(x))
    assert ws.report(folded).stored == ws.report(static).stored == plan.stored_before - saved(plan)
    assert ws.report(through).stored == plan.stored_after


def saved(plan: Plan) -> int:
    return sum(group.stored_before - group.folded for group in plan.groups)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("where", ["strided", "explicit", "middle"])
def test_gradients_after_a_move_are_those_of_the_formula(name: str, where: str) -> None:
    pair = twins(ws.Tie(fuse=ws.through(FUSIONS[name]), **TOPOLOGIES[where]), Net(DEPTH))
    x = torch.randn(3, 3, dtype=torch.float64)
    loss(pair.shared(x)).backward()
    if name != "weighted":
        check_close(gradients(pair.shared), pair.naive_gradients(x))
    of_factors = [tensor for key, tensor in pair.shared.named_parameters() if key.endswith("factors")]
    assert len(of_factors) == 2 * (name in ("scalars", "channels"))
    assert all(tensor.grad is not None and tensor.grad.abs().min() > 0 for tensor in of_factors)


def test_factors_belong_to_layers_that_share() -> None:
    model = Net(DEPTH)
    plan = ws.share_(model, ws.Tie(slots=[0, 1, 1, 0, 2, 1, 3], fuse=ws.through(ws.channel_weighted)), "blocks.*.fc1.*")
    weight, bias = sorted(plan.groups, key=lambda group: -group.numel)
    assert (weight.own, bias.own) == (5 * 7, 0)
    factors = model.get_parameter("weightshare_banks.blocks_fc1_weight.factors")
    assert factors.shape == (5, 7, 1)
    assert torch.equal(factors, torch.ones(5, 7, 1))


def test_permuted_mean_starts_from_aligned_tensors() -> None:
    """A block and a copy whose hidden units are shuffled are one block: nothing is lost, through or static."""
    plain = Net(2).double()
    order = torch.randperm(7)
    one, two = plain.blocks
    with torch.no_grad():
        two.fc1.weight.copy_(one.fc1.weight[order])
        two.fc1.bias.copy_(one.fc1.bias[order])
        two.fc2.weight.copy_(one.fc2.weight[:, order])
        two.fc2.bias.copy_(one.fc2.bias)
    x = torch.randn(3, 3, dtype=torch.float64)
    wanted = plain(x)
    for fusion in (permuted_mean, ws.through(permuted_mean)):
        shared = Net(2).double()
        shared.load_state_dict(plain.state_dict())
        ws.share_(shared, ws.Tie(rate=2, fuse=fusion))
        torch.testing.assert_close(shared(x), wanted)


def test_what_is_learned_is_a_group_of_its_own() -> None:
    model = Net()
    ws.share_(model, ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted), own=LoRA(1)))
    groups = ws.param_groups(model, weight_decay=0.1)
    own = [group for group in groups if group.get("own")]
    names = [name for group in own for name in group["param_names"]]
    of_each = ["factors", "own.down", "own.up"]
    assert sorted(name.rpartition("_weight.")[2] for name in names) == sorted(2 * of_each)
    assert {group["weight_decay"] for group in own} == {0.0}
    decayed = [name for group in groups if group["weight_decay"] for name in group["param_names"]]
    assert {f"weightshare_banks.blocks_fc1_weight.stored.{layer}" for layer in range(5)} <= set(decayed)
    held = [id(tensor) for group in groups for tensor in group["params"]]
    assert sorted(held) == sorted(id(tensor) for tensor in model.parameters())


def test_biases_in_banks_get_no_decay() -> None:
    model = Net()
    ws.share_(model, ws.Tie(rate=2, fuse=ws.through(ws.mean)))
    groups = ws.param_groups(model, weight_decay=0.1)
    decayed = {name for group in groups if group["weight_decay"] for name in group["param_names"]}
    assert not {name for name in decayed if "_bias." in name}


def test_an_optimizer_made_before_lacks_what_is_learned() -> None:
    model = Net()
    before = torch.optim.SGD(model.parameters(), lr=0.1)
    ws.share_(model, ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted)))
    with pytest.raises(OptimizerMismatch, match=r"factors' is in no group, so nothing trains it"):
        ws.check(before, model)
    ws.check(torch.optim.SGD(ws.param_groups(model, weight_decay=0.0), lr=0.1), model)


def test_unsharing_keeps_outputs() -> None:
    pair = twins(ws.Tie(rate=2, fuse=ws.through(ws.channel_weighted), own=Scale(shift=True)))
    x = torch.randn(3, 3, dtype=torch.float64)
    wanted = pair.naive(x)
    ws.unshare_(pair.shared)
    torch.testing.assert_close(pair.shared(x), wanted)
    assert [name for name, _ in pair.shared.named_parameters()] == [name for name, _ in pair.plain.named_parameters()]


@pytest.mark.parametrize("inner", [ws.first, least_squares, ws.through(ws.mean)])
def test_what_cannot_be_trained_through(inner: Fusion) -> None:
    with pytest.raises(SpecError, match="through"):
        ws.through(inner)


@pytest.mark.parametrize("fusion", [ws.scalar_weighted, ws.channel_weighted])
def test_learned_weights_need_through(fusion: Fusion) -> None:
    with pytest.raises(SpecError, match=r"needs through\("):
        ws.Tie(rate=2, fuse=fusion)


def test_recurrent_layers_are_refused() -> None:
    layers = nn.ModuleList([nn.LSTM(5, 5) for _ in range(4)])
    before = state(layers)
    with pytest.raises(SpecError, match=r"LSTM reads its weights from a list of its own"):
        ws.share_(layers, ws.Tie(rate=2, fuse=ws.through(ws.mean)), "*.weight_hh_l0")
    with pytest.raises((SpecError, NoMatch), match=r"LSTM reads its weights"):
        ws.share_(layers, ws.Tie(rate=2, fuse=ws.through(ws.mean)))
    assert state(layers) == before


@pytest.mark.parametrize("spec", [ws.Tie(rate=2, fuse=ws.through(ws.mean)), ws.Tie(rate=2, own=LoRA(1))])
def test_mixed_layers_are_refused(spec: ws.Tie) -> None:
    half = Net(2)
    half.blocks[1].to(torch.bfloat16)
    frozen = Net(2)
    frozen.blocks[1].fc1.weight.requires_grad_(False)
    elsewhere = Net(2)
    elsewhere.blocks[1].to("meta")
    cases = ((half, NoMatch, "dtype"), (frozen, ShapeMismatch, "requires_grad"), (elsewhere, ShapeMismatch, "device"))
    for model, error, said in cases:
        before = state(model)
        with pytest.raises(error, match=said):
            ws.share_(model, spec, "blocks.*.fc1.weight")
        assert state(model) == before


def test_frozen_layers_have_nothing_to_train() -> None:
    model = Net().requires_grad_(False)
    ws.share_(model, ws.Tie(rate=2, fuse=ws.through(ws.scalar_weighted), own=LoRA(1)))
    assert not any(tensor.requires_grad for tensor in model.parameters())
    assert not model(torch.randn(2, 3)).requires_grad


def test_plans_are_json() -> None:
    for spec in (
        ws.Tie(rate=2, fuse=ws.through(ws.channel_weighted)),
        ws.Tie(slots=[0, 1, 1, 0, 2], fuse=ws.through(ws.weighted_mean([1, 2, 3, 4, 5])), own=Scale("channel", True)),
        ws.Tie(rate=3, fuse=least_squares, own=LoRA(2, start="identity")),
    ):
        plan = ws.plan(Net(), spec)
        again = Plan.from_json(plan.to_json())
        assert again == plan
        assert all(isinstance(group, Generated) for group in again.groups)
        assert str(again) == str(plan)
        again.apply_(Net(), batches=[torch.randn(2, 3)] if spec.reads_batches else None)


HOSTILE = [
    ("through", 1, "through=1"),
    ("through", "yes", "through='yes'"),
    ("dense", None, "dense=None"),
    ("own", -1, "own=-1"),
    ("own", 2**62, "own="),
    ("own", True, "own=True"),
    ("own", 1.5, "own=1.5"),
    ("slots", [0, 0, 2, 2, 1, 9], "slots"),
    ("shape", [-7, 5], "shape"),
    ("dtype", "nn", "dtype"),
]


@pytest.mark.parametrize(("key", "value", "said"), HOSTILE)
def test_hostile_plans_are_refused(key: str, value: object, said: str) -> None:
    data = json.loads(ws.plan(Net(), ws.Tie(rate=2, fuse=ws.through(ws.mean))).to_json())
    data["groups"][0][key] = value
    with pytest.raises(FileError, match=said):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize("key", ["through", "dense", "own"])
def test_plans_that_lack_something_are_refused(key: str) -> None:
    data = json.loads(ws.plan(Net(), ws.Tie(rate=2, own=LoRA(1))).to_json())
    del data["groups"][0][key]
    with pytest.raises(FileError, match=key):
        Plan.from_json(json.dumps(data))


def test_a_plan_that_says_otherwise_than_its_spec_is_refused() -> None:
    """A hand-made plan whose group claims what the spec does not: the counts are wrong, so it is not applied."""
    data = json.loads(ws.plan(Net(), ws.Tie(rate=2, fuse=ws.mean, own=LoRA(1))).to_json())
    for group in data["groups"]:
        group["through"] = True
    model = Net()
    before = state(model)
    with pytest.raises((FileError, SpecError)):
        Plan.from_json(json.dumps(data)).apply_(model)
    assert state(model) == before
