"""What people do to models before and after sharing: compile, wrap, parametrize, bring their own orders and fusions."""

from dataclasses import dataclass
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from tests.zoo import chain
import weightshare as ws
from weightshare.depth.fuse import Fusion
from weightshare.depth.topology import Order, Spread
from weightshare.errors import FileError, ModelChanged, SpecError
from weightshare.parts import Part


def net(depth: int = 4) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))


def test_a_compiled_model_is_shared_under_its_own_names(tmp_path: Any) -> None:
    model = net()
    compiled = torch.compile(model, backend="eager")
    plan = ws.share_(compiled, ws.Tie(rate=2), where="*.weight")
    assert plan.groups[0].items == ("0.weight", "1.weight", "2.weight", "3.weight")
    assert len(ws.report(model).groups) == 1
    ws.save(compiled, tmp_path / "m.safetensors")
    assert ws.load(tmp_path / "m.safetensors", net())[0].weight.equal(model[0].weight)
    ws.unshare_(model)
    assert model[0].weight is not model[1].weight


def test_a_model_inside_data_parallel_is_refused(tmp_path: Any) -> None:
    model = net()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(ModelChanged, match="share first, wrap then"):
            ws.share_(wrapped, ws.Tie(rate=2))
    finally:
        torch.distributed.destroy_process_group()
    assert model[0].weight is not model[1].weight


def test_a_parametrization_with_a_buffer_is_left_out_with_the_reason() -> None:
    model = nn.Sequential(*(orthogonal(nn.Linear(4, 4)) for _ in range(4)))
    plan = ws.plan(model, ws.Tie(rate=2))
    assert [group.name for group in plan.groups] == ["*.bias"]
    assert {left.path.partition(".")[2] for left in plan.left_out} == {"parametrizations.weight.original"}
    assert "keeps a buffer too" in plan.left_out[0].reason


def test_a_parametrization_without_a_buffer_is_shared() -> None:
    model = nn.Sequential(*(weight_norm(nn.Linear(4, 4)) for _ in range(4)))
    ws.share_(model, ws.Tie(rate=4, fuse=ws.mean))
    assert torch.equal(model[0].weight, model[3].weight)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_model_that_torch_cannot_copy_is_refused_with_advice() -> None:
    model = nn.Sequential(*(nn.utils.weight_norm(nn.Linear(3, 3)) for _ in range(2)))
    ws.share_(model, ws.Tie(rate=2))
    model(torch.ones(1, 3))
    with pytest.raises(ModelChanged, match="cannot be copied"):
        ws.fold(model)


def test_retie_forgets_a_gradient_of_one_reader_alone() -> None:
    model = net()
    ws.share_(model, ws.Tie(rate=2), where="*.weight")
    for layer in (model[1], model[3]):
        layer.weight = nn.Parameter(layer.weight.detach().clone())
    model(torch.ones(1, 3)).sum().backward()
    assert ws.retie_(model) == ["1.weight", "3.weight"]
    assert model[0].weight.grad is None


def test_unshare_keeps_the_class_and_the_attributes_of_a_parameter() -> None:
    class Tagged(nn.Parameter):
        pass

    model = net(2)
    for layer in model:
        layer.weight = Tagged(layer.weight.detach())
        layer.weight.tag = "mine"
    ws.share_(model, ws.Tie(rate=2), where="*.weight")
    ws.unshare_(model)
    assert isinstance(model[1].weight, Tagged)
    assert model[1].weight.tag == "mine"
    assert model[1].weight is not model[0].weight


@dataclass(frozen=True, repr=False)
class Broken(Order):
    """Returns what it is given."""

    result: tuple[int, ...] | None

    def __call__(self, layers: int, slots: int) -> Any:
        return None if self.result is None else list(self.result)


@pytest.mark.parametrize("result", [None, (0, 0, 1), (0, 0, 0, 0), (0, 0, 1, 2), (-1, -1, 0, 0), (7, 7, 7, 7)])
def test_an_order_of_your_own_that_does_not_fit_is_named(result: tuple[int, ...] | None) -> None:
    with pytest.raises(SpecError, match="The order broken"):
        ws.plan(net(), ws.Tie(rate=2, order=Broken(result)))


@dataclass(frozen=True, repr=False)
class Beyond(Spread):
    """Layers that are not there."""

    def __call__(self, layers: int) -> range:
        return range(2, 9)


def test_a_spread_of_your_own_that_does_not_fit_is_named() -> None:
    with pytest.raises(SpecError, match="The spread beyond gives range"):
        ws.plan(net(), ws.Tie(rate=2, spread=Beyond()))


@dataclass(frozen=True, repr=False)
class Gives(Fusion):
    """Returns what its name says."""

    what: str

    def __call__(self, weights: Any, layers: Any, depth: int) -> Any:
        return {"scalar": weights.mean(), "nothing": None, "integers": weights[0].int()}[self.what]


@pytest.mark.parametrize("what", ["scalar", "nothing", "integers"])
def test_a_fusion_of_your_own_that_does_not_fit_is_named(what: str) -> None:
    with pytest.raises(SpecError, match=r"The fusion of '\*\.weight' gives"):
        ws.share_(net(), ws.Tie(rate=2, fuse=Gives(what)))


def test_a_choice_that_no_plan_can_hold_is_refused_at_once() -> None:
    class Bare(Fusion):
        def __call__(self, weights: Any, layers: Any, depth: int) -> Any:
            return weights[0]

    @dataclass(frozen=True, repr=False)
    class Holds(Fusion):
        tensor: Any

        def __call__(self, weights: Any, layers: Any, depth: int) -> Any:
            return weights[0]

    with pytest.raises(SpecError, match="Bare a frozen dataclass"):
        ws.Tie(rate=2, fuse=Bare())
    with pytest.raises(SpecError, match="cannot be written as JSON"):
        ws.plan(net(), ws.Tie(rate=2, fuse=Holds(object())))


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan["groups"].append(dict(plan["groups"][0], slots=[0, 1, 1, 0])),
        lambda plan: plan.update(stored_before=-5),
        lambda plan: plan.update(groups=[]),
        lambda plan: plan["groups"][0].update(slots=[0, 0.9, 1, 1]),
    ],
    ids=["one parameter in two groups", "negative count", "no group", "a broken slot"],
)
def test_an_edited_plan_is_refused(change: Any) -> None:
    plan = json.loads(ws.plan(net(), ws.Tie(rate=2)).to_json())
    change(plan)
    with pytest.raises(FileError):
        ws.Plan.from_json(json.dumps(plan))


def test_an_edited_count_is_refused_when_applied() -> None:
    model = net()
    plan = json.loads(ws.plan(model, ws.Tie(rate=2)).to_json()) | {"stored_before": 49}
    with pytest.raises(ModelChanged, match="stores 48 numbers"):
        ws.Plan.from_json(json.dumps(plan)).apply_(model)


@pytest.mark.parametrize("verb", [ws.unshare_, ws.retie_, ws.fold, ws.report, lambda m: ws.save(m, "unused")])
def test_what_is_no_module_is_named(verb: Any) -> None:
    with pytest.raises(SpecError, match=r"got NoneType, need an nn\.Module"):
        verb(None)


@pytest.mark.parametrize("example", [5, None.__class__, torch.zeros(2, 7)])
def test_an_example_that_does_not_fit_is_named(example: Any) -> None:
    with pytest.raises(SpecError, match="example input"):
        ws.report(net(), example)


def test_a_meta_model_is_planned_and_not_counted() -> None:
    model = net().to("meta")
    assert ws.plan(model, ws.Tie(rate=2)).stored_after == 24
    with pytest.raises(SpecError, match="meta device"):
        ws.report(model)


def test_recurrent_layers_count() -> None:
    numbers = ws.report(nn.LSTM(5, 7, batch_first=True), torch.zeros(2, 3, 5))
    assert numbers.macs == 2 * 3 * 4 * 7 * (5 + 7)


def test_encoder_layers_count() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 4)
    per_token = 16 * 48 + 16 * 16 + 2 * 16 * 32
    assert ws.report(encoder, torch.zeros(2, 5, 16)).macs == 4 * (2 * 5 * per_token + 2 * 2 * 5 * 5 * 16)


def test_left_out_parts_of_an_outlier_are_said_once_for_the_block() -> None:
    model, _ = chain()
    text = str(ws.plan(model, ws.Tie(rate=2)))
    assert "stem.weight" in text
    assert "head.bias" in text


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    assert ws.Tie(rate=np.int64(2)) == ws.Tie(rate=2)
    assert Part.from_dict(ws.Tie(rate=np.float32(1.5)).to_dict()) == ws.Tie(rate=1.5)
