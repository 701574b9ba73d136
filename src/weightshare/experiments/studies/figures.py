"""The papers' figures that are no tables of `reproduce` yet: a name, and what draws it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightshare.errors import ConfigError
from weightshare.experiments.studies.shortest_paths_results import FIGURES as PATHS

Draw = Callable[..., tuple[str, Path]]
"""Takes the folder of results and the figure's own options; returns a table and the path of the picture."""

FIGURES: Mapping[str, Draw] = {**PATHS}


def figure(name: str, out: str | Path, **options: Any) -> tuple[str, Path]:
    """Make a figure's numbers and its picture.

    Args:
        name: One of `FIGURES`.
        out: Folder of results.
        options: The figure's own.

    Returns:
        Its numbers as a text table, and the path of its picture.

    Raises:
        ConfigError: If there is no such figure.
    """
    if name not in FIGURES:
        raise ConfigError(f"Figure {name!r}: need one of {', '.join(FIGURES)}.")
    return FIGURES[name](out, **options)
