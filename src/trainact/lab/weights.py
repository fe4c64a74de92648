"""Trained weights as files: kept for recipes that begin with them."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import is_tensor, nn

from trainact.lab.errors import LabError, check_regular, describe_os_error, first_line
from trainact.lab.saved import put_in_place, read_saved

_REMEDY = "give the file of a state dict with --weights"


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
    values = read_saved(path, "the weights", _REMEDY)
    for name in ("model", "state_dict"):
        if isinstance(values, dict) and isinstance(values.get(name), dict):
            values = values[name]
    if not isinstance(values, dict) or not all(map(is_tensor, values.values())):
        raise LabError(f"{path} holds no state dict: give the file of one")
    return values


def published_weights(url: str) -> dict[str, Any]:
    """Read weights of torchvision from torch's cache, or fetch them into it.

    Args:
        url: of a file whose name ends with the first digits of its SHA-256, as those of
            torchvision do.

    Returns:
        The state dict.

    Raises:
        LabError: if they cannot be fetched, or the file in the cache is another one.
    """
    name = url.rpartition("/")[2]
    digits = Path(name).stem.rpartition("-")[2]
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digits)
        check_regular(file)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, RuntimeError) as error:
        raise LabError(
            f"cannot get torchvision's weights {name} ({first_line(error)}): without a "
            f"network, put that file at {file}"
        ) from error
    if not digest.startswith(digits):
        raise LabError(
            f"{file} is damaged or another file: its SHA-256 begins with "
            f"{digest[: len(digits)]} and not with {digits}; remove it or put "
            "torchvision's file there"
        )
    return read_saved(file, "the weights", "put torchvision's file there")


def hash_weights(path: Path) -> str:
    """Hash a file of weights, to tell what a run began with.

    Args:
        path: of the file.

    Returns:
        16 hexadecimal digits.

    Raises:
        LabError: if it cannot be read.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    except OSError as error:
        raise LabError(
            f"cannot read the weights {path} ({describe_os_error(error)}): {_REMEDY}"
        ) from error
    return digest.hexdigest()
