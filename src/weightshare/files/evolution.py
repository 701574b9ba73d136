"""The record of a training's coefficients as a file: `depth.record.Evolution`, to the bit, with a checksum."""

from pathlib import Path

from weightshare.depth.record import Evolution
from weightshare.errors import FileError
from weightshare.files import archive

KIND = "similarity"
PREFIX = "coefficients."


def save_evolution(evolution: Evolution, path: str | Path) -> int:
    """Write what was kept of a training.

    Args:
        evolution: From a `Record`'s handle.
        path: Where to; a file that was there is replaced once the new one is whole.

    Returns:
        Size of the file in bytes.

    Raises:
        FileError: If the disk refuses.
    """
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in evolution.coefficients.items()}
    layers = {name: list(paths) for name, paths in evolution.layers.items()}
    return archive.write(path, tensors, {}, {"kind": KIND, "steps": list(evolution.steps), "layers": layers})


def load_evolution(path: str | Path) -> Evolution:
    """Read what `save_evolution` wrote.

    Raises:
        FileError: If the file is missing, damaged, or holds something else.

    Example:
        >>> import tempfile, torch
        >>> kept = Evolution((0, 9), {"blocks": ("0.weight", "1.weight")}, {"blocks": torch.ones(2, 2, 3)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_evolution(kept, f"{folder}/similarity.safetensors")
        ...     load_evolution(f"{folder}/similarity.safetensors").steps
        (0, 9)
    """
    held = archive.read(path, KIND)
    try:
        steps = tuple(held.content["steps"])
        layers = {str(name): tuple(map(str, paths)) for name, paths in held.content["layers"].items()}
        coefficients = {name: held.tensors[f"{PREFIX}{name}"] for name in layers}
        fit = all(coefficients[name].shape[:2] == (len(steps), len(paths)) for name, paths in layers.items())
        fit = fit and all(type(step) is int for step in steps) and sorted({*steps}) == list(steps) != []
        if not fit or any(tensor.ndim != 3 for tensor in coefficients.values()):
            raise FileError("steps, layers and coefficients do not fit each other")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"'{path}' is no record of coefficients: {type(error).__name__}: {error}.") from error
    return Evolution(steps, layers, coefficients)
