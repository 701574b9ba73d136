"""Checkpoints in a folder: one file, or several with an index that says which tensor lies in which.

The index is that of transformers and accelerate: JSON with `weight_map`, `{tensor: file}`. Files lie beside it; a name
that leads out of the folder is refused.
"""

from collections.abc import Mapping
import os
from pathlib import Path

from torch import Tensor

from weightshare.errors import FileError
from weightshare.files.atomic import read_json
from weightshare.files.stored import PICKLE, read_stored

ENDING, INDEX = ".safetensors", ".safetensors.index.json"
COMPACT = "weightshare.safetensors"
"""A model of ours in a folder of transformers, which would otherwise take it for a plain one."""
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")


def located(path: str | Path) -> str | Path:
    """The file, or the index, that a path means: itself, or the one in a folder.

    Raises:
        FileError: If a folder holds none, or several and none of the usual names.
    """
    if not isinstance(path, str | Path) or not os.path.isdir(path):
        return path
    path = Path(path)
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise FileError(f"Cannot read the folder '{path}': {error.strerror or error}.") from error
    names = [entry.name for entry in entries if entry.name.endswith((ENDING, INDEX))]
    for usual in (COMPACT, f"model{ENDING}", f"model{INDEX}"):
        if usual in names:
            return path / usual
    chosen = [name for name in names if name.endswith(INDEX)] or names
    if len(chosen) != 1:
        pickled = not names and any(entry.suffix in PICKLES for entry in entries)
        advice = f"It holds a pickle. {PICKLE}" if pickled else f"Name one of the files: {', '.join(names) or 'none'}."
        raise FileError(f"The folder '{path}' has no one safetensors file or index. {advice}")
    return path / chosen[0]


def is_index(path: str | Path) -> bool:
    """Whether a path names an index of several files."""
    return str(path).endswith(".json")


def read_shards(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of the files that an index names.

    Raises:
        FileError: If the index or a file is damaged, a file lies elsewhere, or they do not hold what the index says.
    """
    path, index = Path(path), read_json(path)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise FileError(f"'{path}' is no index: need a table 'weight_map' of tensors and files.")
    found: dict[str, Tensor] = {}
    for file in sorted({*names.values()}):
        if Path(file).name != file or "\\" in file or not file.endswith(ENDING):
            raise FileError(f"'{path}' names {file[:200]!r}, need the name of a safetensors file beside it.")
        held, _ = read_stored(path.with_name(file))
        _expect(path, file, held, {name for name, at in names.items() if at == file})
        found |= held
    return found


def _expect(path: Path, file: str, held: Mapping[str, Tensor], said: set[str]) -> None:
    differs = sorted(said ^ held.keys())
    if differs:
        there = "lacks" if differs[0] in said else "has besides"
        raise FileError(f"'{path.with_name(file)}' {there} '{differs[0]}': it is not the file of the index '{path}'.")
