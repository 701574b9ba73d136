"""Wide residual networks: the poster's counts, the forward pass written out, banks in the right places, and names."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear

from weightshare.depth.templates import Templates
from weightshare.errors import ConfigError, SpecError
from weightshare.files.checkpoint import load, save
from weightshare.generating import bank_of
from weightshare.models import WideResNet, WideResNet50, build, swrn, swrn50, wrn, wrn50
from weightshare.models.by_name import import_timm
from weightshare.planning import applied_plans
from weightshare.verbs import plan


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("width", "templates", "stored"),
    [(10, 6, 36_479_302), (6, 2, 6_177_534), (10, 2, 17_125_630), (14, 2, 33_537_790), (18, 2, 55_414_014)],
)
def test_counts_of_the_poster(width, templates, stored):
    """Poster: 36, 6.1, 17.1, 33.5 and 55 million; three banks of six layers each."""
    with torch.device("meta"):
        net = wrn(28, width)
    made = plan(net, Templates(templates, within="model"), net.repeated)
    assert made.stored_after == stored
    assert [(len(group.items), group.coefficients) for group in made.groups] == [(6, 6 * templates)] * 3
    assert not made.left_out


def test_the_count_of_wrn_28_10():
    with torch.device("meta"):
        assert count(wrn(28, 10)) == 36_479_194


@pytest.mark.parametrize(("templates", "k"), [(None, 6), (6, 6), (2, 2), (1, 1)])
def test_a_shared_network_stores_what_it_says(templates, k):
    layers = [9 * (16 * 2**stage) ** 2 for stage in range(3)]
    net = swrn(28, 1, templates)
    assert count(net) == count(wrn(28, 1)) - (6 - k) * sum(layers) + 3 * 6 * k
    ((path, made),) = applied_plans(net)
    assert (path, made.stored_after) == ("", count(net))
    for stage, group in enumerate(made.groups, 1):
        assert [item.split(".")[0] for item in group.items] == [f"layer{stage}"] * 6
        assert not any(item.startswith(f"layer{stage}.0.") for item in group.items)
        bank = bank_of(net, group.items)
        assert bank.templates.shape == (k, *[16 * 2 ** (stage - 1)] * 2, 3, 3)
        torch.testing.assert_close(bank.coefficients.norm(dim=1), torch.ones(6))


def test_two_blocks_a_stage_share_too():
    """Depth 16: one block of each stage repeats, and its two layers have a bank."""
    net = swrn(16, 1.5, 1)
    assert count(net) == count(wrn(16, 1.5)) - 9 * (24**2 + 48**2 + 96**2) + 3 * 2


def naive(state, x, blocks, eps=1e-5):
    """Zagoruyko 2016, figure 1 and table 1, in training mode, from a state dict and functions alone."""

    def active(x, name):
        return batch_norm(x, None, None, state[f"{name}.weight"], state[f"{name}.bias"], training=True, eps=eps).relu()

    x = conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for number in range(blocks):
            at = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            first = active(x, f"{at}.bn1")
            inner = conv2d(first, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            inner = conv2d(active(inner, f"{at}.bn2"), state[f"{at}.conv2.weight"], padding=1)
            if f"{at}.downsample.weight" in state:
                x = conv2d(first, state[f"{at}.downsample.weight"], stride=stride)
            x = x + inner
    x = active(x, "bn")
    return linear(avg_pool2d(x, x.shape[-2:]).flatten(1), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("width", [1, 1.25])
def test_the_forward_pass_is_that_of_the_paper(width):
    torch.manual_seed(0)
    net = wrn(16, width, classes=7, in_channels=2).double()
    for parameter in net.parameters():  # norms and biases that are not 1 and 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(5, 2, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(net(x), naive(net.state_dict(), x, blocks=2))
    kinds = [type(module) for name, module in net.named_modules() if name.endswith("downsample")]
    assert kinds == [nn.Conv2d] * (2 if width == 1 else 3)


def test_the_shared_forward_pass_has_the_mixtures():
    """The naive one again, with weights that are sums written out."""
    torch.manual_seed(1)
    net = swrn(16, 1, 2, classes=7).double()
    state = dict(net.state_dict())
    ((_, made),) = applied_plans(net)
    for group in made.groups:
        bank = bank_of(net, group.items)
        for item, row in zip(group.items, bank.coefficients, strict=True):
            state[item] = sum(a * t for a, t in zip(row, bank.templates, strict=True))
    x = torch.randn(5, 3, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(net(x), naive(state, x, blocks=2))


def test_dropout_stands_between_the_convolutions():
    """All but certain dropout leaves shortcuts alone: what a block adds is zero nearly everywhere."""
    torch.manual_seed(0)
    block = wrn(10, 1, dropout=0.999999).layer1[0]
    x = torch.randn(3, 16, 8, 8)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.eval()(x), x)


def test_kernels_start_with_the_papers_variance():
    """N(0, 2 / (out · k²)): the deviation of n numbers is off by a factor 1 ± 1 / sqrt(2n); five of those here."""
    torch.manual_seed(0)
    for conv in (module for module in wrn(16, 2).modules() if isinstance(module, nn.Conv2d)):
        weight = conv.weight.detach()
        spread = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
        assert abs(weight.std() / spread - 1) < 5 / (2 * weight.numel()) ** 0.5


def test_wrn_50_2_has_timms_names_and_shapes():
    with torch.device("meta"):
        theirs = import_timm().create_model("wide_resnet50_2").state_dict()
        ours = wrn50().state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_wrn_50_computes_what_timm_does():
    """ResNet-50 is the network of width 1; timm's weights load as they are."""
    torch.manual_seed(0)
    theirs = import_timm().create_model("resnet50", num_classes=7).eval()
    ours = wrn50(1, classes=7)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs(x))


@pytest.mark.parametrize(("templates", "per_stage"), [(None, (2, 3, 5, 2)), (1, (1, 1, 1, 1))])
def test_banks_of_swrn_50(templates, per_stage):
    net = swrn50(1, templates, classes=7)
    made = [one for _, one in applied_plans(net)]
    assert [[group.templates for group in one.groups] for one in made] == [[k] * 3 for k in per_stage]
    saved = extra = 0
    for stage, (blocks, k) in enumerate(zip((3, 4, 6, 3), per_stage, strict=True)):
        layers = blocks - 1
        saved += (layers - k) * (4 + 9 + 4) * (64 * 2**stage) ** 2  # 1×1 to four times as many channels, 3×3, 1×1
        extra += 3 * layers * k
    assert count(net) == count(wrn50(1, classes=7)) - saved + extra


def test_equal_1x1_shapes_share_one_bank():
    """With width 4 both 1×1 layers of a block have one shape; one template a layer is two a block then."""
    with torch.device("meta"):
        net = wrn50(4)
    made = plan(net, Templates(4, within="model"), net.repeated(1))
    assert sorted(len(group.items) for group in made.groups) == [2, 4]


def test_a_file_loads_into_either_network(tmp_path):
    torch.manual_seed(0)
    net = swrn(16, 1, 1, classes=7).eval()
    save(net, tmp_path / "net.safetensors")
    x = torch.randn(3, 3, 8, 8)
    for other in (wrn(16, 1, classes=7), swrn(16, 1, 1, classes=7)):
        read = load(tmp_path / "net.safetensors", other)
        torch.testing.assert_close(read.eval()(x), net(x), rtol=0, atol=0)
        assert count(read) == count(net)


@pytest.mark.parametrize(
    ("name", "kind", "banks"),
    [
        ("wrn:16/1", WideResNet, 0),
        ("swrn:16/1/1", WideResNet, 3),
        ("swrn:16/1", WideResNet, 3),
        ("wrn50:1", WideResNet50, 0),
        ("swrn50:1/1", WideResNet50, 12),
    ],
)
def test_by_name(name, kind, banks):
    net = build(name, in_channels=1, classes=11, size=(32, 36))
    assert type(net) is kind
    assert net.eval()(torch.zeros(1, 1, 32, 36)).shape == (1, 11)
    assert sum(len(made.groups) for _, made in applied_plans(net)) == banks


def test_by_name_with_dropout():
    assert build("swrn:16/1/1", dropout=0.3).layer2[1].dropout.p == 0.3


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: wrn(27, 10), SpecError, r"wrn\(27, 10\): got depth 27, need 6·n \+ 4"),
        (lambda: wrn(4, 1), SpecError, "need 6·n"),
        (lambda: wrn(28, 0.5), SpecError, r"got width 0.5, need 1 or more"),
        (lambda: wrn(28, 1.3), SpecError, r"got width 1.3, need 1 or more, and a whole number of channels"),
        (lambda: wrn(28, 1, classes=0), SpecError, "got classes=0, need 1 or more"),
        (lambda: wrn(28, 1, in_channels=0), SpecError, "got in_channels=0"),
        (lambda: wrn(28, 1, dropout=1.0), SpecError, "got dropout=1.0, need 0 to below 1"),
        (lambda: swrn(10, 1), SpecError, "a stage has one block, need two or more"),
        (lambda: swrn(28, 1, 0), SpecError, r"Templates\(templates=0\)"),
        (lambda: wrn50(0), SpecError, r"wrn50\(width=0\): need 1 or more"),
        (lambda: build("wrn:28"), ConfigError, "need the sizes L/W, such as wrn:28/10"),
        (lambda: build("swrn:28/10/2/1"), ConfigError, r"need the sizes L/W\[/K\], such as swrn:28/10/2"),
        (lambda: build("swrn:28"), ConfigError, "need the sizes L/W"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be(make, error, said):
    with pytest.raises(error, match=said):
        make()
