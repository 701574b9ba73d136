"""ConvMixer `C/D/P/K`: an isotropic network, so every one of its layers can share with every other.

Patches of `P×P` pixels become `C` channels; `D` equal blocks mix space with a depthwise `K×K` convolution inside a
residual, then channels with a pointwise one; a global mean feeds the classifier.

Source: Trockman 2022 ("Patches are all you need?"), figure 2; used by Lin 2022. Differs: nothing with the default GELU;
Lin 2022 trains with ReLU and dropout before the classifier, which are options here.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from weightshare.errors import SpecError

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
"""By the names that a configuration can hold."""


class Block(nn.Module):
    """Mix space inside a residual, then channels."""

    def __init__(self, channels: int, kernel: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, groups=channels, padding="same")
        self.depthwise_norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.pointwise_norm = nn.BatchNorm2d(channels)
        self.activation = activation()

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        x = x + self.depthwise_norm(self.activation(self.depthwise(x)))
        return self.pointwise_norm(self.activation(self.pointwise(x)))


class ConvMixer(nn.Module):
    """See `convmixer`."""

    def __init__(
        self,
        channels: int,
        depth: int,
        patch: int,
        kernel: int,
        classes: int,
        in_channels: int,
        activation: type[nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, channels, patch, stride=patch)
        self.patches_norm = nn.BatchNorm2d(channels)
        self.activation = activation()
        self.blocks = nn.Sequential(*(Block(channels, kernel, activation) for _ in range(depth)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch classes"]:
        x = self.patches_norm(self.activation(self.patches(x)))
        return self.head(self.dropout(self.blocks(x).mean((-2, -1))))


def convmixer(
    dim: int,
    depth: int,
    patch: int,
    kernel: int,
    classes: int = 1000,
    in_channels: int = 3,
    activation: type[nn.Module] | Literal["gelu", "relu"] = nn.GELU,
    dropout: float = 0.0,
) -> ConvMixer:
    """Build a ConvMixer `dim/depth/patch/kernel`.

    Args:
        dim: Channels `C`.
        depth: Blocks `D`.
        patch: Side of a patch `P`, in pixels; also the stride.
        kernel: Side of the depthwise kernel `K`.
        classes: Outputs of the classifier.
        in_channels: Channels of the images.
        activation: Class of the activation, or `gelu` or `relu`.
        dropout: Probability before the classifier.

    Returns:
        A network from `(batch, in_channels, h, w)` to `(batch, classes)`; `h` and `w` are at least `patch`.

    Raises:
        SpecError: If a size is below 1, or no activation has that name.

    Source: Trockman 2022, figure 2.

    Example:
        >>> sum(p.numel() for p in convmixer(768, 32, 14, 3).parameters())
        20465896
    """
    sizes = {
        "dim": dim,
        "depth": depth,
        "patch": patch,
        "kernel": kernel,
        "classes": classes,
        "in_channels": in_channels,
    }
    for name, size in sizes.items():
        if size < 1:
            raise SpecError(f"convmixer({name}={size}): need 1 or more.")
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise SpecError(f"convmixer(activation={activation!r}): need a class or one of {', '.join(ACTIVATIONS)}.")
        activation = ACTIVATIONS[activation]
    return ConvMixer(dim, depth, patch, kernel, classes, in_channels, activation, dropout)
