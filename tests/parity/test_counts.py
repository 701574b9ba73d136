"""Stored numbers of the paper's networks, exact, each from one plan with a pattern.

Source: Lin 2022 (SPIN), table 2 (ConvMixer 768/32/14/3) and table 1 (DeiT); where the paper prints millions, the number
that rounds to it.
"""

from typing import Any

import pytest
import torch
from torch import nn

from tests.support import output
import weightshare as ws

POINTWISE, DEPTHWISE = "blocks.*.1.weight", "blocks.*.0.fn.0.weight"
CONV_BIASES = ["blocks.*.1.bias", "blocks.*.0.fn.0.bias"]
BATCH_NORM = ["blocks.*.3", "blocks.*.0.fn.2"]


@pytest.fixture(scope="module")
def mixer(timm: Any) -> nn.Module:
    return timm.models.convmixer.ConvMixer(dim=768, depth=32, kernel_size=3, patch_size=14)


def test_convmixer_before(mixer: nn.Module) -> None:
    assert ws.plan(mixer, ws.Tie(rate=2)).stored_before == 20_465_896


@pytest.mark.parametrize(
    ("where", "stored"),
    [
        (POINTWISE, 11_028_712),
        ([POINTWISE, "blocks.*.1.bias"], 11_016_424),
        ([POINTWISE, DEPTHWISE], 10_918_120),
        ([POINTWISE, DEPTHWISE, *CONV_BIASES], 10_893_544),
        ([POINTWISE, DEPTHWISE, *CONV_BIASES, *BATCH_NORM], 10_844_392),
        ("blocks", 10_844_392),
        (None, 10_844_392),
    ],
    ids=["pointwise", "and biases", "and depthwise", "and biases of both", "and batch norm", "the blocks", "all"],
)
def test_convmixer_at_rate_2(mixer: nn.Module, where: object, stored: int) -> None:
    assert ws.plan(mixer, ws.Tie(rate=2), where).stored_after == stored


@pytest.fixture(scope="module")
def deit_small(timm: Any) -> nn.Module:
    return timm.create_model("deit_small_patch16_224")


@pytest.mark.parametrize(("rate", "stored"), [(1, 22_050_664), (2, 11_413_096), (3, 7_867_240)])
def test_deit_small(deit_small: nn.Module, rate: int, stored: int) -> None:
    plan = ws.plan(deit_small, ws.Tie(rate=rate), ["blocks.*.attn", "blocks.*.mlp"])
    assert (plan.stored_before, plan.stored_after) == (22_050_664, stored)


@pytest.fixture(scope="module")
def deit_tiny(timm: Any) -> nn.Module:
    return timm.create_model("deit_tiny_patch16_224")


def test_deit_tiny_at_rate_2(deit_tiny: nn.Module) -> None:
    assert ws.plan(deit_tiny, ws.Tie(rate=2), ["blocks.*.attn", "blocks.*.mlp"]).stored_after == 3_052_840


def test_macs_of_deit_tiny(deit_tiny: nn.Module) -> None:
    """About 1.254e9: 1.075 in the layers of the blocks, 0.149 in attention, 0.029 in patches and head."""
    tokens, width = 197, 192
    layers = 12 * tokens * 12 * width * width
    attention = 12 * 2 * tokens * tokens * width
    around = 196 * 16 * 16 * 3 * width + width * 1000
    assert ws.report(deit_tiny, torch.zeros(1, 3, 224, 224)).macs == layers + attention + around


def test_applied_counts_are_those_of_the_plan(deit_tiny: nn.Module) -> None:
    plan = ws.share_(deit_tiny, ws.Tie(rate=2), ["blocks.*.attn", "blocks.*.mlp"])
    assert sum(parameter.numel() for parameter in deit_tiny.parameters()) == plan.stored_after
    ws.unshare_(deit_tiny)


def test_our_convmixer_has_the_same_count() -> None:
    ours = ws.models.convmixer(768, 32, 14, 3)
    assert ws.report(ours).stored == 20_465_896
    where = ["*.pointwise.weight", "*.pointwise.bias"]
    assert ws.plan(ours, ws.Tie(rate=2), where).stored_after == 11_016_424


@pytest.mark.parametrize(("kernel", "patch"), [(3, 2), (5, 7), (9, 3)])
def test_our_convmixer_computes_what_timms_does(timm: Any, kernel: int, patch: int) -> None:
    theirs = timm.models.convmixer.ConvMixer(dim=11, depth=3, kernel_size=kernel, patch_size=patch, num_classes=13)
    ours = ws.models.convmixer(11, 3, patch, kernel, classes=13)
    x = torch.randn(2, 3, 29, 31)
    theirs(x)  # in training mode: running statistics that are not the initial ones
    weights = list(theirs.state_dict().values())
    assert [tensor.shape for tensor in weights] == [tensor.shape for tensor in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    torch.testing.assert_close(output(ours, x), output(theirs, x))
