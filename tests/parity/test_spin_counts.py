"""Components by pattern: one plan each gives the exact counts of SPIN's networks, of staged ones, and of encoders.

All on the meta device: a plan needs no numbers. Source: Lin 2022, supplement, tables 1 and 2; test_counts.py has the
same of timm's ConvMixer with SPIN's sizes and of DeiT with lists of patterns.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import weightshare as ws

POINTWISE, DEPTHWISE = "blocks.*.pointwise", "blocks.*.depthwise"
EXACT = {
    "pointwise weights": ([f"{POINTWISE}.weight"], 11_028_712),
    "and biases": ([POINTWISE], 11_016_424),
    "pointwise and depthwise weights": ([f"{POINTWISE}.weight", f"{DEPTHWISE}.weight"], 10_918_120),
    "and biases of both": ([POINTWISE, DEPTHWISE], 10_893_544),
    "the same by exclusion": (["blocks", "!*_norm"], 10_893_544),
    "weights of both by exclusion": (["blocks", "!*_norm", "!*.bias"], 10_918_120),
    "and batch norm": (["blocks"], 10_844_392),
}


@pytest.fixture(autouse=True)
def on_meta() -> Iterator[None]:
    with torch.device("meta"):
        yield


def stored_after(model: nn.Module, where: object, rate: float = 2) -> int:
    return ws.plan(model, ws.Tie(rate=rate), where).stored_after


@pytest.mark.parametrize(("where", "stored"), EXACT.values(), ids=EXACT)
def test_our_convmixer(where: Sequence[str], stored: int) -> None:
    plan = ws.plan(ws.models.convmixer(768, 32, 14, 3), ws.Tie(rate=2), where)
    assert (plan.stored_before, plan.stored_after) == (20_465_896, stored)


def test_timms_convmixer_with_sizes_of_its_own(timm: Any) -> None:
    """`convmixer_768_32` has kernels and patches of 7×7 pixels: 21.1 million."""
    model = timm.create_model("convmixer_768_32")
    c, half = 768, 16
    block = (49 * c + c) + 2 * c + (c * c + c) + 2 * c
    before = (3 * 49 * c + c) + 2 * c + 32 * block + (1000 * c + 1000)
    assert ws.plan(model, ws.Tie(rate=2)).stored_before == before == 21_110_248
    pointwise, depthwise = "blocks.*.1", "blocks.*.0.fn.0"
    assert stored_after(model, f"{pointwise}.weight") == before - half * c * c
    assert stored_after(model, pointwise) == before - half * (c * c + c)
    assert stored_after(model, [f"{pointwise}.weight", f"{depthwise}.weight"]) == before - half * (c * c + 49 * c)
    assert stored_after(model, [pointwise, depthwise]) == before - half * (c * c + c + 49 * c + c)
    assert stored_after(model, "blocks") == before - half * block


@pytest.mark.parametrize(
    ("name", "rate", "stored"),
    [("small", 1, 22_050_664), ("small", 2, 11_413_096), ("small", 3, 7_867_240), ("tiny", 2, 3_052_840)],
)
def test_deit_without_its_norms(timm: Any, name: str, rate: int, stored: int) -> None:
    assert stored_after(timm.create_model(f"deit_{name}_patch16_224"), ["blocks", "!*norm*"], rate) == stored


def convnext_block(c: int) -> int:
    """Depthwise 7×7, norm, two pointwise layers of four times the width, the scale of the residual."""
    return (49 * c + c) + 2 * c + (4 * c * c + 4 * c) + (4 * c * c + c) + c


@pytest.mark.parametrize(
    ("name", "dims", "depths"),
    [("atto", (40, 80, 160, 320), (2, 2, 6, 2)), ("tiny", (96, 192, 384, 768), (3, 3, 9, 3))],
)
def test_stages_of_convnext_share_inside_each(
    timm: Any, name: str, dims: tuple[int, ...], depths: tuple[int, ...]
) -> None:
    model = timm.create_model(f"convnext_{name}")
    plan = ws.plan(model, ws.Tie(rate=2), "stages.*.blocks")
    saved = sum(depth // 2 * convnext_block(dim) for dim, depth in zip(dims, depths, strict=True))
    assert plan.stored_before == sum(parameter.numel() for parameter in model.parameters())
    assert plan.stored_before - plan.stored_after == saved
    stages = [{path.split(".")[1] for path in group.items} for group in plan.groups]
    assert all(len(stage) == 1 for stage in stages)
    assert set().union(*stages) == set("0123")
    assert plan.notes == ()


def test_equal_stages_of_convnext_are_named(timm: Any) -> None:
    """Stages of one width and depth are the outermost blocks themselves: the plan says so, and what to do."""
    model = timm.create_model("convnext_atto", dims=(8, 8, 8, 8), depths=(2, 4, 4, 4))
    (note,) = ws.plan(model, ws.Tie(rate=2)).notes
    assert "'stages.1' and 'stages.2' hold lists of blocks" in note
    assert "'stages.1.blocks.0' with 'stages.2.blocks.0'" in note
    for stage in model.stages:
        plan = ws.plan(stage, ws.Tie(rate=2))
        assert plan.stored_before - plan.stored_after == len(stage.blocks) // 2 * convnext_block(8)
        assert plan.notes == ()


H, F, LAYERS = 22, 29, 6
ATTENTION, PERCEPTRON, NORM = 4 * (H * H + H), (H * F + F) + (F * H + H), 2 * H
SIZES = {"hidden_size": H, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": F}


@pytest.mark.parametrize(("rate", "kept"), [(2, 3), (3, 2), (6, 1)])
def test_berts_encoder(transformers: Any, rate: int, kept: int) -> None:
    model = transformers.BertModel(transformers.BertConfig(vocab_size=31, max_position_embeddings=17, **SIZES))
    around = (31 + 17 + 2) * H + NORM + (H * H + H)
    shared = ATTENTION + PERCEPTRON
    plan = ws.plan(model, ws.Tie(rate=rate), ["encoder.layer", "!*LayerNorm*"])
    assert plan.stored_before == around + LAYERS * (shared + 2 * NORM)
    assert plan.stored_after == around + kept * shared + LAYERS * 2 * NORM
    assert stored_after(model, "encoder", rate) == around + kept * (shared + 2 * NORM)


@pytest.mark.parametrize(("rate", "kept"), [(2, 3), (3, 2), (6, 1)])
def test_transformers_vit(transformers: Any, rate: int, kept: int) -> None:
    model = transformers.ViTModel(transformers.ViTConfig(image_size=21, patch_size=7, **SIZES))
    around = (3 * 7 * 7 * H + H) + H + (9 + 1) * H + NORM + (H * H + H)
    shared = ATTENTION + PERCEPTRON
    plan = ws.plan(model, ws.Tie(rate=rate), ["*", "!*norm*"])  # the layers' paths differ between versions
    assert plan.stored_before == around + LAYERS * (shared + 2 * NORM)
    assert plan.stored_after == around + kept * shared + LAYERS * 2 * NORM


def test_torchs_encoder() -> None:
    layer = nn.TransformerEncoderLayer(H, 2, F, batch_first=True)
    model = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(H), enable_nested_tensor=False)
    shared = ATTENTION + PERCEPTRON
    plan = ws.plan(model, ws.Tie(rate=2), ["layers", "!*norm*"])
    assert plan.stored_before == LAYERS * (shared + 2 * NORM) + NORM
    assert plan.stored_after == 3 * shared + LAYERS * 2 * NORM + NORM
    assert stored_after(model, ["layers.*.self_attn"]) == plan.stored_before - 3 * ATTENTION
    assert stored_after(model, ["layers.*.linear*"]) == plan.stored_before - 3 * PERCEPTRON


def t5(transformers: Any) -> nn.Module:
    sizes = {"d_model": H, "d_kv": 11, "d_ff": F, "num_layers": 5, "num_decoder_layers": 5, "num_heads": 2}
    return transformers.T5Model(transformers.T5Config(vocab_size=31, **sizes))


def bart(transformers: Any) -> nn.Module:
    sizes = {"encoder_layers": 4, "encoder_ffn_dim": F, "encoder_attention_heads": 2}
    twice = {name.replace("encoder", part): size for part in ("encoder", "decoder") for name, size in sizes.items()}
    return transformers.BartModel(
        transformers.BartConfig(vocab_size=31, d_model=H, max_position_embeddings=17, **twice)
    )


def torchs(transformers: Any) -> nn.Module:
    return nn.Transformer(H, 2, 4, 4, F, batch_first=True)


@pytest.mark.parametrize("make", [t5, bart, torchs])
@pytest.mark.parametrize("spec", [ws.Tie(rate=4), ws.Tie(rate=2, order=ws.strided)], ids=["all in one", "strided"])
def test_an_encoder_and_a_decoder_of_other_names_never_share(make: Any, spec: ws.Tie, transformers: Any) -> None:
    plan = ws.plan(make(transformers), spec)
    sides = [{path.partition(".")[0] for path in group.items} for group in plan.groups]
    assert all(len(side) == 1 for side in sides)
    assert set().union(*sides) == {"encoder", "decoder"}
    assert plan.notes == ()
    lines = [line.split()[0] for line in str(plan).splitlines() if ".*." in line]
    rows = {row.partition(".")[2] for row in lines if row.startswith("encoder.")}
    assert len(rows) > 7
    # What both have, such as the weights of self-attention, stands in the table twice: once for each.
    assert len(rows & {row.partition(".")[2] for row in lines if row.startswith("decoder.")}) > 4


@pytest.mark.parametrize(("make", "where"), [(t5, "*SelfAttention"), (bart, "*self_attn"), (torchs, "*self_attn")])
def test_a_pattern_that_matches_in_both_keeps_them_apart(make: Any, where: str, transformers: Any) -> None:
    groups = ws.plan(make(transformers), ws.Tie(rate=2), where).groups
    assert {group.name.partition(".")[0] for group in groups} == {"encoder", "decoder"}
    assert all(len({path.partition(".")[0] for path in group.items}) == 1 for group in groups)
