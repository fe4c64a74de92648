"""Where a run took place: versions, device, commit, command. No personal paths."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import trainact

_DISTRIBUTIONS = ("torch", "lightning", "torchvision", "timm", "torch_tract")


def hide_home(text: str) -> str:
    """Replace the home folder by ``~``.

    Args:
        text: a path, or a command with paths in it.

    Returns:
        The text as it can be published.
    """
    home = str(Path.home())
    return re.sub(re.escape(home) + r"(?![\w.-])", "~", text) if home != "/" else text


def command_line() -> str:
    """Say how this program was called.

    Returns:
        ``trainact`` (or ``python -m`` and a module) and its arguments, quoted for a
        shell.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = "trainact" if spec is None else spec.name.removesuffix(".__main__")
    program = ["trainact"] if module == "trainact" else ["python", "-m", module]
    return hide_home(shlex.join([*program, *sys.argv[1:]]))


def describe(device: torch.device) -> dict[str, Any]:
    """Collect what a reader needs to judge a measurement.

    Args:
        device: where it takes place.

    Returns:
        Fields of a record: device, threads, versions, commit, started, command.
    """
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Read the versions that decide numbers and times.

    Returns:
        Version per distribution, and Python and the platform.
    """
    found = {name: _version(name) for name in _DISTRIBUTIONS}
    return {
        "trainact": trainact.__version__,  # also where it runs from a checkout
        **found,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def git_commit() -> str | None:
    """Name the commit of a source checkout of trainact.

    Returns:
        The hash, with ``+`` when files were changed since; None when the package is
        not part of a checkout.
    """
    package = Path(trainact.__file__).parent
    commit = _git(package, "log", "-1", "--format=%H", "--", "__init__.py")
    if not commit:  # no git, no checkout, or one that does not track this package
        return None
    changed = _git(package, "status", "--porcelain", "--", ".")
    return (_git(package, "rev-parse", "HEAD") or commit) + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """Name the hardware.

    Args:
        device: where the run took place.

    Returns:
        For example ``NVIDIA H100`` or the processor's name.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor_name()


@functools.cache
def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return next(iter(names), platform.processor() or platform.machine())
