"""S-Conv and S-FC: one strided convolution with a wide fully connected layer behind it, and its fully connected twin.

Both end in the same two layers; the first one maps `side²` pixels to `channels · (side/2)²` features, as a 9×9
convolution of stride 2 or as a full matrix.

Source: Neyshabur 2020 ("Towards learning convolutions from scratch"), S-CONV and S-FC; used by Shakerinava 2023 with 64
channels on CIFAR-10. Differs: biases before batch norm stay, as in both papers' public experiments.
"""

from collections.abc import Sequence

from torch import nn

from weightshare.errors import SpecError

HIDDEN = 24
"""Units of the hidden layer for each channel."""


def s_conv(channels: int, classes: int = 10, in_channels: int = 3, side: int = 32) -> nn.Sequential:
    """Build S-Conv, from `(batch, in_channels, side, side)` to `(batch, classes)`.

    Args:
        channels: Of the convolution; 64 in Shakerinava 2023.
        classes: Outputs.
        in_channels: Channels of the images.
        side: Height and width of the images, in pixels; even.

    Raises:
        SpecError: If a size is below 1, or the side is odd.

    Example:
        >>> [tuple(p.shape) for p in s_conv(3).parameters() if p.ndim > 1]
        [(3, 3, 9, 9), (72, 768), (10, 72)]
    """
    features = _features("s_conv", channels, classes, in_channels, side)
    first = [
        nn.Conv2d(in_channels, channels, 9, stride=2, padding=4),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Flatten(),
    ]
    return _network(first, features, channels, classes)


def s_fc(channels: int, classes: int = 10, in_channels: int = 3, side: int = 32) -> nn.Sequential:
    """Build S-FC, the twin of `s_conv` whose first layer is fully connected; arguments and errors are the same.

    Example:
        >>> [tuple(p.shape) for p in s_fc(3).parameters() if p.ndim > 1]
        [(768, 3072), (72, 768), (10, 72)]
    """
    features = _features("s_fc", channels, classes, in_channels, side)
    first = [nn.Flatten(), nn.Linear(in_channels * side * side, features), nn.BatchNorm1d(features), nn.ReLU()]
    return _network(first, features, channels, classes)


def _network(first: Sequence[nn.Module], features: int, channels: int, classes: int) -> nn.Sequential:
    hidden = HIDDEN * channels
    rest = [nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    model = nn.Sequential(*first, *rest)
    for module in model:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def _features(name: str, channels: int, classes: int, in_channels: int, side: int) -> int:
    for size, value in {"channels": channels, "classes": classes, "in_channels": in_channels, "side": side}.items():
        if value < 1:
            raise SpecError(f"{name}({size}={value}): need 1 or more.")
    if side % 2:
        raise SpecError(f"{name}(side={side}): need an even side, which the stride of 2 halves.")
    return channels * (side // 2) ** 2
