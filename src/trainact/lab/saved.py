"""Files that torch saved: put in place whole, checked and read without running code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from trainact.lab.errors import LabError, check_regular, describe_os_error, first_line

_ZIP = b"PK\3\4"


def put_in_place(fresh: Path, path: Path) -> None:
    """Give a file that is complete its name, so that no crash leaves half of it.

    Args:
        fresh: the file.
        path: its name, of the same folder.
    """
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)


def read_saved(path: Path, what: str, remedy: str) -> Any:
    """Read what `torch.save` wrote; of tensors and plain values only, whoever wrote it.

    Every byte is compared with the checksums of the file, which torch's own reader
    ignores. Files from before torch 1.6 are no zip files and have none.

    Args:
        path: of the file.
        what: it is, for messages.
        remedy: what to do about it, for messages.

    Returns:
        What was saved, on the CPU.

    Raises:
        LabError: if it cannot be read, is damaged or holds anything else.
    """
    check_regular(path)
    try:
        damaged = _first_damaged(path)
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        why = f"it is damaged: the checksum of {damaged} in it differs"
    except OSError as error:
        why = describe_os_error(error)
    except pickle.UnpicklingError:
        why = "it holds more than tensors and plain values"
    except Exception as error:  # torch and zipfile raise many types on a damaged file
        why = f"it is damaged: {first_line(error)}"
    raise LabError(f"cannot read {what} {path} ({why}): {remedy}")


def _first_damaged(path: Path) -> str | None:
    with path.open("rb") as start:
        if start.read(len(_ZIP)) != _ZIP:
            return None
    with zipfile.ZipFile(path) as file:
        return file.testzip()
