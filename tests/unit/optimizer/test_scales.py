"""Learning rates of slots: the mean instead of the sum, and layer-wise decay as BEiT and timm have it."""

import pytest
import torch
from torch import nn

from tests.zoo import chain, tied_embedding
import weightshare as ws
from weightshare.models.by_name import import_timm


def by_name(groups: list[dict], key: str) -> dict[str, float]:
    return {name: group[key] for group in groups for name in group["param_names"]}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_mean_is_exact_for_sgd(momentum: float) -> None:
    """The slow twin divides each slot's gradient by its readers, at the full learning rate and decay."""
    fast, example = chain()
    ws.share_(fast, ws.Tie(slots=[0, 0, 0, 1, 1, 2]), "*.fc1.weight")
    slow, _ = chain()
    ws.share_(slow, ws.Tie(slots=[0, 0, 0, 1, 1, 2]), "*.fc1.weight")
    slow.load_state_dict(fast.state_dict())
    readers = {"blocks.0.fc1.weight": 3, "blocks.3.fc1.weight": 2}
    quick = torch.optim.SGD(ws.param_groups(fast, 0.1, "mean", lr=0.01), lr=0.5, momentum=momentum)
    plain = torch.optim.SGD(ws.param_groups(slow, 0.1), lr=0.01, momentum=momentum)
    for _ in range(5):
        for model, optimizer in ((fast, quick), (slow, plain)):
            optimizer.zero_grad()
            model(example).square().mean().backward()
        for name, tensor in slow.named_parameters():
            tensor.grad /= readers.get(name, 1)
        quick.step()
        plain.step()
    for (name, one), (_, other) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def test_only_slots_of_plans_are_averaged() -> None:
    model, _ = tied_embedding()
    ws.share_(model, ws.Tie(rate=2), "*.fc1.weight")
    scales = by_name(ws.param_groups(model, 0.1, "mean"), "lr_scale")
    assert scales["layers.0.fc1.weight"] == 0.5
    assert scales["embed.weight"] == 1.0
    decays = by_name(ws.param_groups(model, 0.1, "mean"), "weight_decay")
    assert decays["layers.0.fc1.weight"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "beit_base_patch16_224",
        "mixer_s32_224",
        "resnet18",
        "regnetx_002",
        "densenet121",
        "efficientnet_b0",
        "mobilenetv3_small_100",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_layers_are_those_of_timm(name: str) -> None:
    timm = import_timm()
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        model = timm.create_model(name)
    listed = getattr(model, "no_weight_decay", set)()
    theirs = param_groups_layer_decay(model, 0.1, listed, layer_decay=0.7)
    names = {id(tensor): path for path, tensor in model.named_parameters()}
    expected = {names[id(t)]: group["lr_scale"] for group in theirs for t in group["params"]}
    ours = by_name(ws.param_groups(model, 0.1, layer_decay=0.7), "lr_scale")
    assert ours == pytest.approx(expected)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "mixer_s32_224", "resnet18"])
def test_decay_is_that_of_timm(name: str) -> None:
    timm = import_timm()
    from timm.optim import param_groups_weight_decay

    with torch.device("meta"):
        model = timm.create_model(name)
    listed = getattr(model, "no_weight_decay", set)()
    names = {id(tensor): path for path, tensor in model.named_parameters()}
    theirs = param_groups_weight_decay(model, 0.1, no_weight_decay_list=listed)
    decays = {names[id(t)]: group["weight_decay"] for group in theirs for t in group["params"]}
    assert by_name(ws.param_groups(model, 0.1), "weight_decay") == decays


def test_layers_of_a_model_inside_another_and_of_a_head_that_is_an_embedding() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = nn.Embedding(13, 5)
            self.h = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])
            self.ln_f = nn.LayerNorm(5)
            self.lm_head = nn.Linear(5, 13, bias=False)
            self.lm_head.weight = self.wte.weight

    scales = by_name(ws.param_groups(nn.ModuleDict({"inner": Language()}), 0.1, layer_decay=0.5), "lr_scale")
    assert scales["inner.wte.weight"] == pytest.approx((0.5**4 + 1) / 2)
    assert scales["inner.ln_f.weight"] == pytest.approx(0.5)


def test_blocks_of_one_class_are_layers_though_no_two_are_alike() -> None:
    timm = import_timm()
    with torch.device("meta"):
        inner = timm.create_model("resnet18")
    wrapped = by_name(ws.param_groups(nn.ModuleDict({"net": inner}), 0.1, layer_decay=0.5), "lr_scale")
    layers = {f"layer{stage}.{block}.conv1.weight": 2 * stage + block - 1 for stage in (1, 2, 3, 4) for block in (0, 1)}
    assert {path: wrapped[f"net.{path}"] for path in layers} == {path: 0.5 ** (9 - at) for path, at in layers.items()}
    assert wrapped["net.conv1.weight"] == 0.5**9


def test_a_network_without_blocks_has_no_layers() -> None:
    with pytest.raises(ws.SharingError, match=r"layer_decay=0\.5: Linear has no blocks"):
        ws.param_groups(nn.Linear(2, 3), 0.1, layer_decay=0.5)


def test_a_slot_has_the_mean_of_its_readers_scales() -> None:
    model, _ = chain(depth=4)
    ws.share_(model, ws.Tie(slots=[0, 1, 0, 2]), "*.fc1.weight")
    scales = by_name(ws.param_groups(model, 0.1, layer_decay=0.5), "lr_scale")
    assert scales["blocks.0.fc1.weight"] == pytest.approx((0.5**4 + 0.5**2) / 2)
    assert scales["blocks.0.fc2.weight"] == pytest.approx(0.5**4)
    assert scales["stem.weight"] == pytest.approx(0.5**5)
    assert scales["head.weight"] == 1


def test_layers_between_stages_belong_to_the_next_and_a_block_unlike_its_siblings_is_a_layer() -> None:
    def stage(width: int, first: nn.Module) -> nn.Sequential:
        return nn.Sequential(first, *(nn.Linear(width, width) for _ in range(3)))

    model = nn.Sequential()
    for name, part in (
        ("stem", nn.Linear(2, 3)),
        ("one", stage(3, nn.Linear(3, 3, bias=False))),
        ("down", nn.Linear(3, 5)),
        ("two", stage(5, nn.Linear(5, 5))),
        ("norm", nn.LayerNorm(5)),
        ("head", nn.Linear(5, 7)),
    ):
        model.add_module(name, part)
    scales = by_name(ws.param_groups(model, 0.1, layer_decay=0.5), "lr_scale")
    layers = {"stem": 0, **{f"one.{i}": 1 + i for i in range(4)}, "down": 5, **{f"two.{i}": 5 + i for i in range(4)}}
    layers |= {"norm": 8, "head": 9}
    assert {path: scales[f"{path}.weight"] for path in layers} == {path: 0.5 ** (9 - at) for path, at in layers.items()}


def test_a_learning_rate_is_what_every_scheduler_keeps() -> None:
    model, _ = chain(depth=2)
    groups = ws.param_groups(model, 0.1, layer_decay=0.5, lr=0.8)
    assert "lr_scale" not in groups[0]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 if step else 1.0)
    assert by_name(optimizer.param_groups, "lr")["blocks.0.fc1.weight"] == pytest.approx(0.2)
    optimizer.step()
    scheduler.step()
    assert by_name(optimizer.param_groups, "lr")["blocks.0.fc1.weight"] == pytest.approx(0.02)


def test_there_are_fewer_groups_than_parameters() -> None:
    model, _ = chain(depth=6)
    ws.share_(model, ws.Tie(rate=2), "*.fc1")
    groups = ws.param_groups(model, 0.1, "mean", layer_decay=0.9)
    assert len(groups) < len(list(model.parameters()))
    assert len(ws.param_groups(model, 0.1)) == 2
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_groups_without_scales_say_nothing_of_them() -> None:
    model, _ = chain()
    assert all(set(group) == {"params", "param_names", "weight_decay"} for group in ws.param_groups(model, 0.1))


class Awkward(nn.Module):
    """Parameters whose number of dimensions says nothing about what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((3, 5, 7))
        self.token = nn.Parameter(torch.zeros(1, 1, 5))
        self.scale = nn.Parameter(torch.ones(5, 1, 1))
        self.table = nn.Parameter(torch.zeros(1, 7, 5))
        self.one_output = nn.Linear(5, 1)
        self.local = nn.Module()
        self.local.weight = nn.Parameter(torch.zeros(3, 3, 5, 7))
        self.local.bias = nn.Parameter(torch.zeros(3, 3, 5))
        self.lstm = nn.LSTM(5, 7)
        self.listed = nn.Parameter(torch.zeros(5, 7))

    def no_weight_decay(self) -> set[str]:
        return {"listed"}


def test_decay_is_by_what_a_parameter_is_and_not_by_its_dimensions() -> None:
    decays = by_name(ws.param_groups(Awkward(), 0.1, no_decay="table"), "weight_decay")
    decayed = {"one_output.weight", "local.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    assert {name for name, decay in decays.items() if decay} == decayed
    whole = by_name(ws.param_groups(Awkward(), 0.1), "weight_decay")
    assert whole["table"] == 0.1


def test_a_norm_alone_has_no_decay() -> None:
    (group,) = ws.param_groups(nn.LayerNorm((3, 5)), 0.1)
    assert group["weight_decay"] == 0


def test_what_a_part_lists_is_named_from_the_root() -> None:
    decays = by_name(ws.param_groups(nn.ModuleDict({"part": Awkward()}), 0.1), "weight_decay")
    assert decays["part.listed"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_scale": "median"}, "lr_scale='median'"),
        ({"layer_decay": 0}, "layer_decay=0"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"layer_decay": True}, "layer_decay=True"),
        ({"lr": -0.1}, "lr=-0.1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"no_decay": "nothing.like.it"}, "nothing.like.it"),
    ],
)
def test_what_is_out_of_range_is_named(options: dict, message: str) -> None:
    with pytest.raises(ws.SharingError, match=message):
        ws.param_groups(chain().model, 0.1, **options)
