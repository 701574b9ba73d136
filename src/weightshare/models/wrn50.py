"""Wide residual networks of large images: WRN-50-2, and SWRN-50-2, whose layers share banks of templates.

ResNet-50 with wider 3×3 convolutions: a 7×7 layer of stride 2, a pooling, and four stages of 3, 4, 6 and 3 blocks of a
1×1, a 3×3 and a 1×1 convolution, each with a norm behind it. Names and shapes are those of torchvision's and timm's
`wide_resnet50_2`, whose weights load.

Source: Zagoruyko 2016, section 3.4 and table 8; He 2015, table 1; Savarese 2019, the poster's table of ImageNet.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from weightshare.depth.templates import Templates
from weightshare.errors import SpecError
from weightshare.verbs import share_

BLOCKS = (3, 4, 6, 3)
FIRST, EXPANSION = 64, 4
"""Channels of the first layer, and how many times as many a block of width 1 gives as its 3×3 convolution has."""


class Bottleneck(nn.Module):
    """A 1×1, a 3×3 and a 1×1 convolution beside a shortcut; the 3×3 one has the stride."""

    def __init__(self, into: int, inner: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = nn.Sequential()  # of nothing: the identity
        if stride != 1 or into != out:
            self.downsample = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        inner = relu(self.bn1(self.conv1(x)))
        inner = relu(self.bn2(self.conv2(inner)))
        return relu(self.bn3(self.conv3(inner)) + self.downsample(x))


def _stage(number: int, width: int) -> nn.Sequential:
    """The blocks of a stage, from 0; the first changes the shape."""
    inner, out = FIRST * width * 2**number, FIRST * EXPANSION * 2**number
    first = Bottleneck(out // 2 if number else FIRST, inner, out, 2 if number else 1)
    return nn.Sequential(first, *(Bottleneck(out, inner, out, 1) for _ in range(BLOCKS[number] - 1)))


class WideResNet50(nn.Module):
    """See `wrn50`."""

    def __init__(self, width: int, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, FIRST, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(FIRST)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(0, width)
        self.layer2 = _stage(1, width)
        self.layer3 = _stage(2, width)
        self.layer4 = _stage(3, width)
        self.fc = nn.Linear(FIRST * EXPANSION * 2**3, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch classes"]:
        x = self.maxpool(relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((-2, -1)))

    def repeated(self, stage: int) -> list[str]:
        """The paths of a stage's weights that repeat: the convolutions of every block but its first; from stage 1."""
        numbers = range(1, BLOCKS[stage - 1])
        return [f"layer{stage}.{number}.conv{layer}.weight" for number in numbers for layer in (1, 2, 3)]


def wrn50(width: int = 2, classes: int = 1000, in_channels: int = 3) -> WideResNet50:
    """Build the wide residual network WRN-50-`width`: ResNet-50 with 3×3 convolutions `width` times as wide.

    Kernels start as `N(0, 2 / (out · k²))`, norms at 1 and 0, the classifier as torch does it.

    Args:
        width: Widening factor of what lies within a block; 1 is ResNet-50.
        classes: Outputs.
        in_channels: Channels of the images; the stages see a quarter of their height and width, or less.

    Returns:
        A network from `(batch, in_channels, h, w)` to `(batch, classes)`.

    Raises:
        SpecError: If a size is below 1.

    Source: Zagoruyko 2016, table 8. Differs: the stride is that of the 3×3 convolution, not of the 1×1 one before it,
        as in torchvision's weights.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     sum(p.numel() for p in wrn50().parameters())
        68883240
    """
    for size, value in (("width", width), ("classes", classes), ("in_channels", in_channels)):
        if value < 1:
            raise SpecError(f"wrn50({size}={value}): need 1 or more.")
    return WideResNet50(width, classes, in_channels)


def swrn50(width: int = 2, templates: int | None = None, classes: int = 1000, in_channels: int = 3) -> WideResNet50:
    """Build the soft-shared wide residual network SWRN-50-`width`.

    It is `wrn50` with banks of templates: within a stage, the weights of one shape of all blocks but the first share
    one, so that a stage has three. Coefficients start orthonormal.

    Args:
        width: Widening factor of what lies within a block.
        templates: Templates `k` of each bank, 1 or more; none is one for each layer.
        classes: Outputs.
        in_channels: Channels of the images.

    Returns:
        A network of the same class; each stage has a plan of its own, as stages have 2, 3, 5 and 2 layers a bank.

    Raises:
        SpecError: If a size is below 1.

    Source: Savarese 2019, the poster's table of ImageNet. Differs: which layers share, and how many templates there
        are, is not in the text; one for each layer has the 69 million parameters of that table.

    Example:
        >>> from weightshare.planning import applied_plans
        >>> small = swrn50(1, templates=2, classes=10)
        >>> [len(plan.groups) for _, plan in applied_plans(small)]
        [3, 3, 3, 3]
    """
    net = wrn50(width, classes, in_channels)
    for stage, blocks in enumerate(BLOCKS, 1):
        # With width 4 both 1×1 convolutions of a block have one shape, and its bank has two layers a block.
        count = (blocks - 1) * (2 if width == EXPANSION else 1) if templates is None else templates
        share_(net, Templates(count, init="orthogonal", within="model"), net.repeated(stage))
    return net
