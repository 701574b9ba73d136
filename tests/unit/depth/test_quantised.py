"""Quantised weights never share: refused where they are named, left out with the reason where they are not; and layers
of different dtype or device."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import state
from tests.zoo import chain
import weightshare as ws
from weightshare.errors import NoMatch, ShapeMismatch, SpecError
from weightshare.surgery.quantised import packed_layers, quantised

# Torch says each of these once in a process, at whichever test comes first.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
]


class Integers(nn.Module):
    """A linear layer in integers, with a scale for each row that is trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5).mul(50).to(dtype), requires_grad=False)
        self.scale = nn.Parameter(torch.rand(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.float() * self.scale).T


class Codes(Tensor):
    """A weight whose numbers lie in two other tensors, as torchao's do."""

    codes: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> "Codes":
        made = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)
        made.codes, made.scale = codes, scale
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> "Codes":
        return Codes(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        raise NotImplementedError(f"{function}")


def blocks(make: Any, depth: int = 4) -> nn.Module:
    """Blocks of a norm and a quantised layer."""
    return nn.Sequential(*(nn.ModuleDict({"norm": nn.LayerNorm(5), "fc": make()}) for _ in range(depth)))


def wrapped() -> nn.Module:
    layer = nn.Linear(5, 5)
    layer.weight = nn.Parameter(Codes(torch.zeros(5, 5, dtype=torch.int8), torch.ones(5, 1)), requires_grad=False)
    return layer


KINDS = {
    "int8": (lambda: Integers(torch.int8), "its numbers are int8, which mean nothing without the scale"),
    "uint8": (lambda: Integers(torch.uint8), "its numbers are uint8"),
    "float8": (lambda: Integers(torch.float8_e4m3fn), "its numbers are float8_e4m3fn"),
    "wrapper": (wrapped, "it is a Codes, whose numbers lie elsewhere, as those of quantised weights do"),
}
ALL = pytest.mark.parametrize(("make", "reason"), KINDS.values(), ids=KINDS)


@ALL
@pytest.mark.parametrize("where", ["*", "*.fc", "*.fc.weight"])
@pytest.mark.parametrize("fuse", [ws.first, ws.mean])
def test_a_quantised_weight_that_is_named_is_refused(make: Any, reason: str, where: str, fuse: Any) -> None:
    model = blocks(make)
    with pytest.raises(SpecError, match=rf"Cannot tie '0\.fc\.weight': {reason}.*before it is quantised"):
        ws.share_(model, ws.Tie(rate=2, fuse=fuse), where)
    assert model[0]["fc"].weight is not model[1]["fc"].weight
    assert model[0]["norm"].weight is not model[1]["norm"].weight


@ALL
def test_one_that_nobody_named_is_left_out_with_its_scale(make: Any, reason: str) -> None:
    model = blocks(make)
    plan = ws.share_(model, ws.Tie(rate=2))
    assert {group.name for group in plan.groups} == {"*.norm.weight", "*.norm.bias"}
    left = {out.path: out.reason for out in plan.left_out}
    assert left["2.fc.weight"].startswith(reason)
    (beside,) = {path for path in left if path.startswith("2.fc.")} - {"2.fc.weight"}
    assert left[beside].startswith("it belongs to a quantised layer ('weight' is ")
    assert model[0]["norm"].weight is model[1]["norm"].weight


@ALL
def test_an_exclusion_leaves_it_out(make: Any, reason: str) -> None:
    plan = ws.plan(blocks(make), ws.Tie(rate=2), ["*", "!*.fc"])
    assert {group.name for group in plan.groups} == {"*.norm.weight", "*.norm.bias"}


def test_a_model_of_integers_alone_has_nothing_to_share() -> None:
    model = nn.Sequential(*(Integers(torch.int8) for _ in range(4)))
    before = state(model)
    with pytest.raises(NoMatch, match=r"'0\.weight': its numbers are int8.*'0\.scale': it belongs to a quantised"):
        ws.share_(model, ws.Tie(rate=2))
    assert state(model) == before


def test_torchs_own_quantised_numbers() -> None:
    """Of which a copy ends Python without a word."""
    numbers = torch.quantize_per_tensor(torch.randn(5, 5), 0.1, 0, torch.qint8)
    assert quantised(numbers).startswith("its numbers are qint8, which mean nothing")
    model = nn.ParameterList([nn.Parameter(numbers, requires_grad=False) for _ in range(4)])
    with pytest.raises(SpecError, match="Cannot tie '0': its numbers are qint8"):
        ws.plan(model, ws.Tie(rate=2), "*")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_numbers_that_torch_computes_with_are_weights(dtype: torch.dtype) -> None:
    assert quantised(torch.zeros(3, dtype=dtype)) == ""


def dynamic(model: nn.Module, *kinds: type[nn.Module]) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, set(kinds))


def test_layers_of_torchs_dynamic_quantisation_are_left_out_by_name() -> None:
    model = dynamic(chain(depth=4).model, nn.Linear)
    reason = "a Linear of torch.ao.nn.quantized.dynamic packs its weights, so it has no parameters"
    plan = ws.plan(model, ws.Tie(rate=2))
    assert {group.name for group in plan.groups} == {"blocks.*.norm.weight", "blocks.*.norm.bias"}
    left = {out.path: out.reason for out in plan.left_out}
    assert left == dict.fromkeys(("stem", "head", *(f"blocks.{i}.fc{j}" for i in range(4) for j in (1, 2))), reason)
    named = ws.plan(model, ws.Tie(rate=2), ["blocks", "!blocks.3"])
    assert {out.path for out in named.left_out} == {f"blocks.{i}.fc{j}" for i in range(3) for j in (1, 2)}
    assert reason in str(named)


@pytest.mark.parametrize("where", ["blocks.*.fc1", ["blocks.*.fc1.weight"], torch.ao.nn.quantized.dynamic.Linear])
def test_one_that_is_named_is_no_riddle(where: object) -> None:
    model = dynamic(chain(depth=4).model, nn.Linear)
    with pytest.raises(NoMatch, match=r"is quantised, as [39] more: a Linear of torch\.ao.*before"):
        ws.plan(model, ws.Tie(rate=2), where)


def test_a_model_that_is_quantised_altogether() -> None:
    model = dynamic(nn.Sequential(nn.Linear(5, 5), nn.LSTM(5, 5)), nn.Linear, nn.LSTM)
    assert list(packed_layers(model)) == ["0", "1"]
    with pytest.raises(SpecError, match=r"no parameters.*'0' is quantised, as 1 more: a Linear"):
        ws.plan(model, ws.Tie(rate=2))


def two_dtypes() -> nn.Module:
    model, _ = chain()
    for index in (1, 3):
        model.blocks[index].to(torch.bfloat16)
    return model


@pytest.mark.parametrize("where", [None, "blocks"])
def test_a_plan_says_that_layers_of_different_dtype_share_apart(where: str | None) -> None:
    plan = ws.plan(two_dtypes(), ws.Tie(rate=2), where)
    (note,) = plan.notes
    assert note.startswith("'blocks.*.norm.weight' is float32 in blocks.0.norm.weight blocks.2.norm.weight")
    assert "and bfloat16 in blocks.1.norm.weight blocks.3.norm.weight, and 5 more roles so" in note
    assert "different dtype never share one slot" in note
    assert note in str(plan)


def test_a_role_of_one_dtype_is_not_warned_of() -> None:
    assert ws.plan(two_dtypes(), ws.Tie(rate=2), "blocks.[0245]").notes == ()


def test_one_layer_of_another_dtype_is_left_out_with_it() -> None:
    model, _ = chain()
    model.blocks[2].fc1.to(torch.float64)
    plan = ws.plan(model, ws.Tie(rate=2), "*.fc1.weight")
    (left,) = plan.left_out
    assert (left.path, "dtype float64" in left.reason) == ("blocks.2.fc1.weight", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: layer.to("meta"), "got device meta, the slot holds cpu. Move them to one device first"),
        (lambda layer: layer.double(), "got dtype torch.float64, the slot holds torch.float32. Convert the model"),
        (lambda layer: layer.requires_grad_(False), "got requires_grad False, the slot holds True. Freeze all"),
    ],
    ids=["device", "dtype", "frozen"],
)
@pytest.mark.parametrize("fuse", [ws.first, ws.mean])
def test_layers_that_cannot_be_fused_say_what_to_do(change: Any, message: str, fuse: Any) -> None:
    model, _ = chain(depth=4)
    change(model.blocks[3])
    before = state(model)
    with pytest.raises(ShapeMismatch, match=rf"Cannot tie 'blocks\.3\.norm\.weight' to 'blocks\.\d.*{message}"):
        ws.share_(model, ws.Tie(slots=[0, 1, 1, 0], fuse=fuse), "blocks")
    assert state(model) == before


def test_a_model_that_moved_after_it_was_planned_for() -> None:
    model, _ = chain(depth=4)
    plan = ws.plan(model, ws.Tie(rate=2, fuse=ws.mean))
    model.blocks[1].double()
    with pytest.raises(ws.SharingError, match=r"'blocks\.1\.norm\.weight' has changed since the plan.*float64"):
        plan.apply_(model)
