"""The 1,797 handwritten digits of 8×8 pixels that scikit-learn carries: nothing to download."""

import numpy as np

from weightshare.errors import ConfigError
from weightshare.training.data.build import build
from weightshare.training.data.split import Data

SCALE = 16.0
"""The darkest ink: a pixel counts the dots of 4×4 that were set."""


def digits() -> Data:
    """The set of UCI (Alpaydin and Kaynak 1998), a fifth of each class for testing.

    Raises:
        ConfigError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ConfigError(
            f"data='digits' comes with scikit-learn, which is not there: pip install 'weightshare[train]' ({error})."
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    images = pixels.astype(np.uint8).reshape(-1, 1, 8, 8)
    # One split for everyone, whatever the seed of a run.
    parts = train_test_split(images, classes, test_size=360, random_state=0, stratify=classes)
    train, test, train_labels, test_labels = (np.asarray(part) for part in parts)
    names = tuple(str(digit) for digit in range(10))
    return build("digits", (train, train_labels), (test, test_labels), 10, names, SCALE)
