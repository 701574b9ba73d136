"""Shared models of transformers in a folder: what `save_pretrained` and `from_pretrained` are to plain ones.

transformers' own `save_pretrained` refuses layers that are tied, since its `from_pretrained` would not tie them again.
What a codebook or a bank makes it does save, as entries that `from_pretrained` does not know: it reports them and goes
on with random weights. So a shared model is kept in a file of our own, by another name than transformers looks for.
"""

from contextlib import suppress
import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weightshare.errors import ConfigError, FileError, SpecError
from weightshare.files.atomic import read_json, write_text
from weightshare.files.checkpoint import load, save
from weightshare.files.folders import COMPACT
from weightshare.models.by_name import import_timm
from weightshare.verbs import unshare_

CONFIG, GENERATION = "config.json", "generation_config.json"


def save_pretrained(model: Any, folder: str | Path, plain: bool = False) -> int:
    """Write a model of transformers, shared or not, with its configuration.

    Args:
        model: A `PreTrainedModel`. It is not changed.
        folder: Where to; made if missing. `weightshare.safetensors` and `config.json` are replaced, each in one step.
        plain: Write `model.safetensors`, too: the same weights, each dense and on its own, for the `from_pretrained`
            of transformers, which knows nothing of sharing. It is as large as the model was before it was shared.

    Returns:
        Bytes of the shared model's file.

    Raises:
        SpecError: If it is no model of transformers.
        SharingError: As `weightshare.save`.
    """
    transformers = _transformers()
    if not isinstance(model, transformers.PreTrainedModel):
        raise SpecError(
            f"{type(model).__name__} is no PreTrainedModel of transformers. Save it with weightshare.save(model, path)."
        )
    folder, config = Path(folder), copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    size = save(model, folder / COMPACT)
    if plain:
        apart = copy.deepcopy(model)
        unshare_(apart)
        apart.save_pretrained(folder)
    write_text(folder / CONFIG, config.to_json_string())
    if model.can_generate() and model.generation_config is not None:
        write_text(folder / GENERATION, model.generation_config.to_json_string())
    return size


def from_pretrained(folder: str | Path) -> Any:
    """Read a model that `save_pretrained` of this module wrote, shared as it was.

    Nothing is downloaded, and no code that a folder brings along is run: the model's class is one of transformers'.

    Args:
        folder: As given there.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        FileError: If a file is missing or damaged, or they do not belong together.
    """
    transformers = _transformers()
    folder = Path(folder)
    model = _built(transformers, folder / CONFIG)
    load(folder / COMPACT, model)
    if (folder / GENERATION).is_file():
        model.generation_config = transformers.GenerationConfig.from_dict(read_json(folder / GENERATION))
    return model.eval()


def _built(transformers: Any, path: Path) -> nn.Module:
    """The model that a configuration describes, with random weights, which leave the random generators alone."""
    said = read_json(path)
    names = said.get("architectures") if isinstance(said, dict) else None
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    kind = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise FileError(f"'{path}' names the architectures {str(names)[:200]}, need one model class of transformers.")
    try:
        config = kind.config_class.from_dict(said)  # type: ignore[attr-defined]
        with torch.random.fork_rng(devices=[]):
            return kind._from_config(config, dtype=config.dtype)  # type: ignore[attr-defined]
    except Exception as error:  # whatever a model's constructor raises for values that it cannot use
        raise FileError(f"'{path}' describes no {name}: {type(error).__name__}: {str(error)[:400]}") from error


def _transformers() -> Any:
    with suppress(ConfigError):  # transformers does without timm
        import_timm()  # declares what transformers would miss where torch is a CPU build
    try:
        return import_module("transformers")
    except ImportError as error:
        raise ConfigError(f"transformers is not installed ({error}): pip install 'weightshare[models]'.") from error
