"""ImageNet, which its licence does not let anyone hand on: a folder of images or of shards that is there already."""

from dataclasses import replace
import os
from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.training.data.folder import image_folder
from weightshare.training.data.shards import has_shards, shard_folder
from weightshare.training.data.split import Data

CLASSES = 1000
"""Of ILSVRC 2012. Tests put a small number here."""

LAYOUT = """Lay it in one of two ways, or make it a link to where it lies:
  imagenet/train/n01440764/*.JPEG and imagenet/val/n01440764/*.JPEG, a folder for each of the 1,000 classes
  imagenet/train-*.tar and imagenet/val-*.tar, WebDataset shards of KEY.jpg and KEY.cls (a number from 0)
It is never downloaded, since its licence is given by image-net.org to each user. Or name another folder of data sets:
WEIGHTSHARE_DATA, or data_dir."""


def imagenet(home: Path, size: int | None = None) -> Data:
    """ImageNet (ILSVRC 2012), measured on its validation part.

    Args:
        home: The folder of data sets, with the folder `imagenet` in it.
        size: Side of the square that images are brought to; see `listed.from_disk`.

    Raises:
        ConfigError: If it is not there, or has other than 1,000 classes.
        FileError: If files of it are damaged.
    """
    root = home / "imagenet"
    if not os.path.isdir(root):
        raise ConfigError(f"data='imagenet' is not there: looked for the folder '{root}'. {LAYOUT}")
    data = disk_folder(root, size)
    if data.classes != CLASSES:
        raise ConfigError(
            f"data='imagenet': '{root}' has {data.classes:,} classes, need {CLASSES:,}. Name a part of it by its path: "
            f"data='{root}'."
        )
    return replace(data, name="imagenet")


def disk_folder(root: Path, size: int | None = None) -> Data:
    """A folder of WebDataset shards, or else of images; see `shards.shard_folder` and `folder.image_folder`."""
    return shard_folder(root, size) if has_shards(root) else image_folder(root, size)
