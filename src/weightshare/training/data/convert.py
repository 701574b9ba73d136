"""Any source as one `.npz`, which loads in seconds and needs no image decoder."""

from pathlib import Path

import numpy as np

from weightshare.errors import ConfigError
from weightshare.files.atomic import replacing
from weightshare.training.data.listed import decoded
from weightshare.training.data.load import load_data
from weightshare.training.data.room import telling_room
from weightshare.training.data.split import Data, InMemory


def convert(source: str, out: str | Path, data_dir: str | Path | None = None, size: int | None = None) -> Data:
    """Write a data set as an `.npz`, and read it back.

    Args:
        source: As `load_data` takes it. Images on disk are decoded into memory whatever their size.
        out: The file to write; its name must end in `.npz`.
        data_dir: As in `load_data`.
        size: As in `load_data`.

    Returns:
        The set as it was written and read again; its name is that of the file.

    Raises:
        ConfigError: If `out` ends otherwise, or the source is not known or not there.
        FileError: If the source is damaged, `out` cannot be written, or there is no room for it.
    """
    if Path(out).suffix != ".npz":
        raise ConfigError(f"Cannot write the data set to '{out}': the name must end in .npz.")
    arrays = _arrays(source, data_dir, size)
    size = sum(array.nbytes for array in arrays.values())
    with telling_room(Path(out), size, "up to "), replacing(out) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # each keyword is an entry
    del arrays  # before there is a second set in memory
    return load_data(str(out))


def _arrays(source: str, data_dir: str | Path | None, size: int | None) -> dict[str, np.ndarray]:
    data = decoded(load_data(source, data_dir, size))
    parts = [part for part in (data.train, data.test) if isinstance(part, InMemory)]
    images = np.concatenate([part.images.numpy() for part in parts]).transpose(0, 2, 3, 1)
    return {
        "images": images,
        "labels": np.concatenate([part.labels.numpy() for part in parts]),
        "is_train": np.arange(len(images)) < len(data.train),
        "class_names": np.array(data.class_names, dtype=np.str_),
        "scale": np.array(data.train.scale),
        "layout": np.array("NHWC"),
    }
