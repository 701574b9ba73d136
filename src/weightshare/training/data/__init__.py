"""Data sets of images: found by name, checked, split, and given out in batches; and what varies them in training.

`load_data` finds a set by its name, or reads a file or a folder. A `Split` gives batches of images in [0, 1];
`augmentation` varies them there, and `Split.normalised` makes of them what a network sees. `check` reads every image.
"""

from weightshare.training.data.augment import Augment, augmentation
from weightshare.training.data.convert import convert
from weightshare.training.data.lazy import Lazy
from weightshare.training.data.listed import check, without
from weightshare.training.data.load import SETS, load_data
from weightshare.training.data.naming import named
from weightshare.training.data.prepare import Prepare
from weightshare.training.data.split import Data, InMemory, Split

__all__ = [
    "SETS",
    "Augment",
    "Data",
    "InMemory",
    "Lazy",
    "Prepare",
    "Split",
    "augmentation",
    "check",
    "convert",
    "load_data",
    "named",
    "without",
]
