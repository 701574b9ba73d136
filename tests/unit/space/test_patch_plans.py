"""Vision transformers with a weight for each patch: there and back, and what stays as it is."""

from collections.abc import Callable
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support import output, same_bits, state
import weightshare as ws
from weightshare.errors import AlreadyShared, ModelChanged, NoMatch, ShapeMismatch, SpecError
from weightshare.models.by_name import import_timm
from weightshare.space.fold import plan_fold
from weightshare.space.lattice import Lattice
from weightshare.space.patches import PatchLinear, patchwise_, plan_patches
from weightshare.space.plasticity import Hebbian
from weightshare.space.sleep import Sleep

SIZES = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 12, "num_heads": 3, "num_classes": 7}
VIT, DEIT = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
BOTH = pytest.mark.parametrize(("name", "tokens"), [(VIT, 17), (DEIT, 18)])
LAYERS = [f"blocks.{at}.{name}" for at in range(2) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


@pytest.fixture(scope="module")
def make() -> Callable[[str], nn.Module]:
    timm = import_timm()

    def made(name: str) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(name, **SIZES).eval()

    return made


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def two_layers(*parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 3), *parts)


# Networks


@BOTH
def test_a_vision_transformer_there_and_back(make: Any, name: str, tokens: int) -> None:
    model, x = make(name), images()
    original, expected = copy.deepcopy(model), output(model, x)
    plan = patchwise_(model, x[:1])
    assert [row.path for row in plan.rows] == LAYERS
    assert {row.positions for row in plan.rows} == {(tokens,)}
    assert plan.stored_before == sum(p.numel() for p in original.parameters())
    assert plan.stored_after == sum(p.numel() for p in model.parameters())
    assert {path for path, _ in plan.left_out} == {"head", "head_dist"} & {n for n, _ in original.named_modules()}
    assert "Left out" in str(plan)
    assert torch.allclose(output(model, x), expected, atol=1e-6)
    folded = ws.fold(model, tolerance=0.0)
    assert same_bits(folded.state_dict().values(), original.state_dict().values())
    assert torch.equal(output(folded, x), expected)
    assert [type(m) for m in folded.modules()] == [type(m) for m in original.modules()]


@BOTH
def test_gradients_of_the_copies_add_up(make: Any, name: str, tokens: int) -> None:
    model, x = make(name).double(), images().double()
    local = copy.deepcopy(model)
    patchwise_(local, x[:1])
    model(x).square().sum().backward()
    local(x).square().sum().backward()
    for path in LAYERS:
        linear, layer = model.get_submodule(path), local.get_submodule(path)
        assert layer.weight.grad.shape[0] == tokens
        assert torch.allclose(layer.weight.grad.sum((0, 1)).mT, linear.weight.grad, atol=1e-9)
        assert torch.allclose(layer.bias.grad, linear.bias.grad, atol=1e-9)


def test_with_the_patch_embedding_local_too(make: Any) -> None:
    model, x = make(VIT), images()
    original, expected = copy.deepcopy(model), output(model, x)
    patchwise_(model, x[:1])
    ws.localize_(model, x[:1])
    embedding: Any = model.get_submodule("patch_embed.proj")
    assert type(embedding) is ws.LocallyConnected2d
    assert embedding.positions == (4, 4)
    assert Lattice().assignment(embedding).labels.tolist() == [0] * 16
    assert torch.allclose(output(model, x), expected, atol=1e-6)
    assert same_bits(ws.fold(model).state_dict().values(), original.state_dict().values())


def test_states_and_copies(make: Any) -> None:
    model, other, x = make(VIT), make(VIT), images()
    patchwise_(model, x[:1], eps=0.1)
    patchwise_(other, x[:1])
    expected = output(model, x)
    assert torch.equal(output(copy.deepcopy(model), x), expected)
    assert not torch.equal(output(other, x), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(output(other, x), expected)


def train(model: nn.Module, sleep: Sleep | None) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    handles = [sleep.attach_(optimizer, model)] if sleep else []
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(images()).square().sum().backward()
        optimizer.step()
    assert [handle.sleeps for handle in handles] == [2] * len(handles)
    return model.eval()


def test_sleep_after_every_step_gives_a_plain_transformer(make: Any) -> None:
    model, x = make(DEIT), images()
    patchwise_(model, x[:1], prefix=2)
    awake = plan_fold(train(copy.deepcopy(model), None), x)
    assert awake.error > 0.01
    assert awake.output_error is not None
    assert awake.output_error > 1e-3
    trained = train(model, Sleep(every=1))
    assert plan_fold(trained, x).error == 0
    folded = ws.fold(trained, tolerance=0.0)
    assert not any(isinstance(module, PatchLinear) for module in folded.modules())
    assert torch.allclose(output(folded, x), output(trained, x), atol=1e-5)


def test_hebbian_sleep_brings_a_transformer_close_to_a_plain_one(make: Any) -> None:
    model, x = make(VIT), images()
    patchwise_(model, x[:1], eps=0.3)
    before = plan_fold(model, x)
    held = copy.deepcopy(model)
    Sleep(mode=Hebbian(gamma=1e-4)).now_(model)
    Sleep(mode=Hebbian(gamma=1.0)).now_(held)
    after, less = plan_fold(model, x), plan_fold(held, x)
    assert before.output_error is not None
    assert after.output_error is not None
    for one, between, other in zip(after.rows, less.rows, before.rows, strict=True):
        assert one.error < 0.05 * other.error
        assert one.error < between.error < other.error
    assert after.output_error < 0.05 * before.output_error
    with pytest.raises(ModelChanged, match=r"'blocks\.0\.attn\.qkv'"):
        ws.fold(held)


def test_tokens_that_another_image_size_gives_are_refused(make: Any) -> None:
    timm = import_timm()
    model = timm.create_model(VIT, **SIZES, dynamic_img_size=True).eval()
    patchwise_(model, images(1), where="blocks.0.mlp")
    with pytest.raises(ShapeMismatch, match=r"got an input of shape \(1, 26, 12\), need \(batch, 17, 12\)"):
        model(torch.zeros(1, 3, 40, 40))


# What stays, and why


class Twice(nn.Module):
    """Runs its layer on two numbers of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(x[:, :1])


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(1))


class Images(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, :, None])


class Unused(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        return x


class BatchBehind(Pooled):
    """`(tokens, batch, in)`, as torch's own transformers have it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.transpose(0, 1)).transpose(0, 1)


class Own(nn.Linear):
    pass


def hooked() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


def normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))


AWKWARD = pytest.mark.parametrize(
    ("part", "where", "reason"),
    [
        (Twice, "3.layer", "several numbers of tokens \\(7, 1\\)"),
        (Pooled, "3.head", "its input has 2 axes"),
        (Images, "3.head", "its input has 4 axes"),
        (Unused, "3.head", "the example did not run it"),
        (BatchBehind, "3.head", "several numbers of tokens \\(1, 2\\), in the example or in a batch twice as large"),
        (lambda: Own(3, 3), "3", "Own is a class of its own"),
        (hooked, "3", "it has hooks"),
        (normed, "3", "made by a parametrization"),
    ],
)


@AWKWARD
def test_what_does_not_fit_is_left_out_with_a_reason(part: Any, where: str, reason: str) -> None:
    net = two_layers(part())
    plan = plan_patches(net, torch.randn(1, 7, 3))
    assert [row.path for row in plan.rows] == ["0", "2"]
    assert [path for path, _ in plan.left_out] == [where]
    with pytest.raises(SpecError, match=reason):
        raise SpecError(plan.left_out[0][1])


@AWKWARD
def test_what_does_not_fit_is_refused_by_name(part: Any, where: str, reason: str) -> None:
    net = two_layers(part())
    before = state(net)
    with pytest.raises(SpecError, match=f"'{where}': .*{reason}"):
        patchwise_(net, torch.randn(1, 7, 3), where=where)
    assert state(net) == before


ENCODER = nn.TransformerEncoderLayer
DECODER = nn.TransformerDecoderLayer


@pytest.mark.parametrize(
    ("make", "inputs", "reason"),
    [
        (lambda: ENCODER(8, 2, 16, batch_first=True), 1, "reads the weight itself"),
        (lambda: ENCODER(8, 2, 16), 1, "reads the weight itself"),
        (lambda: DECODER(8, 2, 16), 2, "its input is \\(tokens, batch, in\\)"),
    ],
)
def test_layers_of_torch_that_cannot_have_it(make: Callable[[], nn.Module], inputs: int, reason: str) -> None:
    with pytest.raises(NoMatch, match=f"'linear1': .*{reason}"):
        plan_patches(make(), [torch.zeros(2, 5, 8)] * inputs)
    with pytest.raises(SpecError, match=f"'linear2': .*{reason}"):
        plan_patches(make(), [torch.zeros(2, 5, 8)] * inputs, where="linear2")


def test_a_decoder_layer_of_torch_with_the_batch_in_front() -> None:
    model, x = DECODER(8, 2, 16, batch_first=True), torch.randn(2, 5, 8)
    model.eval()
    expected = model(x, x)
    assert [row.path for row in patchwise_(model, [x, x]).rows] == ["linear1", "linear2"]
    assert torch.allclose(model(x, x), expected, atol=1e-6)


def test_tied_weights_stay_tied() -> None:
    net = two_layers(nn.Linear(3, 3), nn.Linear(3, 3))
    net[4].weight = net[3].weight  # type: ignore[assignment]
    plan = plan_patches(net, torch.randn(1, 7, 3))
    assert [path for path, _ in plan.left_out] == ["3", "4"]
    with pytest.raises(AlreadyShared, match=r"'3': its weight is one parameter with '4\.weight'"):
        plan_patches(net, torch.randn(1, 7, 3), where="3")


@pytest.mark.parametrize(
    ("net", "x", "options", "error", "message"),
    [
        (nn.Conv1d(3, 3, 1), torch.zeros(1, 3, 7), {}, NoMatch, "matches no linear layer of Conv1d"),
        (two_layers(), torch.zeros(1, 7, 3), {"where": "5"}, NoMatch, "where='5'"),
        (two_layers(), torch.zeros(7, 3), {}, NoMatch, "its input has 2 axes"),
        (two_layers(), torch.zeros(1, 7, 4), {}, SpecError, "cannot run on the example input"),
        (two_layers(), "image", {}, SpecError, "cannot run on the example input"),
        (nn.Linear(3, 3), torch.zeros(1, 7, 3), {"eps": -1.0}, SpecError, "eps=-1.0"),
        (two_layers(), torch.zeros(1, 7, 3), {"prefix": 7, "where": "0"}, SpecError, "tokens of the prefix alone"),
        (two_layers(), torch.zeros(1, 7, 3), {"prefix": -1}, SpecError, "prefix=-1"),
        (nn.Linear(3, 3), torch.zeros(1, 7, 3), {}, ModelChanged, "is the layer itself"),
        (7, torch.zeros(1, 7, 3), {}, SpecError, "need an nn.Module"),
    ],
)
def test_bad_input(net: Any, x: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        patchwise_(net, x, **options)


def test_a_plan_for_another_network_changes_nothing() -> None:
    plan = plan_patches(two_layers(), torch.zeros(1, 7, 3))
    wider = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 11))
    for net in (wider, nn.Sequential(nn.Linear(3, 5), nn.GELU()), nn.Sequential(nn.Linear(3, 5), nn.GELU(), Own(5, 3))):
        before = state(net)
        with pytest.raises(ModelChanged, match="'2'"):
            plan.apply_(net)
        assert state(net) == before


class Named(nn.Module):
    """Calls its linear layer by the name of the argument, and is called so too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv1d(7, 7, 1), nn.Linear(3, 3)

    def forward(self, tokens: Tensor, scale: float = 1.0) -> Tensor:
        return self.layer(input=self.conv(tokens)) * scale


def test_layers_that_are_called_by_name() -> None:
    net, x = Named(), torch.randn(2, 7, 3)
    expected = output(net, x)
    assert patchwise_(net, {"tokens": x, "scale": 2.0}).rows[0].positions == (7,)
    assert ws.localize_(net, [x]).rows[0].positions == (3,)
    assert torch.allclose(output(net, x), expected, atol=1e-6)


def test_a_parametrized_convolution_is_refused_by_name_too() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 3, 1)), nn.Conv1d(3, 3, 1))
    with pytest.raises(SpecError, match="'0': its weight is made by a parametrization"):
        ws.localize_(net, torch.zeros(1, 3, 7), where="0")
    assert [row.path for row in ws.localize_(net, torch.zeros(1, 3, 7)).rows] == ["1"]
