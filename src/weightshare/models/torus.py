"""A circular convolutional network and its fully connected twin, for images that live on a torus.

Both have two hidden layers of `c1` and `c2` channels at every position, batch norm, and a mean over positions before
the classifier. The convolutions are circular 3×3, so that the output does not change when an image is shifted around;
the twin has a weight for each pair of positions and has to find that out.

Source: Shakerinava 2023, MNIST on a torus (32 and 64 channels of 14×14 positions: 196 → 6,272 → 12,544 in the twin).
Differs: nothing that the paper states. Dropout, in the twin after each hidden layer, is as in the authors' experiment.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from weightshare.errors import SpecError


class TorusCNN(nn.Module):
    """Two circular convolutions; see `torus_cnn`."""

    def __init__(self, first: int, second: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, padding_mode="circular")
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, padding_mode="circular")
        self.norm2 = nn.BatchNorm2d(second)
        self.head = nn.Linear(second, classes)

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch classes"]:
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((-2, -1)))


class TorusMLP(nn.Module):
    """Its fully connected twin; see `torus_mlp`."""

    def __init__(self, first: int, second: int, in_channels: int, classes: int, side: int, dropout: float) -> None:
        super().__init__()
        positions = side * side
        self.second = second
        self.fc1 = nn.Linear(in_channels * positions, first * positions)
        self.norm1 = nn.BatchNorm1d(first * positions)
        self.fc2 = nn.Linear(first * positions, second * positions)
        self.norm2 = nn.BatchNorm1d(second * positions)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(second, classes)

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch classes"]:
        x = self.dropout(relu(self.norm1(self.fc1(x.flatten(1)))))
        x = self.dropout(relu(self.norm2(self.fc2(x))))
        return self.head(x.unflatten(1, (self.second, -1)).mean(-1))


def torus_cnn(first: int, second: int, classes: int = 10, in_channels: int = 1) -> TorusCNN:
    """Build the convolutional network.

    Args:
        first: Channels of the first hidden layer; 32 in the paper.
        second: Of the second; 64 in the paper.
        classes: Outputs.
        in_channels: Channels of the images, of any size.

    Raises:
        SpecError: If a size is below 1.

    Example:
        >>> sum(p.numel() for p in torus_cnn(4, 8).parameters())
        450
    """
    _expect("torus_cnn", first=first, second=second, classes=classes, in_channels=in_channels)
    return TorusCNN(first, second, in_channels, classes)


def torus_mlp(
    first: int, second: int, classes: int = 10, in_channels: int = 1, side: int = 14, dropout: float = 0.4
) -> TorusMLP:
    """Build the fully connected twin.

    Args:
        first: Channels of the first hidden layer; 32 in the paper.
        second: Of the second; 64 in the paper.
        classes: Outputs.
        in_channels: Channels of the images.
        side: Height and width of the images, in pixels.
        dropout: Probability after each hidden layer.

    Raises:
        SpecError: If a size is below 1.

    Example:
        >>> [tuple(p.shape) for p in torus_mlp(8, 16).parameters() if p.ndim == 2]
        [(1568, 196), (3136, 1568), (10, 16)]
    """
    _expect("torus_mlp", first=first, second=second, classes=classes, in_channels=in_channels, side=side)
    return TorusMLP(first, second, in_channels, classes, side, dropout)


def _expect(name: str, **sizes: int) -> None:
    for size, value in sizes.items():
        if value < 1:
            raise SpecError(f"{name}({size}={value}): need 1 or more.")
