"""Roles in real networks, by name: no group holds two sites of one block."""

from collections.abc import Callable
import re
from typing import Any

import pytest
from torch import nn

import weightshare as ws


def deit(timm: Any, transformers: Any) -> nn.Module:
    return timm.create_model("deit_tiny_patch16_224", depth=6, embed_dim=12, num_heads=3)


def convmixer(timm: Any, transformers: Any) -> nn.Module:
    return timm.models.convmixer.ConvMixer(dim=11, depth=5, kernel_size=3, patch_size=7)


def bert(timm: Any, transformers: Any) -> nn.Module:
    sizes = {"hidden_size": 12, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 12}
    return transformers.BertModel(transformers.BertConfig(vocab_size=31, max_position_embeddings=17, **sizes))


def convnext(timm: Any, transformers: Any) -> nn.Module:
    return timm.create_model("convnext_atto", dims=(8, 8, 16, 16), depths=(2, 3, 4, 2))


def resnet(timm: Any, transformers: Any) -> nn.Module:
    return timm.create_model("resnet18")


Make = Callable[[Any, Any], nn.Module]
ALL = pytest.mark.parametrize("make", [deit, convmixer, bert, convnext, resnet])

BLOCKS: dict[Make, set[str]] = {
    deit: {"blocks.*"},
    convmixer: {"blocks.*"},
    bert: {"encoder.layer.*"},
    convnext: {f"stages.{stage}.blocks.*" for stage in range(4)},
    resnet: {"layer1.*"},
}


@ALL
def test_items_of_a_group_differ_in_the_block_index_only(make: Make, timm: Any, transformers: Any) -> None:
    groups = ws.plan(make(timm, transformers), ws.Tie(rate=1)).groups
    assert groups
    for group in groups:
        assert group.name.count("*") == 1
        index = re.compile(re.escape(group.name).replace(r"\*", r"(\d+)"))
        found = [match for path in group.items if (match := index.fullmatch(path))]
        assert len(found) == len(group.items)
        indices = [int(match[1]) for match in found]
        assert indices == sorted(set(indices))


@ALL
def test_groups_are_those_of_the_networks_blocks(make: Make, timm: Any, transformers: Any) -> None:
    model = make(timm, transformers)
    expected = {
        f"{block}.{name}"
        for block in BLOCKS[make]
        for name, _ in model.get_submodule(block.replace("*", "1")).named_parameters()
    }
    assert {group.name for group in ws.plan(model, ws.Tie(rate=1)).groups} == expected


@ALL
def test_every_parameter_is_in_one_group_or_left_out(make: Make, timm: Any, transformers: Any) -> None:
    model = make(timm, transformers)
    plan = ws.plan(model, ws.Tie(rate=1))
    named = [path for group in plan.groups for path in group.items] + [left.path for left in plan.left_out]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (
            bert,
            [
                f"encoder.layer.*.attention.{layer}.{kind}"
                for layer in ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
                for kind in ("weight", "bias")
            ]
            + [f"encoder.layer.*.{layer}.dense.weight" for layer in ("intermediate", "output")],
        ),
        (deit, ["blocks.*.attn.proj.bias", "blocks.*.mlp.fc2.bias"]),
        (deit, [f"blocks.*.{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")]),
        (convmixer, [f"blocks.*.{layer}.bias" for layer in ("0.fn.0", "0.fn.2", "1", "3")]),
        (convmixer, [f"blocks.*.3.{kind}" for kind in ("weight", "bias")]),
        (convnext, [f"stages.{stage}.blocks.*.{name}" for stage in (0, 1) for name in ("gamma", "norm.weight")]),
        (resnet, ["layer1.*.conv1.weight", "layer1.*.conv2.weight", "layer1.*.bn1.bias", "layer1.*.bn2.bias"]),
    ],
    ids=["bert", "deit biases", "deit norms", "convmixer biases", "convmixer norm", "convnext", "resnet"],
)
def test_parameters_of_one_size_are_roles_of_their_own(
    make: Make, names: list[str], timm: Any, transformers: Any
) -> None:
    groups = {group.name: group for group in ws.plan(make(timm, transformers), ws.Tie(rate=1)).groups}
    assert set(names) <= set(groups)
    items = [path for name in names for path in groups[name].items]
    assert len(set(items)) == len(items)


def test_sizes_of_the_compared_roles_are_equal(timm: Any, transformers: Any) -> None:
    """Else the test above would hold by shape alone."""
    shapes = {group.name: group.shape for group in ws.plan(bert(timm, transformers), ws.Tie(rate=1)).groups}
    assert {shape for name, shape in shapes.items() if name.endswith("dense.weight")} == {(12, 12)}
    shapes = {group.name: group.shape for group in ws.plan(deit(timm, transformers), ws.Tie(rate=1)).groups}
    assert shapes["blocks.*.attn.proj.bias"] == shapes["blocks.*.mlp.fc2.bias"] == shapes["blocks.*.norm1.weight"]


def test_first_blocks_with_a_shortcut_are_left_out_by_name(timm: Any, transformers: Any) -> None:
    left = {out.path for out in ws.plan(resnet(timm, transformers), ws.Tie(rate=1)).left_out}
    assert {f"layer{stage}.{block}.conv2.weight" for stage in (2, 3, 4) for block in (0, 1)} <= left
    assert "layer2.0.downsample.0.weight" in left


@pytest.mark.parametrize("make", [deit, bert, convnext])
def test_roles_of_one_block_share_alike(make: Make, timm: Any, transformers: Any) -> None:
    plan = ws.plan(make(timm, transformers), ws.Tie(rate=2, order=ws.random(seed=3)))
    by_block = {(group.name.partition("*")[0], group.assignment) for group in plan.groups}
    assert len(by_block) == len(BLOCKS[make])
