"""`share_(model, Lattice())`: one kernel a class, its gradient, and every way in and out of a model."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
import torch
from torch import Tensor, nn

from tests.contract.trial import numbers
from tests.reading import rebuilt
from tests.support import bits, output, state
import weightshare as ws
from weightshare.errors import AlreadyShared, FileError, ModelChanged, NoMatch, SpecError
from weightshare.files.sizes import sizes
from weightshare.space.measure import space_sharing
from weightshare.space.transposed import LocallyConnectedTranspose2d

CLASSES = ws.Lattice().assignment(ws.LocallyConnected2d(2, 3, 3, (7, 5), padding=1)).labels


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    local = ws.LocallyConnected2d(2, 3, 3, (7, 5), padding=1, bias="position")
    nn.init.normal_(local.bias)
    return nn.Sequential(local, nn.ReLU(), nn.Conv2d(3, 5, 3))


def example(batch: int = 3) -> Tensor:
    return torch.randn(batch, 2, 7, 5, generator=torch.Generator().manual_seed(7))


def kernels(model: nn.Module) -> Tensor:
    return model[0].weight.detach().flatten(0, 1)


def test_slots_are_the_means_of_their_classes() -> None:
    model, before = network(), network()
    plan = ws.share_(model, ws.Lattice(), where="0")
    for stored, dense in (("weight", kernels(before)), ("bias", before[0].bias.detach().flatten(0, 1))):
        slots = model[0].parametrizations[stored].original.detach()
        wanted = torch.stack([dense[label == CLASSES].double().mean(0) for label in range(9)])
        torch.testing.assert_close(slots.double(), wanted, rtol=1e-6, atol=1e-6)
        assert torch.equal(getattr(model[0], stored).detach().flatten(0, 1), slots[CLASSES])
    assert (plan.stored_before, plan.stored_after) == (35 * 57 + 140, 9 * 57 + 140)


def test_equal_kernels_are_copied() -> None:
    """To the bit: in bfloat16 a mean of three equal numbers need not be that number."""
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model = nn.Sequential(ws.LocallyConnected2d.from_conv(nn.Conv2d(2, 3, 3, padding=1), (7, 5))).to(dtype)
        x = example().to(dtype)
        wanted = output(model, x)
        ws.share_(model, ws.Lattice())
        assert bits(output(model, x)) == bits(wanted)


def test_period_one_is_a_convolution_of_one_kernel() -> None:
    conv, x = nn.Conv2d(2, 3, 3, padding=1), example()
    model = nn.Sequential(ws.LocallyConnected2d.from_conv(conv, (7, 5), bias="position"))
    plan = ws.share_(model, ws.Lattice(period=1))
    assert plan.stored_after == 2 * 3 * 9 + 3
    for network_ in (model, conv):
        network_.zero_grad()
        network_(x).square().sum().backward()
    found = model[0].as_conv_weight(model[0].parametrizations.weight.original.grad)[0]
    torch.testing.assert_close(found, conv.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model[0].parametrizations.bias.original.grad[0], conv.bias.grad, rtol=1e-4, atol=1e-4)
    folded = ws.fold(model)
    assert type(folded[0]) is nn.Conv2d
    assert torch.equal(folded[0].weight, conv.weight)
    assert torch.equal(folded[0].bias, conv.bias)


def test_the_gradient_is_the_sum_over_a_class() -> None:
    model, x = network().double(), example().double()
    ws.share_(model, ws.Lattice())
    dense = network().double()
    dense.load_state_dict({name: getattr(model[int(name[0])], name[2:]).detach() for name in dense.state_dict()})
    for one in (model, dense):
        one(x).pow(3).sum().backward()
    for stored in ("weight", "bias"):
        every = getattr(dense[0], stored).grad.flatten(0, 1)
        wanted = torch.stack([every[label == CLASSES].sum(0) for label in range(9)])
        torch.testing.assert_close(model[0].parametrizations[stored].original.grad, wanted)


def test_gradients_of_gradients_and_of_samples() -> None:
    model = nn.Sequential(ws.LocallyConnected1d(1, 2, 3, 5).double())
    ws.share_(model, ws.Lattice(period=2))
    decoder = model[0].parametrizations.weight[0]
    slots = model[0].parametrizations.weight.original.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: decoder(s).pow(3), slots)
    assert torch.autograd.gradgradcheck(lambda s: decoder(s).pow(3), slots)
    weights = torch.randn(7, *model[0].weight.shape, dtype=torch.float64)
    each = torch.func.vmap(torch.func.grad(lambda held, w: (decoder(held) * w).sum()), (None, 0))(
        slots.detach(), weights
    )
    one = torch.stack([torch.autograd.grad((decoder(slots) * w).sum(), slots)[0] for w in weights])
    torch.testing.assert_close(each, one)


def test_many_positions_are_summed_in_float32() -> None:
    """In bfloat16 a sum of ones stops at 256."""
    model = nn.Sequential(ws.LocallyConnected1d(1, 1, 1, 1009, bias=False).bfloat16())
    ws.share_(model, ws.Lattice(period=1))
    model(torch.ones(1, 1, 1009, dtype=torch.bfloat16)).sum().backward()
    assert model[0].parametrizations.weight.original.grad.item() == torch.tensor(1009.0).bfloat16().item()


def test_a_dense_weight_that_is_assigned_becomes_means() -> None:
    model = network()
    ws.share_(model, ws.Lattice())
    weight = torch.randn(7, 5, 1, 18, 3)
    model[0].weight = weight
    wanted = torch.stack([weight.flatten(0, 1)[label == CLASSES].mean(0) for label in range(9)])
    torch.testing.assert_close(model[0].parametrizations.weight.original.detach(), wanted)


def test_positions_of_a_class_are_shared_to_the_bit_and_sleep_has_nothing_to_do() -> None:
    model = network()
    ws.share_(model, ws.Lattice())
    assert space_sharing(model[0]).within == float("inf")
    with pytest.raises(SpecError, match="shared already"):
        ws.Sleep().now_(model)


def test_decay_is_that_of_kernels_and_biases() -> None:
    model = nn.Sequential(ws.LocallyConnected1d(1, 1, 3, 11, bias="position"))
    ws.share_(model, ws.Lattice(period=1))
    decays = {name: g["weight_decay"] for g in ws.param_groups(model, 0.1) for name in g["param_names"]}
    assert decays == {"0.parametrizations.weight.original": 0.1, "0.parametrizations.bias.original": 0.0}


# Plans, and what does not fit


def test_the_plan_says_so_and_comes_back_from_json() -> None:
    model = network()
    plan = ws.plan(model, ws.Lattice(period=(2, 3), borders="apart"))
    text = str(plan)
    assert "Lattice(period=(2, 3), borders='apart') everywhere" in text
    assert "0.weight      1×18×3   7×5 " in text
    assert "2.weight 2.bias: no parameter of a local layer" in text
    assert max(map(len, text.splitlines())) <= 118
    assert ws.Plan.from_json(plan.to_json()) == plan
    ws.Plan.from_json(plan.to_json()).apply_(model)
    counted = ws.report(model)
    assert (counted.stored, counted.bytes) == (plan.stored_after, plan.bytes_after)
    assert counted.logical == plan.stored_before
    assert [(one.name, one.positions, one.slots, one.mixed) for one in counted.positions] == [
        ("0.weight", (7, 5), plan.groups[0].slots, False),
        ("0.bias", (7, 5), plan.groups[1].slots, False),
    ]
    assert f"one of {plan.groups[0].slots}" in str(counted)


@pytest.mark.parametrize(
    ("key", "value"),
    [("slots", n) for n in (0, -1, True, 2.0, "9", None, 36)]
    + [("positions", p) for p in ([], [5, 7], [7, 5, 1, 18, 3])],
)
def test_a_plan_with_impossible_positions_is_no_plan(key: str, value: Any) -> None:
    data = json.loads(ws.plan(network(), ws.Lattice()).to_json())
    data["groups"][0][key] = value
    with pytest.raises(FileError):
        ws.Plan.from_json(json.dumps(data))


def test_what_saves_nothing_is_left_out_or_refused() -> None:
    model = nn.Sequential(ws.LocallyConnected1d(1, 1, 3, 5), ws.LocallyConnected1d(1, 1, 3, 3))
    plan = ws.plan(model, ws.Lattice(period=2))
    assert {left.path: left.reason for left in plan.left_out} == {
        "0.bias": "one bias for all positions already",
        "1.weight": "each of its positions is a class of its own, which would save nothing",
        "1.bias": "one bias for all positions already",
    }
    with pytest.raises(SpecError, match=r"Cannot share positions of '1.weight': each of its positions"):
        ws.plan(model, ws.Lattice(period=2), "1.weight")


def test_transposed_layers_share_kernels_and_not_the_biases_of_outputs() -> None:
    model = nn.Sequential(LocallyConnectedTranspose2d(2, 3, 3, (5, 7), stride=2, bias="position"))
    x = torch.randn(2, 2, 5, 7)
    for spec, after in ((ws.Lattice(period=4), 4 * 54), (ws.LowRank(2), 2 * (54 + 35))):
        plan = ws.share_(model, spec)
        assert plan.stored_after == after + model[0].bias.numel()
        assert [(left.path, "those of the output" in left.reason) for left in plan.left_out][:1] == [
            ("0.bias", isinstance(spec, ws.Lattice))
        ]
        wanted = output(model, x)
        ws.unshare_(model)
        assert bits(output(model, x)) == bits(wanted)


def test_models_that_do_not_fit() -> None:
    with pytest.raises(NoMatch, match="no parameter of a local layer"):
        ws.plan(nn.Linear(3, 5), ws.Lattice())
    layer = ws.LocallyConnected1d(1, 1, 3, 11)
    twice = nn.ModuleList([layer, ws.LocallyConnected1d(1, 1, 3, 11)])
    twice[1].weight = layer.weight
    with pytest.raises(AlreadyShared, match=r"one parameter with '1\.weight'"):
        ws.plan(twice, ws.Lattice(), "0")
    foreign = nn.utils.parametrizations.weight_norm(ws.LocallyConnected1d(1, 1, 3, 11, bias="position"))
    with pytest.raises(NoMatch, match="its module is parametrized already"):
        ws.plan(nn.Sequential(foreign), ws.Lattice())
    broken = network()
    with torch.no_grad():
        broken[0].weight[3, 1] = float("nan")
    before = state(broken)
    with pytest.raises(SpecError, match="NaN or infinity"):
        ws.share_(broken, ws.Lattice())
    assert state(broken) == before


def test_a_plan_for_another_geometry_of_equal_shape() -> None:
    """The names, shapes and numbers are equal, and the classes differ in count."""
    plan = ws.plan(nn.Sequential(ws.LocallyConnected1d(1, 1, 3, 7)), ws.Lattice())
    other = nn.Sequential(ws.LocallyConnected1d(1, 1, 3, 17, stride=3, dilation=1))
    before = state(other)
    with pytest.raises(ModelChanged, match="has 1 classes of positions"):
        plan.apply_(other)
    assert state(other) == before


# Out again, and files


def test_unshare_leaves_local_layers() -> None:
    model, x = network(), example()
    ws.share_(model, ws.Lattice(borders="apart"))
    wanted = output(model, x)
    with pytest.raises(ModelChanged, match="differ from their mean"):
        ws.fold(model)
    ws.unshare_(model)
    assert bits(output(model, x)) == bits(wanted)
    assert list(model.state_dict()) == list(network().state_dict())
    assert type(model[0]) is ws.LocallyConnected2d


@pytest.mark.parametrize(
    "lattice", [ws.Lattice(), ws.Lattice(1), ws.Lattice(labels=tuple(n * 3 // 5 for n in range(35)))]
)
def test_files(lattice: ws.Lattice, tmp_path: Path) -> None:
    model, x = network(), example()
    plan = ws.share_(model, lattice, where="0")
    slots = plan.groups[0].slots
    ws.save(model, tmp_path / "m")
    held = load_file(tmp_path / "m")
    bits_ = max(1, (slots - 1).bit_length())
    assert held["0.weight.codebook"].shape == (slots, 1, 18, 3)
    assert len(held["0.weight.index"]) == -(-35 * bits_ // 8)
    assert [(s.name, s.codebook, s.index) for s in sizes(tmp_path / "m") if s.codebook] == [
        ("0.bias", slots * 3 * 4, -(-35 * bits_ // 8)),
        ("0.weight", slots * 54 * 4, -(-35 * bits_ // 8)),
    ]
    twin = network(1)
    plan.apply_(twin)
    for other in (network(1), twin):
        ws.load(tmp_path / "m", other)
        assert bits(output(other, x)) == bits(output(model, x))
        assert numbers(other) == numbers(model)
        assert ws.report(other) == ws.report(model)
    ws.unshare_(model)
    for dense in (ws.tensors(tmp_path / "m"), rebuilt(tmp_path / "m")):
        assert {name: bits(t) for name, t in dense.items()} == numbers(model)


def test_files_for_another_model_change_nothing(tmp_path: Path) -> None:
    model = network()
    ws.share_(model, ws.Lattice())
    ws.save(model, tmp_path / "m")
    wider = nn.Sequential(ws.LocallyConnected2d(2, 3, 3, (7, 7), padding=1, bias="position"), *network()[1:])
    conv = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), *network()[1:])
    other = network()
    ws.share_(other, ws.Lattice(period=1))
    for unfit in (wider, conv, other, network().double(), network().to("meta")):
        before = state(unfit)
        with pytest.raises(FileError):
            ws.load(tmp_path / "m", unfit)
        assert state(unfit) == before


def test_labels_of_no_kernel_are_refused() -> None:
    model = network()
    ws.share_(model, ws.Lattice())
    entries = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    entries["0.parametrizations.weight.0.index"][0, 0] = 9
    before = state(model)
    with pytest.raises(ModelChanged, match="labels from 0 to 9, there are 9 kernels"):
        model.load_state_dict(entries)
    assert state(model) == before
