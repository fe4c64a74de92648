"""Trained weights as files: kept for recipes that begin with them."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainact.lab.checkpointing import put_in_place
from trainact.lab.errors import LabError, describe_os_error, first_line


def keep_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of a model.

    Args:
        model: trained.
        path: of the file, which is replaced whole.

    Raises:
        LabError: if the disk does not take them.
    """
    fresh = path.with_suffix(".fresh")
    content = io.BytesIO()  # torch's own writer does not say what the disk said
    torch.save(model.state_dict(), content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content.getbuffer())
        put_in_place(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise LabError(
            f"the weights {path} could not be written ({describe_os_error(error)}): "
            "make room and give the same command again"
        ) from error


def read_weights(path: Path) -> dict[str, Any]:
    """Read weights, or those of a checkpoint.

    Args:
        path: a state dict that torch saved, alone or under ``model`` or ``state_dict``.

    Returns:
        The state dict.

    Raises:
        LabError: if there is none in the file.
    """
    try:
        values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise LabError(_unreadable(path, error)) from error
    except Exception as error:  # torch raises many types on a damaged file
        raise LabError(
            f"{path} holds no weights that can be read ({first_line(error)}): give the "
            "file of a state dict with --weights"
        ) from error
    for name in ("model", "state_dict"):
        if isinstance(values, dict) and isinstance(values.get(name), dict):
            values = values[name]
    if not isinstance(values, dict):
        raise LabError(f"{path} holds no state dict: give the file of one")
    return values


def hash_weights(path: Path) -> str:
    """Hash a file of weights, to tell what a run began with.

    Args:
        path: of the file.

    Returns:
        16 hexadecimal digits.

    Raises:
        LabError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    except OSError as error:
        raise LabError(_unreadable(path, error)) from error
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"cannot read the weights {path} ({describe_os_error(error)}): give the file "
        "of a state dict with --weights"
    )
