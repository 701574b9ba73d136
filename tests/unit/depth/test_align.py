"""Aligning inner units: the network computes what it did, and permuted copies of one block become equal."""

from collections.abc import Callable
import sys

import pytest
import torch
from torch import Tensor, nn

from tests.support import output, state
from weightshare.depth.align import align_, match
from weightshare.depth.fuse import mean
from weightshare.depth.tie import Tie
from weightshare.depth.units import Pattern, find_units, tensor_at
from weightshare.errors import ConfigError
from weightshare.models.by_name import import_timm
from weightshare.models.resnet import resnet20
from weightshare.planning import Plan, make_plan
from weightshare.surgery import edit


class MLP(nn.Module):
    """Hidden units without an order, and a residual stream around them."""

    def __init__(self, width: int = 3, hidden: int = 7) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.tanh(self.fc1(x)))


def mlps() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*(MLP() for _ in range(4))), torch.randn(5, 3)


def vit() -> tuple[nn.Module, Tensor]:
    options = {"depth": 4, "embed_dim": 15, "num_heads": 5, "img_size": 16, "patch_size": 8, "num_classes": 7}
    return import_timm().create_model("vit_tiny_patch16_224", **options), torch.randn(2, 3, 16, 16)


def convnext() -> tuple[nn.Module, Tensor]:
    options = {"depths": (3, 2, 1, 1), "dims": (5, 7, 11, 13), "num_classes": 3, "conv_mlp": True}
    return import_timm().create_model("convnextv2_atto", **options), torch.randn(2, 3, 32, 32)


def bert() -> tuple[nn.Module, Tensor]:
    import_timm()  # where torchvision is a CUDA build and torch is not, transformers needs what this declares
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 15, "num_hidden_layers": 4, "num_attention_heads": 5, "intermediate_size": 7}
    model = BertModel(BertConfig(**sizes, vocab_size=13, max_position_embeddings=11))
    return First(model), torch.randint(13, (2, 11))


class First(nn.Module):
    """The last hidden state alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).last_hidden_state


def encoder() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(15, 5, 7, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    for weight in model.parameters():  # torch makes all layers copies of one
        nn.init.normal_(weight)
    return model, torch.randn(2, 3, 15)


def resnet() -> tuple[nn.Module, Tensor]:
    return resnet20((5, 7, 11), blocks=5), torch.randn(2, 3, 9, 9)


NETWORKS = [mlps, vit, convnext, bert, encoder, resnet]


def randomised(make: Callable[[], tuple[nn.Module, Tensor]]) -> tuple[nn.Module, Tensor]:
    """A network all of whose numbers matter: norms are not 1, biases not 0, statistics not those of no data."""
    torch.manual_seed(0)
    model, example = make()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) / 3)
    return model, example


def planned(model: nn.Module, rate: float = 2) -> Plan:
    return make_plan(model, Tie(rate=rate, fuse=mean), None)


@pytest.mark.parametrize("make", NETWORKS)
def test_outputs_stay_and_layers_come_closer(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    model, example = randomised(make)
    model.double()
    example = example.double() if example.is_floating_point() else example
    expected = output(model, example)
    plan = planned(model)
    with edit.transaction(model) as edits:
        aligned = align_(edits, plan.groups)
    torch.testing.assert_close(output(model, example), expected, rtol=1e-9, atol=1e-9)
    assert len(aligned.units) == {mlps: 1, vit: 2, convnext: 2, bert: 2, encoder: 2, resnet: 3}[make]
    assert all(one.after < one.before for one in aligned.units)
    assert sum(sum(one.moved.values()) for one in aligned.units) > 10
    assert not {left.path for left in aligned.left_out} & {one.name for one in aligned.units}
    plan.apply_(model)


@pytest.mark.parametrize("make", NETWORKS)
def test_permuted_copies_become_equal(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    model, example = randomised(make)
    plan = planned(model, rate=1)
    for group in plan.groups:  # every block of a role a copy of the first one ...
        for path in group.items[1:]:
            tensor_at(model, path).data.copy_(tensor_at(model, group.items[0]))
    expected = output(model, example)
    for name, block in model.named_modules():  # ... with its inner units in another order
        if f"{name}." in {path[: len(name) + 1] for group in plan.groups for path in group.items[1:]}:
            for units in find_units(block)[0]:
                order = torch.randperm(units.count)
                for span in units.spans:
                    tensor_at(block, span.path).data.copy_(span.permuted(tensor_at(block, span.path), order))
    torch.testing.assert_close(output(model, example), expected, rtol=1e-3, atol=1e-3)
    ties = planned(model).ties
    pairs = [tie[:2] for tie in ties if len(tie) > 1]
    assert not all(torch.equal(tensor_at(model, a), tensor_at(model, b)) for a, b in pairs)
    with edit.transaction(model) as edits:
        aligned = align_(edits, planned(model).groups)
    assert [one.after for one in aligned.units] == [0.0] * len(aligned.units)
    assert all(torch.equal(tensor_at(model, path), tensor_at(model, tie[0])) for tie in ties for path in tie)


def test_each_layer_is_matched_to_the_mean_of_those_before_it() -> None:
    torch.manual_seed(0)
    net, _ = mlps()
    blocks = [torch.cat([m.fc1.weight, m.fc1.bias[:, None], m.fc2.weight.T], 1).detach().double() for m in net]
    order_1 = match(blocks[0], blocks[1])
    order_2 = match((blocks[0] + blocks[1][order_1]) / 2, blocks[2])
    with edit.transaction(net) as edits:
        aligned = align_(edits, make_plan(net, Tie(slots=[0, 0, 0, 1]), None).groups)
    assert torch.equal(net[2].fc2.weight.double(), blocks[2][order_2, 4:].T)
    assert aligned.units[0].moved.keys() == {0, 1, 2}
    assert torch.equal(net[3].fc1.bias.double(), blocks[3][:, 3])
    mean_of_all = (blocks[0] + blocks[1][order_1] + blocks[2][order_2]) / 3
    off = sum((rows - mean_of_all).square().sum() for rows in (blocks[0], blocks[1][order_1], blocks[2][order_2]))
    assert aligned.units[0].after == pytest.approx((off / sum(b.square().sum() for b in blocks[:3])).sqrt().item())


def test_only_what_is_shared_decides_and_all_of_a_unit_moves() -> None:
    torch.manual_seed(0)
    net, example = mlps()
    expected = output(net, example)
    before = net[1].fc2.weight.detach().clone()
    order = match(net[0].fc1.weight.detach().double(), net[1].fc1.weight.detach().double())
    with edit.transaction(net) as edits:
        align_(edits, make_plan(net, Tie(rate=2), "*.fc1.weight").groups)
    assert torch.equal(net[1].fc2.weight, before[:, order])
    torch.testing.assert_close(output(net, example), expected)


def _aligned_then_failed(net: nn.Module) -> None:
    with edit.transaction(net) as edits:
        align_(edits, planned(net).groups)
        raise ZeroDivisionError


def test_a_failure_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    net, _ = mlps()
    before = state(net)
    with pytest.raises(ZeroDivisionError):
        _aligned_then_failed(net)
    assert state(net) == before


def test_gradients_of_what_moves_are_dropped() -> None:
    torch.manual_seed(0)
    net, example = mlps()
    net(example).sum().backward()
    with edit.transaction(net) as edits:
        align_(edits, planned(net).groups)
    assert net[0].fc1.weight.grad is not None
    assert net[1].fc1.weight.grad is None


class PositionWise(MLP):
    """Looks like an MLP; tells its hidden units apart."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.fc1(x))
        return x + self.fc2(hidden * torch.linspace(0, 1, 7, dtype=x.dtype))


class Demanding(MLP):
    """Does not run on one tensor."""

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        return super().forward(x) * scale


class OneHead(nn.Module):
    """Attention of one head."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 1
        self.qkv = nn.Linear(3, 9)
        self.proj = nn.Linear(3, 3)


class Norms(nn.Module):
    """A residual block that registers its norms after its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(5), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (PositionWise, "tells them apart"),
        (Demanding, "does not run on a tensor"),
        (OneHead, "it has one unit"),
        (Norms, "tells them apart"),
        (lambda: MLP(width=3).requires_grad_(False).to("meta"), "on the meta device"),
    ],
)
def test_what_only_looks_symmetric_is_refused(block: Callable[[], nn.Module], reason: str) -> None:
    found, refused = find_units(block())
    assert found == []
    assert [reason in text for text in refused.values()] == [True]


def test_blocks_that_are_left_alone_are_listed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(PositionWise() for _ in range(2)))
    before = state(net)
    with edit.transaction(net) as edits:
        aligned = align_(edits, planned(net).groups)
    assert state(net) == before
    assert aligned.units == ()
    assert "Kept as it is: *.fc1 → fc2: its output changes with their order" in str(aligned)
    assert {left.path for left in aligned.left_out} > {"*.fc2.bias"}


def test_a_layer_that_is_read_elsewhere_keeps_its_order() -> None:
    torch.manual_seed(0)
    net, example = mlps()
    net[3].fc2.weight = net[1].fc2.weight
    expected = output(net, example)
    with edit.transaction(net) as edits:
        aligned = align_(edits, make_plan(net, Tie(rate=2), "*.fc1").groups)
    assert torch.equal(output(net, example), expected)
    assert "read elsewhere too" in aligned.left_out[0].reason


def test_a_pattern_of_your_own() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w3, self.w2 = nn.Linear(3, 7), nn.Linear(3, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.w2(self.w1(x).sigmoid() * self.w3(x))

    torch.manual_seed(0)
    net, example = nn.Sequential(Gated(), Gated()), torch.randn(5, 3)
    expected = output(net, example)
    with edit.transaction(net) as edits:
        aligned = align_(edits, planned(net).groups, [Pattern(("w1", "w3"), ("w2",))])
    assert aligned.units[0].name == "*.w1+w3 → w2"
    assert aligned.units[0].moved[1] > 0
    torch.testing.assert_close(output(net, example), expected)


def test_heads_of_another_number_are_not_permuted() -> None:
    torch.manual_seed(0)
    model, _ = vit()
    model.blocks[2].attn.num_heads, model.blocks[2].attn.head_dim = 3, 5
    with edit.transaction(model) as edits:
        aligned = align_(edits, planned(model).groups)
    assert [left.reason for left in aligned.left_out[:1]] == ["block 2 has 3 heads, the first one 5"]


def test_the_identity_wins_a_tie() -> None:
    assert match(torch.zeros(5, 2), torch.zeros(5, 2)).tolist() == [0, 1, 2, 3, 4]
    ones = torch.ones(7, 3)
    assert match(ones, ones).tolist() == list(range(7))


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ConfigError, match=r"pip install 'weightshare\[graph\]'"):
        match(torch.eye(3), torch.eye(3))
