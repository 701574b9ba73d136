"""Models of transformers by name: a class, a kind of model, a folder, or what its hub calls it.

| name | model |
|---|---|
| `BertForMaskedLM` | that class, of its default configuration, with random weights |
| `bert` | the bare model of a kind, likewise |
| `folder/` | what `save_pretrained`, theirs or ours, wrote; random weights if there is a configuration alone |
| `org/name` | what the hub, or its cache, has under that name |
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from weightshare.errors import ConfigError
from weightshare.files.folders import COMPACT
from weightshare.models import pretrained
from weightshare.models.hub import expect_on_hub

WEIGHTS = ("*.safetensors", "*.bin")


def build_transformers(name: str, options: dict[str, Any]) -> nn.Module:
    """Build a model of transformers.

    Args:
        name: See the table of this module. No code that a folder or the hub brings along is run.
        options: Of the configuration, such as `num_hidden_layers`.

    Raises:
        ConfigError: If transformers is not installed, or knows no such model; the nearest names are given.
    """
    transformers = pretrained._transformers()
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(transformers, folder, options)
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if name in kinds:
        return transformers.AutoModel.from_config(_configured(kinds[name], options))
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        config: Any = kind.config_class
        if config is None:
            raise ConfigError(
                f"transformers.{name} is abstract: name a class of one kind, or the kind, such as 'bert'."
            )
        return kind(_configured(config, options))  # type: ignore[operator]
    known = [*kinds, *(one for one in dir(transformers) if "Model" in one or "For" in one)]
    near = get_close_matches(name, known, n=3)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    lead = f"transformers knows no {name!r}, and no folder is called so.{hint}"
    if name.isidentifier() and name != name.lower():  # a class: no model of the hub without an owner is called so
        raise ConfigError(lead)
    reached = expect_on_hub(name, f"{lead} Taken for a name of the hub")
    try:
        return transformers.AutoModel.from_pretrained(name, local_files_only=not reached, **options)
    except (OSError, ValueError) as error:  # such as files that it cannot read, or that do not come
        raise ConfigError(f"{lead} {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _configured(kind: Any, options: dict[str, Any]) -> Any:
    """A configuration; transformers keeps an option that it does not know, and goes on as if it were not there."""
    default = kind()
    for key in options:
        if not hasattr(default, key):
            near = get_close_matches(key, default.to_dict(), n=3)
            hint = f" Nearest: {', '.join(near)}." if near else ""
            raise ConfigError(f"{kind.__name__} has no option {key!r}.{hint}")
    return kind(**options) if options else default


def _of_folder(transformers: Any, folder: Path, options: dict[str, Any]) -> nn.Module:
    if (folder / COMPACT).is_file():
        return pretrained.from_pretrained(folder)
    if not (folder / pretrained.CONFIG).is_file():
        raise ConfigError(f"'{folder}' has no {pretrained.CONFIG}: it is no folder of transformers.")
    config = transformers.AutoConfig.from_pretrained(folder, **options)
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    loaded = any(any(folder.glob(pattern)) for pattern in WEIGHTS)
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return kind.from_pretrained(folder, config=config) if loaded else kind(config)  # type: ignore[operator]
    auto = transformers.AutoModel
    return auto.from_pretrained(folder, config=config) if loaded else auto.from_config(config)
