"""Results of this folder as JSON: what was measured, with which command, on what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import ROOT
from weightshare.files.atomic import write_json
from weightshare.training.environment import environment

RESULTS = ROOT / "results" / "robustness"
PROGRESS = ROOT / "runs" / "robustness"
"""Where what is not finished yet is kept; git ignores it."""


def write(name: str, command: str, found: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result with the command that made it and the machine that it was made on."""
    path = folder / f"{name}.json"
    write_json(path, {"command": command, **found, "environment": environment()})
    return path
