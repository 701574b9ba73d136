"""The networks of the torus experiment, and S-Conv with its twin: what they compute, and that the twins are twins."""

import pytest
import torch
from torch import nn

from weightshare.errors import ConfigError, SpecError
from weightshare.models import build, s_conv, s_fc, torus_cnn, torus_mlp


def test_the_convolutional_network_does_not_see_shifts():
    torch.manual_seed(0)
    net = torus_cnn(3, 5, classes=7, in_channels=2).eval()
    images = torch.randn(11, 2, 6, 10)
    shifted = images.roll((2, 7), (2, 3))
    torch.testing.assert_close(net(images), net(shifted))


def test_the_twin_can_be_the_convolutional_network():
    """With the weights of the convolutions written into its matrices it computes the same."""
    torch.manual_seed(0)
    cnn, mlp = torus_cnn(3, 5, in_channels=2).double().eval(), torus_mlp(3, 5, in_channels=2, side=6).double().eval()
    for conv, fc, channels in ((cnn.conv1, mlp.fc1, 2), (cnn.conv2, mlp.fc2, 3)):
        basis = torch.eye(channels * 36, dtype=torch.float64).view(-1, channels, 6, 6)
        with torch.no_grad():
            fc.weight.copy_((conv(basis) - conv.bias.view(1, -1, 1, 1)).flatten(1).T)
            fc.bias.copy_(conv.bias.repeat_interleave(36))
    mlp.head.load_state_dict(cnn.head.state_dict())
    images = torch.randn(11, 2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(mlp(images), cnn(images))


def test_the_papers_sizes():
    shapes = [tuple(p.shape) for p in torus_mlp(32, 64).parameters() if p.ndim == 2]
    assert shapes == [(6272, 196), (12544, 6272), (10, 64)]
    assert [module.p for module in torus_mlp(2, 3).modules() if isinstance(module, nn.Dropout)] == [0.4]


def test_s_fc_is_s_conv_with_a_full_first_layer():
    torch.manual_seed(0)
    conv, full = s_conv(3, classes=7, in_channels=2, side=10).double(), s_fc(3, 7, 2, 10).double()
    conv.eval()
    full.eval()
    assert [type(m).__name__ for m in conv[4:]] == [type(m).__name__ for m in full[4:]]
    basis = torch.eye(200, dtype=torch.float64).view(-1, 2, 10, 10)
    with torch.no_grad():
        full[1].weight.copy_((conv[0](basis) - conv[0].bias.view(1, -1, 1, 1)).flatten(1).T)
    full[4:].load_state_dict(conv[4:].state_dict())
    images = torch.randn(11, 2, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(full(images), conv(images))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torus-mlp:2/3", "TorusMLP"),
        ("torus-cnn:2/3", "TorusCNN"),
        ("s-fc:2", "Sequential"),
        ("s-conv:2", "Sequential"),
    ],
)
def test_by_name_for_the_size_of_the_images(name, kind):
    net = build(name, in_channels=1, classes=5, size=(8, 8))
    assert type(net).__name__ == kind
    assert net(torch.randn(3, 1, 8, 8)).shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("torus-mlp:2", {}, "need the sizes C1/C2, such as torus-mlp:32/64"),
        ("s-fc:2/3", {}, "need the sizes C, such as s-fc:64"),
        ("torus-mlp:0/3", {}, "torus_mlp\\(first=0\\): need 1 or more"),
        ("torus-mlp:2/3", {"size": (8, 6)}, "needs square images, these have 8×6"),
        ("s-conv:2", {"size": (7, 7)}, "need an even side"),
    ],
)
def test_names_and_sizes_that_do_not_fit(name, options, said):
    with pytest.raises(ConfigError, match=said):
        build(name, **options)


def test_sizes_below_one():
    for make in (
        lambda: torus_cnn(0, 1),
        lambda: torus_mlp(1, 1, side=0),
        lambda: s_conv(0),
        lambda: s_fc(1, classes=0),
    ):
        with pytest.raises(SpecError, match="need 1 or more"):
            make()
