"""Other programs, and what they say where they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

MINUTES = 120
LAST_LINES = 15


def git(folder: Path, *arguments: str) -> str:
    """Ask git.

    Args:
        folder: of the checkout.
        *arguments: of git.

    Returns:
        What it answers.
    """
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def run(command: Sequence[str], folder: Path) -> list[str]:
    """Run a program to its end.

    Args:
        command: name and arguments.
        folder: to run it in.

    Returns:
        The last lines that it wrote where it failed; nothing if all is well.
    """
    # Nothing of this process's Python reaches into another environment.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**clean, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=60 * MINUTES,
            check=False,
        )
    except FileNotFoundError:
        return [f"{command[0]} is not installed"]
    except subprocess.TimeoutExpired:
        return [f"{' '.join(command)} took more than {MINUTES} minutes"]
    if done.returncode == 0:
        return []
    last = done.stdout.strip().splitlines()[-LAST_LINES:]
    return [f"`{' '.join(command)}` ended with {done.returncode}:", *last]
