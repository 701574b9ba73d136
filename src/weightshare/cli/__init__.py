"""The command line: text in, text out. What it does is done by `training`, `experiments` and the verbs."""

from weightshare.cli import inspecting, studies  # noqa: F401 - which add their commands
from weightshare.cli.commands import app, main

__all__ = ["app", "main"]
