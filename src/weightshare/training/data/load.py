"""`load_data`: which source a name stands for."""

from difflib import get_close_matches
import os
from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.training.data.digits import digits
from weightshare.training.data.find import named_set
from weightshare.training.data.imagenet import disk_folder, imagenet
from weightshare.training.data.packed import packed
from weightshare.training.data.split import Data
from weightshare.training.data.tiny_imagenet import tiny_imagenet

SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet")
"""The sets that have a name."""

ENVIRONMENT = "WEIGHTSHARE_DATA"
"""The variable that names the folder of data sets."""


def load_data(name: str, data_dir: str | Path | None = None, size: int | None = None) -> Data:
    """Load a data set.

    Args:
        name: One of `SETS`; or a path that ends in `.npz`; or a folder of images or of WebDataset shards (`./digits`
            where a set has its name).
        data_dir: Where the official files of the named sets are, and where they are downloaded to if they are not
            there; else what WEIGHTSHARE_DATA names, else `data` in the current folder. `digits` needs none, and
            `imagenet` is never downloaded.
        size: Side of the square that images of a folder, of shards, of a packed file or of `imagenet` are brought to;
            `None` where they all have one size already.

    Returns:
        The data set, on the CPU.

    Raises:
        ConfigError: If there is no such set, or its files are neither there nor can be downloaded.
        FileError: If a file is damaged.

    Example:
        >>> digits = load_data("digits")
        >>> len(digits.train), len(digits.test), tuple(digits.example.shape)
        (1437, 360, (1, 1, 8, 8))
    """
    if size is not None and (type(size) is not int or size < 1):
        raise ConfigError(f"size={size!r}: need a whole number of pixels, 1 or more.")
    if name in SETS:
        return _named(name, home(data_dir), size)
    if name.endswith(".npz"):
        return packed(Path(name), size)
    if os.path.isdir(name):
        return disk_folder(Path(name), size)
    if os.sep in name or "/" in name:
        raise ConfigError(f"data={name!r}: there is no such folder, and the name does not end in .npz.")
    near = get_close_matches(name[:80], SETS, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"data={name!r} is not known: did you mean {near!r}? Known: {', '.join(SETS)}, "
        "a path that ends in .npz, a folder of images or of shards."
    )


def _named(name: str, folder: Path, size: int | None) -> Data:
    if name == "imagenet":
        return imagenet(folder, size)
    if size is not None:
        raise ConfigError(f"data={name!r} has images of one size: size={size} is for folders and packed files.")
    if name == "tiny-imagenet":
        return tiny_imagenet(folder)
    return digits() if name == "digits" else named_set(name, folder)


def home(data_dir: str | Path | None) -> Path:
    """The folder of data sets; see `load_data`."""
    return Path(data_dir or os.environ.get(ENVIRONMENT) or "data")
