"""Data sets that live whole in memory: images and labels, split once, normalised by the training part."""

from dataclasses import dataclass

from jaxtyping import Float, Int
import torch
from torch import Tensor

from weightshare.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Args:
        images: Normalised, float32.
        labels: Classes from 0, int64.
    """

    images: Float[Tensor, "images in h w"]
    labels: Int[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The same split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Data:
    """A data set with its split.

    Args:
        name: As in the configuration.
        train: What the network learns from.
        test: What it is measured on.
        classes: Number of classes.
    """

    name: str
    train: Split
    test: Split
    classes: int

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def example(self) -> Float[Tensor, "one in h w"]:
        """One image, to count MACs with."""
        return self.test.images[:1]


def load_data(name: str) -> Data:
    """Load a data set by name.

    Args:
        name: `digits`.

    Returns:
        The data set in memory, on the CPU.

    Raises:
        ConfigError: If there is no such set, or the package that carries it is not installed.

    Example:
        >>> digits = load_data("digits")
        >>> len(digits.train), len(digits.test), tuple(digits.example.shape)
        (1437, 360, (1, 1, 8, 8))
    """
    if name != "digits":
        raise ConfigError(f"data={name!r} is not known: need 'digits'.")
    return _digits()


def _digits() -> Data:
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn carries (UCI, Alpaydin and Kaynak 1998)."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ConfigError(
            f"data='digits' comes with scikit-learn, which is not there: pip install 'weightshare[train]' ({error})."
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    # One split for everyone, whatever the seed of a run: a fifth of each class is for testing.
    parts = train_test_split(pixels, classes, test_size=360, random_state=0, stratify=classes)
    train_x, test_x = (torch.from_numpy(part).float().view(-1, 1, 8, 8) for part in parts[:2])
    train_y, test_y = (torch.from_numpy(part).long() for part in parts[2:])
    mean, std = train_x.mean(), train_x.std()
    return Data("digits", Split((train_x - mean) / std, train_y), Split((test_x - mean) / std, test_y), classes=10)
