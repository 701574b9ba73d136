"""Ask the hub of models whether it has one, and give up soon where it does not answer: libraries try for a minute."""

from importlib import import_module
from typing import Any

from weightshare.errors import ConfigError

SECONDS = 5.0
"""How long the hub may take to say whether it has a model."""
FILES = ("config.json", "model.safetensors", "pytorch_model.bin")


def expect_on_hub(name: str, lead: str) -> bool:
    """Refuse a name that neither the hub nor its cache has, and a hub that does not answer.

    Args:
        name: Such as `org/name`.
        lead: How the message begins.

    Returns:
        Whether the hub was reached; if not, its cache has the model.

    Raises:
        ConfigError: If there is no such model, or no answer and nothing in the cache.
    """
    hub: Any = import_module("huggingface_hub")
    errors: Any = import_module("huggingface_hub.errors")
    try:
        hub.HfApi().model_info(name, timeout=SECONDS)
    except errors.HFValidationError as error:
        raise ConfigError(f"{lead}, and the hub can have none of that name: {_line(error)}") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(f"{lead}, and the hub has none, or none that it shows to you.") from error
    except Exception as error:  # whatever a network, a proxy or a setting raises
        if _cached(hub, name):
            return False
        raise ConfigError(
            f"{lead}; its cache has none, and the hub gave no answer within {SECONDS:g} seconds: {_line(error)}"
        ) from error
    return True


def _cached(hub: Any, name: str) -> bool:
    return any(isinstance(hub.try_to_load_from_cache(name, file), str) for file in FILES)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
