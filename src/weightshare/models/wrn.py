"""Wide residual networks of small images: WRN-L-w, and SWRN-L-w-k, whose layers share banks of templates.

A 3×3 layer of 16 channels, three stages of residual blocks at full, half and quarter resolution with `16·w`, `32·w` and
`64·w` channels, a norm and a classifier. Norms and ReLU come before each convolution (pre-activation), and nothing has
a bias but the classifier. Layers have the names that torchvision gives them where it has such: `conv1`,
`layer1.0.bn1`, `layer1.0.conv1`, ..., `layer2.0.downsample`, ..., `fc`.

Source: Zagoruyko 2016 ("Wide residual networks"), table 1 and figure 1; Savarese 2019, section 3 and the poster. The
networks of large images are in `models.wrn50`.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from weightshare.depth.templates import Templates
from weightshare.errors import SpecError
from weightshare.verbs import share_

STAGES, FIRST = 3, 16
"""Stages of blocks, and channels of the first layer, which does not widen."""


class Block(nn.Module):
    """Two 3×3 convolutions, each behind a norm and a ReLU, beside a shortcut.

    Where the shape changes, the shortcut is a 1×1 convolution of what the first norm and ReLU give; else it is what
    came in. Dropout stands between the convolutions (Zagoruyko 2016, figure 1d).
    """

    def __init__(self, into: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(into)
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        changes = stride != 1 or into != out
        self.downsample = nn.Conv2d(into, out, 1, stride, bias=False) if changes else None

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out h2 w2"]:
        active = relu(self.bn1(x))
        beside = x if self.downsample is None else self.downsample(active)
        return beside + self.conv2(self.dropout(relu(self.bn2(self.conv1(active)))))


def _stage(into: int, out: int, stride: int, blocks: int, dropout: float) -> nn.Sequential:
    """Blocks of which the first alone changes the shape."""
    more = (Block(out, out, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(Block(into, out, stride, dropout), *more)


class WideResNet(nn.Module):
    """See `wrn`."""

    def __init__(self, blocks: int, width: float, classes: int, dropout: float, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, FIRST, 3, padding=1, bias=False)
        widths = [round(FIRST * width) * 2**stage for stage in range(STAGES)]
        self.layer1 = _stage(FIRST, widths[0], 1, blocks, dropout)
        self.layer2 = _stage(widths[0], widths[1], 2, blocks, dropout)
        self.layer3 = _stage(widths[1], widths[2], 2, blocks, dropout)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch classes"]:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(relu(self.bn(x)).mean((-2, -1)))

    @property
    def repeated(self) -> list[str]:
        """The paths of the weights that repeat within a stage: both convolutions of every block but its first."""
        return [
            f"layer{stage + 1}.{number}.conv{layer}.weight"
            for stage in range(STAGES)
            for number in range(1, len(self.layer1))
            for layer in (1, 2)
        ]


def wrn(depth: int, width: float, classes: int = 10, dropout: float = 0.0, in_channels: int = 3) -> WideResNet:
    """Build the wide residual network WRN-`depth`-`width`.

    There are `n = (depth - 4) / 6` blocks a stage. Kernels start as `N(0, 2 / (out · k²))`, norms at 1 and 0, the
    classifier as torch does it.

    Args:
        depth: Layers `L`: 10, 16, 22, 28, 34, 40, ...
        width: Widening factor `w`, 1 or more, usually whole; `16·w` has to be.
        classes: Outputs.
        dropout: Probability between the two convolutions of a block, 0 to below 1.
        in_channels: Channels of the images, of any size.

    Returns:
        A network from `(batch, in_channels, h, w)` to `(batch, classes)`.

    Raises:
        SpecError: If there is no such network.

    Source: Zagoruyko 2016, table 1 and figure 1. Differs: the first block of a stage has a 1×1 shortcut where the
        shape changes alone, which with `width=1` leaves out the first stage.

    Example:
        >>> sum(p.numel() for p in wrn(28, 1).parameters())
        369498
    """
    name = f"wrn({depth}, {width:g})"
    if depth < 10 or (depth - 4) % 6:
        raise SpecError(f"{name}: got depth {depth}, need 6·n + 4 with n from 1, such as 16, 22, 28 or 40.")
    if width < 1 or FIRST * width != round(FIRST * width):
        raise SpecError(f"{name}: got width {width:g}, need 1 or more, and a whole number of channels {FIRST}·width.")
    for size, value in (("classes", classes), ("in_channels", in_channels)):
        if value < 1:
            raise SpecError(f"{name}: got {size}={value}, need 1 or more.")
    if not 0 <= dropout < 1:
        raise SpecError(f"{name}: got dropout={dropout!r}, need 0 to below 1.")
    return WideResNet((depth - 4) // 6, width, classes, dropout, in_channels)


def swrn(
    depth: int,
    width: float,
    templates: int | None = None,
    classes: int = 10,
    dropout: float = 0.0,
    in_channels: int = 3,
) -> WideResNet:
    """Build the soft-shared wide residual network SWRN-`depth`-`width`-`templates`.

    It is `wrn` with one bank of templates for each stage, `W_i = Σ_j α_ij T_j`, read by both 3×3 convolutions of every
    block but the stage's first: `(depth - 4) / 3 - 2` layers a bank. Coefficients start orthonormal.

    Args:
        depth: Layers `L`, as in `wrn`, from 16: with fewer no stage has a second block.
        width: Widening factor.
        templates: Templates `k` of each bank, 1 or more; none is one for each layer, SWRN-`depth`-`width`.
        classes: Outputs.
        dropout: Probability between the two convolutions of a block.
        in_channels: Channels of the images.

    Returns:
        A network of the same class, whose plan `weightshare.planning.applied_plans` gives.

    Raises:
        SpecError: If there is no such network.

    Source: Savarese 2019, section 3 and the poster's table. Differs: which layers are left out is not in the text; with
        the first blocks alone on their own, parameters are those that the poster's table rounds.

    Example:
        >>> sum(p.numel() for p in swrn(28, 1, 2).parameters())
        175998
    """
    net = wrn(depth, width, classes, dropout, in_channels)
    if not net.repeated:
        raise SpecError(f"swrn({depth}, {width:g}): a stage has one block, need two or more, so depth 16 or more.")
    layers = len(net.repeated) // STAGES
    # Stages differ in shape, so within the model each is a group; a block that stands alone would be no stage.
    share_(net, Templates(layers if templates is None else templates, init="orthogonal", within="model"), net.repeated)
    return net
