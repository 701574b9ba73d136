"""`Codebook`: what it chooses, what its plan says, its gradient, and every way in and out of a model."""

from collections.abc import Callable
import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import bits, output, state
from tests.zoo import chain, subclass
import weightshare as ws
from weightshare.errors import ModelChanged, SpecError
from weightshare.values.codebook import by_cluster, names


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(11, 13), nn.ReLU(), nn.Linear(13, 7))


def few(model: nn.Module, values: int = 5) -> nn.Module:
    """Weights of few values, as a proximal step leaves them; zero is one of them."""
    with torch.no_grad():
        for tensor in (tensor for tensor in model.parameters() if tensor.ndim > 1):
            tensor.copy_((torch.randint(values, tensor.shape) - 2) / 4)
    return model


def test_own_values_change_no_output() -> None:
    model, x = few(network()), torch.randn(3, 11)
    before = output(model, x)
    plan = ws.share_(model, ws.Codebook())
    assert [group.clusters for group in plan.groups] == [5, 5]
    assert bits(output(model, x)) == bits(before)
    assert model[0].parametrizations.weight.original.tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]


def test_the_plan_counts_memory_and_file_apart() -> None:
    model = network()
    plan = ws.plan(model, ws.Codebook(clusters=9))
    assert (plan.stored_before, plan.stored_after) == (11 * 13 + 13 + 13 * 7 + 7, 9 + 13 + 9 + 7)
    first = plan.groups[0]
    assert first.on_file == (9 * 4, -(-11 * 13 * 4 // 8), 11 * 13 * 4)
    assert (first.bits, first.index_memory) == (4, 11 * 13)
    text = str(plan)
    assert "Codebook(clusters=9) everywhere" in text
    assert "234 bytes of labels in memory, as buffers.\n936 bytes of these weights on file before; 72 of" in text
    assert max(map(len, text.splitlines())) <= 118
    plan.apply_(model)
    counted = ws.report(model)
    assert (counted.stored, counted.bytes, counted.buffer_bytes) == (plan.stored_after, plan.bytes_after, 234)


def test_the_plan_holds_no_tensor_and_comes_back_from_json() -> None:
    model = network()
    plan = ws.plan(model, ws.Codebook(clusters=9, init="quantiles", gradient="sum", zeros="keep", seed=3))
    again = ws.Plan.from_json(plan.to_json())
    assert (again, str(again)) == (plan, str(plan))
    assert len(plan.to_json()) < 3000
    again.apply_(model)
    assert model[2].weight.unique().numel() == 9


@pytest.mark.parametrize("clusters", [0, -1, "9", None, 9.0, 2**16 + 1, 144, True])
def test_a_plan_with_impossible_clusters_is_no_plan(clusters: object) -> None:
    text = ws.plan(network(), ws.Codebook(clusters=9)).to_json()
    hostile = text.replace('"clusters": 9\n  }', f'"clusters": {json.dumps(clusters)}\n  }}')
    assert hostile != text
    with pytest.raises(ws.SharingError):
        ws.Plan.from_json(hostile)


@pytest.mark.parametrize(
    "fields",
    [
        {"clusters": 0},
        {"clusters": 2**16 + 1},
        {"clusters": 2.0},
        {"clusters": True},
        {"clusters": "9"},
        {"init": "random"},
        {"gradient": "max"},
        {"zeros": True},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": None},
        {"init": ["kmeans"]},
    ],
)
def test_a_spec_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"Codebook\({next(iter(fields))}="):
        ws.Codebook(**fields)


# The gradient


def both(spec: ws.Codebook, make: Callable[[], nn.Module] = network) -> tuple[nn.Module, nn.Module]:
    """A shared model, and its dense twin."""
    model = few(make())
    ws.share_(model, spec)
    return model, ws.fold(model)


def trained(model: nn.Module, x: Tensor) -> None:
    model(x).square().sum().backward()


@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_the_gradient_of_a_value_is_that_of_its_members(gradient: Any) -> None:
    model, twin = both(ws.Codebook(gradient=gradient))
    x = torch.randn(17, 11)
    trained(model, x)
    trained(twin, x)
    for layer, dense in ((model[0], twin[0]), (model[2], twin[2])):
        chain_ = layer.parametrizations.weight
        members = [dense.weight.grad[chain_[0].index == label].double() for label in range(5)]
        wanted = torch.stack([getattr(torch, gradient)(grads) for grads in members])
        torch.testing.assert_close(chain_.original.grad.double(), wanted, rtol=1e-5, atol=1e-5)


def test_sums_by_cluster_are_right_over_many_rows() -> None:
    """Above 8 numbers a cluster they are added in rows first."""
    numbers, index = torch.randn(101, 103), torch.randint(7, (101, 103), dtype=torch.uint8)
    wanted = torch.zeros(7, dtype=torch.float64).index_add(0, index.long().reshape(-1), numbers.double().reshape(-1))
    torch.testing.assert_close(by_cluster(numbers, index, 7).double(), wanted, rtol=1e-5, atol=1e-4)
    ones = by_cluster(torch.ones(101, 103), index, 7)
    assert ones.tolist() == index.reshape(-1).long().bincount(minlength=7).tolist()


def test_the_sum_is_the_true_gradient_twice_over() -> None:
    model = few(nn.Linear(3, 5, bias=False).double())
    ws.share_(model, ws.Codebook(gradient="sum"))
    x, index = torch.randn(2, 3, dtype=torch.float64), model.parametrizations.weight[0].index
    decoder = model.parametrizations.weight[0]

    def loss(codebook: Tensor) -> Tensor:
        return (x @ decoder(codebook).T).pow(3).sum()

    codebook = model.parametrizations.weight.original.detach().requires_grad_()
    assert torch.autograd.gradcheck(loss, codebook)
    assert torch.autograd.gradgradcheck(loss, codebook)
    assert index.shape == (5, 3)


def test_retraining_steps_values_and_not_labels() -> None:
    model, _ = both(ws.Codebook())
    labels = model[0].parametrizations.weight[0].index.clone()
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.1), lr=0.5)
    before = model[0].parametrizations.weight.original.detach().clone()
    trained(model, torch.randn(17, 11))
    step = model[0].parametrizations.weight.original.grad.clone()
    optimizer.step()
    torch.testing.assert_close(model[0].parametrizations.weight.original.detach(), before - 0.5 * step)  # no decay
    assert torch.equal(model[0].parametrizations.weight[0].index, labels)
    assert model[0].weight.unique().numel() == 5


def test_zeros_train_by_default_and_stay_where_asked() -> None:
    for zeros, moved in (("train", True), ("keep", False)):
        model, twin = both(ws.Codebook(zeros=zeros))
        optimizer = torch.optim.AdamW(ws.param_groups(model, weight_decay=0.1), lr=0.1)
        pruned = twin[0].weight == 0
        for _ in range(3):
            trained(model, torch.randn(17, 11))
            optimizer.step()
        assert bool((model[0].weight[pruned] != 0).all()) == moved
        assert bool((model[0].weight[pruned] == 0).all()) != moved
        assert bool((model[0].weight[~pruned] != twin[0].weight[~pruned]).all())


def test_per_sample_gradients_by_vmap() -> None:
    model, _ = both(ws.Codebook(clusters=3))
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    batch = torch.randn(5, 11)

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (sample,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, batch)
    trained(model, batch)
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(each[name].sum(0), tensor.grad, rtol=1e-4, atol=1e-5)


# In and out


def test_a_dense_weight_that_is_assigned_is_projected() -> None:
    model, _ = both(ws.Codebook())
    weight = torch.randn(13, 11)
    index = model[0].parametrizations.weight[0].index
    model[0].weight = weight
    wanted = torch.stack([weight[index == label].mean() for label in range(5)])
    torch.testing.assert_close(model[0].parametrizations.weight.original.detach(), wanted)


def test_unshare_of_a_copy_leaves_the_model_alone() -> None:
    """Torch's own remove_parametrizations takes the property off the class, which copies share."""
    model, _ = both(ws.Codebook())
    x = torch.randn(3, 11)
    wanted = output(model, x)
    twin, before = copy.deepcopy(model), state(model)
    ws.unshare_(twin)
    assert state(model) == before
    assert bits(output(twin, x)) == bits(output(model, x)) == bits(wanted)
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in network().named_parameters()]
    assert (type(twin[0]), type(model[0]).__name__) == (nn.Linear, "ParametrizedLinear")


def test_a_weight_keeps_its_memory_format() -> None:
    model = nn.Sequential(nn.Conv2d(8, 5, 3), nn.Linear(6, 7)).to(memory_format=torch.channels_last)
    model[1].weight = nn.Parameter(model[1].weight.detach().t().contiguous().t())
    before = [layer.weight.stride() for layer in model]
    ws.share_(model, ws.Codebook(clusters=5, init="quantiles"))
    assert [layer.weight.stride() for layer in model] == before
    x = torch.randn(2, 8, 9, 8).to(memory_format=torch.channels_last)
    out = model(x)
    (out**2).sum().backward()
    gradient = model[0].parametrizations.weight.original.grad
    small = ws.fold(model)
    assert [layer.weight.stride() for layer in small] == before
    assert torch.equal(small(x), out)
    (small(x) ** 2).sum().backward()
    labels = model[0].parametrizations.weight[0].index
    means = [small[0].weight.grad[labels == label].mean() for label in range(5)]
    torch.testing.assert_close(gradient, torch.stack(means))
    plain = model.to(memory_format=torch.contiguous_format)
    assert plain[0].weight.is_contiguous()
    assert torch.equal(plain[0].weight, small[0].weight)


def test_parameters_are_in_their_order_after_unshare() -> None:
    class Scaled(nn.Module):
        """A layer whose weight is not its first parameter."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))
            self.weight = nn.Parameter(torch.arange(15.0).remainder(4).view(5, 3))
            self.bias = nn.Parameter(torch.zeros(5))

    model = nn.ModuleDict({"one": Scaled()})
    before = list(model.state_dict())
    kind = type(model["one"])
    ws.share_(model, ws.Codebook(), "one.weight")
    ws.unshare_(model)
    assert list(model.state_dict()) == before
    assert type(model["one"]) is kind


def test_ties_and_codebooks_in_one_model() -> None:
    model, x = chain()
    few(model)
    ws.share_(model, ws.Tie(rate=2), "blocks")
    ws.share_(model, ws.Codebook(), ["stem", "head"])
    wanted = output(model, x)
    folded = ws.fold(model)
    assert bits(output(folded, x)) == bits(wanted)
    assert folded.blocks[0].fc1.weight is folded.blocks[1].fc1.weight
    ws.unshare_(model)
    assert bits(output(model, x)) == bits(wanted)
    assert sorted(model.state_dict()) == sorted(chain().model.state_dict())
    assert model.blocks[0].fc1.weight is not model.blocks[1].fc1.weight


def test_a_slot_of_one_reader_may_be_clustered_too() -> None:
    model, x = chain()
    ws.share_(model, ws.Tie(slots=[0, 0, 1, 1, 2, 3]), "*.fc1.weight")
    ws.share_(model, ws.Codebook(clusters=3), "blocks.5.fc1")
    wanted = output(model, x)
    assert ws.retie_(model) == []
    assert bits(output(ws.fold(model), x)) == bits(wanted)
    ws.unshare_(model)
    assert bits(output(model, x)) == bits(wanted)


def test_a_frozen_weight_stays_frozen() -> None:
    model = few(network())
    model[0].weight.requires_grad_(False)
    ws.share_(model, ws.Codebook())
    assert [model[i].parametrizations.weight.original.requires_grad for i in (0, 2)] == [False, True]
    ws.unshare_(model)
    assert [model[i].weight.requires_grad for i in (0, 2)] == [False, True]


def test_a_class_and_attributes_of_a_parameter_stay() -> None:
    model, _ = subclass()
    model[0].weight.tag = "kept"
    kind = type(model[0].weight)
    ws.share_(model, ws.Codebook(clusters=3))
    assert isinstance(model[0].parametrizations.weight.original, kind)
    ws.unshare_(model)
    assert (type(model[0].weight), model[0].weight.tag) == (kind, "kept")


@pytest.mark.parametrize("where", [None, "*"])
def test_other_dtypes_after_sharing(where: Any) -> None:
    model, x = few(network()), torch.randn(3, 11)
    ws.share_(model, ws.Codebook(), where)
    model.to(torch.bfloat16)
    trained(model, x.to(torch.bfloat16))
    assert model[0].weight.dtype == model[0].parametrizations.weight.original.grad.dtype == torch.bfloat16
    assert model[0].parametrizations.weight[0].index.dtype == torch.uint8


@pytest.mark.parametrize("label", [5, 255])
def test_labels_of_no_value_are_refused_before_anything_is_loaded(label: int) -> None:
    model, _ = both(ws.Codebook())
    entries = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    entries[names("2.weight")[1]][0, 0] = label
    before = state(model)
    with pytest.raises(ModelChanged, match=rf"labels from 0 to {label}, its codebook has 5 values"):
        model.load_state_dict({name: t + 1 if t.is_floating_point() else t for name, t in entries.items()})
    assert state(model) == before


def test_what_the_proximal_step_leaves_is_shared_as_it_is() -> None:
    """Penalty, codebook, retraining, fold: the way of the paper in small."""
    model, x = network(), torch.randn(17, 11)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(ws.prox_pairwise(layer.weight, step=0.3))
    before, distinct = output(model, x), [layer.weight.unique().numel() for layer in (model[0], model[2])]
    plan = ws.share_(model, ws.Codebook())
    assert [group.clusters for group in plan.groups] == distinct
    assert max(distinct) < 40
    assert bits(output(model, x)) == bits(before)
    optimizer = torch.optim.SGD(ws.param_groups(model, weight_decay=0.0), lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    folded = ws.fold(model)
    assert [folded[i].weight.unique().numel() for i in (0, 2)] == distinct
