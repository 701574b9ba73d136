"""A convolutional network for pixels of a grid: equal 3×3 layers that keep every pixel, each inside a residual.

One layer is like another, so all of them can share; with one kernel for all the network would be recurrent, and its
layers the steps of a rule that each pixel applies to its neighbours.

Source: Savarese 2019, shortest paths. Differs: only a CNN of many layers is in the text that the project has; norms
before the convolutions, residuals and sizes are ours.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from weightshare.errors import SpecError


class GridLayer(nn.Module):
    """Norm, ReLU and a 3×3 convolution, inside a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch width h w"]) -> Float[Tensor, "batch width h w"]:
        return x + self.conv(relu(self.norm(x)))


class GridCNN(nn.Module):
    """See `grid_cnn`."""

    def __init__(self, width: int, depth: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.layers = nn.Sequential(*(GridLayer(width) for _ in range(depth)))
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch h w"]:
        return self.head(relu(self.norm(self.layers(self.stem(x)))))[:, 0]


def grid_cnn(width: int, depth: int, in_channels: int = 2) -> GridCNN:
    """Build the network: one logit for each pixel of an image of any size.

    Args:
        width: Channels of every layer.
        depth: Equal layers; with the stem an output sees `depth + 1` pixels far.
        in_channels: 2 for query points and obstacles.

    Returns:
        The network, with `9·in·width + width + depth·(9·width² + 2·width) + 3·width + 1` parameters.

    Raises:
        SpecError: If a number is not positive.

    Source: Savarese 2019, shortest paths. Differs: see the module.

    Example:
        >>> from weightshare.models import grid
        >>> network = grid.grid_cnn(width=5, depth=3)
        >>> network(torch.zeros(1, 2, 7, 11)).shape, sum(p.numel() for p in network.parameters())
        (torch.Size([1, 7, 11]), 816)
    """
    if min(width, depth, in_channels) < 1:
        raise SpecError(f"grid_cnn(width={width}, depth={depth}, in_channels={in_channels}): need positive numbers.")
    return GridCNN(width, depth, in_channels)
