"""ResNet-20 and ResNet-18 of 3×3 layers: their layers, how they start, and how they are named."""

import pytest
import torch
from torch import nn

from weightshare.errors import ConfigError, SpecError
from weightshare.models import ResNet, build, resnet18_half, resnet20


def convolutions(net):
    return {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}


def positions(net, side):
    """Height of what each convolution gives, by its name."""
    seen = {}
    for name, conv in convolutions(net).items():
        conv.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out.shape[-1]))
    net.eval()(torch.zeros(1, 3, side, side))
    return seen


def test_the_layers_of_resnet20():
    """19 layers of 3×3 and two shortcuts; counted by hand: 432, then 6, 6 and 6 layers of each width."""
    convs = convolutions(resnet20())
    assert [name for name, conv in convs.items() if conv.kernel_size == (1, 1)] == [
        "layer2.0.downsample.0",
        "layer3.0.downsample.0",
    ]
    assert sum(conv.kernel_size == (3, 3) for conv in convs.values()) == 19
    assert all(conv.bias is None for conv in convs.values())
    by_stage = (432, 6 * 16 * 16 * 9, (16 + 5 * 32) * 32 * 9 + 16 * 32, (32 + 5 * 64) * 64 * 9 + 32 * 64)
    assert sum(conv.weight.numel() for conv in convs.values()) == sum(by_stage) == 270_256


def test_the_layers_of_resnet18():
    convs = convolutions(resnet18_half())
    assert [name for name, conv in convs.items() if conv.kernel_size != (3, 3)] == [
        f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)
    ]
    assert len(convs) == 1 + 4 * 4 + 3
    assert [convs[f"layer{stage}.1.conv2"].out_channels for stage in (1, 2, 3, 4)] == [32, 64, 128, 256]


def test_resolutions():
    small = positions(resnet20((2, 3, 5), blocks=2), 28)
    assert [small[f"{name}.conv1"] for name in ("layer1.0", "layer2.0", "layer3.0", "layer3.1")] == [28, 14, 7, 7]
    assert (small["conv1"], small["layer2.0.downsample.0"]) == (28, 14)
    large = positions(resnet18_half((2, 3, 5, 7), blocks=1), 224)
    assert [large["conv1"], *(large[f"layer{stage}.0.conv2"] for stage in (1, 2, 3, 4))] == [112, 56, 28, 14, 7]


def test_names_and_shapes_are_those_of_torchvision():
    """Without its package: every name of its basic block, as its state dicts have them."""
    names = set(resnet18_half().state_dict())
    block = {f"{part}.{kind}" for part in ("bn1", "bn2") for kind in ("weight", "bias", "running_mean", "running_var")}
    block |= {"conv1.weight", "conv2.weight", "bn1.num_batches_tracked", "bn2.num_batches_tracked"}
    assert {name.removeprefix("layer2.0.") for name in names if name.startswith("layer2.0.")} >= block
    assert {name for name in names if "layer" not in name and "bn1" not in name} == {
        "conv1.weight",
        "fc.weight",
        "fc.bias",
    }


def test_a_block_adds_what_it_was_given():
    """Written out for one block that changes the shape and one that does not."""
    torch.manual_seed(0)
    net = resnet20((2, 3, 5), blocks=2).double().eval()
    x = torch.randn(7, 2, 6, 10, dtype=torch.float64)
    first, second = net.layer2

    def inner(block, x):
        return block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))

    expected = (inner(first, x) + first.downsample[1](first.downsample[0](x))).relu()
    torch.testing.assert_close(first(x), expected)
    torch.testing.assert_close(second(expected), (inner(second, expected) + expected).relu())
    assert first(x).shape == (7, 3, 3, 5)


def test_the_whole_forward_pass():
    torch.manual_seed(0)
    net = resnet18_half((2, 3, 5, 7), blocks=1, classes=11, in_channels=2).double().eval()
    x = torch.randn(3, 2, 34, 38, dtype=torch.float64)
    y = nn.functional.max_pool2d(net.bn1(net.conv1(x)).relu(), 3, 2, 1)
    y = net.layer4(net.layer3(net.layer2(net.layer1(y))))
    torch.testing.assert_close(net(x), net.fc(y.mean((2, 3))))
    assert net(x).shape == (3, 11)


def test_kernels_start_with_the_papers_variance():
    """N(0, 2 / (out · k²)): the deviation of n numbers is off by a factor 1 ± 1 / sqrt(2n); five of those here."""
    torch.manual_seed(0)
    for conv in convolutions(resnet20()).values():
        weight, area = conv.weight.detach(), conv.kernel_size[0] ** 2
        spread = (2 / (conv.out_channels * area)) ** 0.5
        assert abs(weight.std() / spread - 1) < 5 / (2 * weight.numel()) ** 0.5
        assert abs(weight.mean() / spread) < 5 / weight.numel() ** 0.5


@pytest.mark.parametrize(
    ("name", "stages", "blocks"), [("resnet20:2/3/5", 3, 3), ("resnet18:2/3/5/7", 4, 2)], ids=["20", "18"]
)
def test_by_name(name, stages, blocks):
    net = build(name, in_channels=1, classes=11, size=(32, 36))
    assert type(net) is ResNet
    assert (len(net.stages), len(net.layer1)) == (stages, blocks)
    assert net(torch.randn(2, 1, 32, 36)).shape == (2, 11)
    assert len(build(name, blocks=5).layer1) == 5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: resnet20((2, 3)), r"resnet20\(widths=\(2, 3\)\): need 3 widths, one for each stage"),
        (lambda: resnet18_half((2, 3, 5)), r"resnet18_half\(widths=\(2, 3, 5\)\): need 4 widths"),
        (lambda: resnet20((2, 0, 5)), r"resnet20\(widths=0\): need 1 or more"),
        (lambda: resnet20(blocks=0), r"resnet20\(blocks=0\): need 1 or more"),
        (lambda: resnet20(classes=0), r"resnet20\(classes=0\): need 1 or more"),
        (lambda: resnet18_half(in_channels=0), r"resnet18_half\(in_channels=0\): need 1 or more"),
    ],
)
def test_sizes_that_make_no_network(make, said):
    with pytest.raises(SpecError, match=said):
        make()


@pytest.mark.parametrize("name", ["resnet20:2/3", "resnet20:2/3/5/7", "resnet20:x/3/5", "resnet18:2/3/5"])
def test_names_that_give_other_sizes(name):
    with pytest.raises(ConfigError, match="need the sizes C1/C2/C3"):
        build(name)


def test_whoever_keeps_what_a_layer_gave_has_it_unchanged():
    """Rectifiers write over sums alone, which no layer gave."""
    model = build("resnet20:2/3/5", blocks=2).eval()
    kept = []
    for module in model.modules():
        module.register_forward_hook(lambda _, __, out: kept.append((out, out.clone())))
    model(torch.randn(2, 3, 13, 11))
    assert len(kept) > 40
    assert all(torch.equal(out, then) for out, then in kept)
