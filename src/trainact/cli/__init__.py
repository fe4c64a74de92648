"""The command ``trainact``."""

from trainact.cli.command import main

__all__ = ["main"]
