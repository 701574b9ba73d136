"""Networks by name."""

import pytest
from torch import nn

from weightshare.errors import ConfigError
from weightshare.models import ConvMixer, build


def test_our_convmixer() -> None:
    model = build("convmixer:7/3/2/5", in_channels=1, classes=11, activation=nn.ReLU)
    assert isinstance(model, ConvMixer)
    assert (model.patches.in_channels, model.head.out_features, len(model.blocks)) == (1, 11, 3)
    assert isinstance(model.activation, nn.ReLU)


def test_a_callable_of_yours() -> None:
    assert type(build("torch.nn:Linear", in_features=2, out_features=3)) is nn.Linear


def test_a_network_of_timm() -> None:
    assert build("timm:resnet10t", in_channels=1, classes=11).num_classes == 11


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", r"need convmixer:C/D/P/K, .*, timm:NAME, transformers:NAME"),
        ("", "need convmixer"),
        (":", "need convmixer"),
        ("convmixer:", "need convmixer"),
        ("convmixer:7/3/2", "need the sizes C/D/P/K"),
        ("convmixer:7/3/2/-5", "need the sizes C/D/P/K"),
        ("convmixer:7/3/2/x", "need the sizes C/D/P/K"),
        ("convmixer:7/0/2/5", "depth=0"),
        ("timm:no_such_network", "Cannot build 'timm:no_such_network'"),
        ("no_such_module:make", "no_such_module"),
        ("torch.nn:NoSuchLayer", "NoSuchLayer"),
        ("torch.nn:Linear", "Cannot build 'torch.nn:Linear'"),
        ("math:pi", "'pi' is a float, need a callable"),
        ("builtins:dict", "returned dict, need an nn.Module"),
    ],
)
def test_a_name_that_cannot_be_built(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name)


@pytest.mark.parametrize("name", ["convmixer:7/3/2/5", "timm:resnet10t", "torch.nn:Identity2"])
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        build(name, no_such_option=3)


def known(channels: int = 1, classes: int = 10) -> nn.Module:
    """A constructor that has one of the two names."""
    return nn.Linear(channels, classes)


def test_a_callable_gets_what_it_names() -> None:
    made = build(f"{__name__}:known", in_channels=3, classes=7, channels=5)
    assert (made.in_features, made.out_features) == (5, 7)
