"""ResNet-20 for small images and ResNet-18 for large ones, with 3×3 layers alone: what sleep phases were tried on.

Stages of residual blocks, each block two 3×3 convolutions with batch norm; every stage after the first halves height
and width and widens. Nothing has a bias but the classifier. Layers have the names that torchvision gives them: `conv1`,
`bn1`, `layer1.0.conv1`, ..., `layer2.0.downsample.0`, ..., `fc`.

Source: He 2015 ("Deep residual learning for image recognition"), sections 3.4 and 4.2, as Pogodin 2021 uses them
(section 5, appendix B). Shortcuts that change the shape are 1×1 convolutions of stride 2 with batch norm (He's option
B), since Pogodin 2021 has "1×1 residual downsampling layers"; or nothing but strides and zeros (option A), which is
what He 2015 has on CIFAR, and what networks trained after it have.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, relu, relu_

from weightshare.errors import SpecError

Shortcut = Literal["convolution", "pad"]


class Padding(nn.Module):
    """The shortcut that stores nothing: every `stride`-th row and column, and channels of zeros on both sides.

    Source: He 2015, section 3.3, option A. Differs: nothing; where the zeros stand is not said there. Half of them
    come before the channels that there are and half behind, one more behind where their number is odd, which is where
    published weights of these networks expect them.
    """

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        before = (out - into) // 2
        self.zeros = (before, out - into - before)
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        return pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, *self.zeros))

    def extra_repr(self) -> str:
        return f"zeros={self.zeros}, stride={self.stride}"


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, into: int, out: int, stride: int, shortcut: Shortcut = "convolution") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = nn.Sequential()  # of nothing: the identity
        if stride != 1 or into != out:
            self.downsample = (
                Padding(into, out, stride)
                if shortcut == "pad"
                else nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            )

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        inner = relu(self.bn1(self.conv1(x)))
        return relu_(self.bn2(self.conv2(inner)) + self.downsample(x))  # the sum is no module's output


class ResNet(nn.Module):
    """See `resnet20` and `resnet18_half`.

    Args:
        widths: Channels of each stage.
        blocks: Blocks of each stage.
        classes: Outputs.
        in_channels: Channels of the images.
        quarter: Whether the first layer and a pooling behind it take a quarter of height and width.
        shortcut: Of the blocks that change the shape: a `convolution`, or `pad`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        classes: int,
        in_channels: int,
        quarter: bool,
        shortcut: Shortcut = "convolution",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 2 if quarter else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, padding=1) if quarter else nn.Identity()
        self.stages = [f"layer{number}" for number in range(1, len(widths) + 1)]
        before = widths[0]
        for name, width in zip(self.stages, widths, strict=True):
            strides = [1 if name == "layer1" else 2] + [1] * (blocks - 1)
            sizes = [before] + [width] * (blocks - 1)
            pairs = zip(sizes, strides, strict=True)
            setattr(self, name, nn.Sequential(*(Block(size, width, stride, shortcut) for size, stride in pairs)))
            before = width
        self.fc = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch classes"]:
        x = self.pool(relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((-2, -1)))


def resnet20(
    widths: Sequence[int] = (16, 32, 64),
    blocks: int = 3,
    classes: int = 10,
    in_channels: int = 3,
    shortcut: Shortcut = "convolution",
) -> ResNet:
    """Build the ResNet of small images: a 3×3 layer and three stages, at full, half and quarter resolution.

    Kernels start as `N(0, 2 / (out · k²))`, norms at 1 and 0, the classifier as torch does it.

    Args:
        widths: Channels of the three stages.
        blocks: Blocks of each stage, each of two layers; there are `6·blocks + 2` layers, 20 of them with 3. He 2015
            also has 5, 7, 9 and 18.
        classes: Outputs.
        in_channels: Channels of the images, of any size.
        shortcut: What stands beside a block that changes the shape: a 1×1 `convolution` with batch norm, or `pad`,
            every second pixel and zeros for the channels that are new.

    Returns:
        A network from `(batch, in_channels, h, w)` to `(batch, classes)`.

    Raises:
        SpecError: If a size is below 1, there are other than three widths, or `pad` is asked to take channels away.

    Source: Pogodin 2021, section 5 and appendix B, which have the convolutions; He 2015, section 4.2, which pads.
    Differs: nothing.

    Example:
        >>> sum(p.numel() for p in resnet20().parameters())
        272474
        >>> sum(p.numel() for p in resnet20(blocks=9, shortcut="pad").parameters())
        853018
    """
    return _built("resnet20", 3, widths, blocks, classes, in_channels, quarter=False, shortcut=shortcut)


def resnet18_half(
    widths: Sequence[int] = (32, 64, 128, 256), blocks: int = 2, classes: int = 1000, in_channels: int = 3
) -> ResNet:
    """Build the ResNet of large images, of half the usual width: a 3×3 layer of stride 2, a pooling and four stages.

    Kernels start as those of `resnet20`.

    Args:
        widths: Channels of the four stages.
        blocks: Blocks of each stage, each of two layers.
        classes: Outputs.
        in_channels: Channels of the images; the stages see a quarter of their height and width, or less.

    Returns:
        A network from `(batch, in_channels, h, w)` to `(batch, classes)`.

    Raises:
        SpecError: If a size is below 1, or there are other than four widths.

    Source: Pogodin 2021, section 5; He 2015, table 1.
    Differs: the text has 3×3 layers alone and says that the first one "has the largest resolution (224 by 224)", not
        its stride nor what follows. Here that is its input: only the size of He's 7×7 kernel changes, the stride of 2
        and the 3×3 max-pooling of stride 2 stay. The stages then have 56×56 positions, and the locally connected
        network 435 million weights, 7 GB with gradients and AdamW's moments, which fits the paper's 16 GB. Twice
        the resolution in the stages would be four times that, which does not.

    Example:
        >>> sum(p.numel() for p in resnet18_half().parameters())
        3052040
    """
    return _built("resnet18_half", 4, widths, blocks, classes, in_channels, quarter=True)


def _built(
    name: str,
    stages: int,
    widths: Sequence[int],
    blocks: int,
    classes: int,
    in_channels: int,
    quarter: bool,
    shortcut: Shortcut = "convolution",
) -> ResNet:
    if len(widths) != stages:
        raise SpecError(f"{name}(widths={tuple(widths)}): need {stages} widths, one for each stage.")
    sizes = {"widths": min(widths), "blocks": blocks, "classes": classes, "in_channels": in_channels}
    for size, value in sizes.items():
        if value < 1:
            raise SpecError(f"{name}({size}={value}): need 1 or more.")
    if shortcut not in get_args(Shortcut):
        raise SpecError(f"{name}(shortcut={shortcut!r}): need 'convolution' or 'pad'.")
    if shortcut == "pad" and list(widths) != sorted(widths):
        raise SpecError(f"{name}(widths={tuple(widths)}, shortcut='pad'): zeros add channels, so widths must not fall.")
    return ResNet(widths, blocks, classes, in_channels, quarter, shortcut)
