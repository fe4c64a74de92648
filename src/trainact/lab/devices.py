"""The device that a user names."""

from __future__ import annotations

import torch

from trainact.lab.errors import LabError
from trainact.lab.ranks import this_process


def resolve_device(name: str, precision: str = "32") -> torch.device:
    """Find the device that a name means on this machine.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        precision: to be used on it.

    Returns:
        The device.

    Raises:
        LabError: if the machine has no such device, or it cannot do the precision.
    """
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    ranks = this_process()
    if ranks.size > 1 and name in ("auto", "cuda") and available["cuda"]:
        name = f"cuda:{ranks.local_rank}"
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    device = _parse_device(name)
    if device.type not in available or (device.index or 0) >= available[device.type]:
        found = ", ".join(f"{count} {kind}" for kind, count in available.items())
        raise LabError(
            f"--device {name}: not on this machine (found {found}); use --device auto"
        )
    if device.type == "cpu" and precision == "16-mixed":
        raise LabError(
            "--precision 16-mixed needs a GPU: on a CPU use 32 or bf16-mixed"
        )
    return device


def _parse_device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise LabError(
            f"--device {name!r} is not a device: give auto, cpu, cuda, cuda:1 or mps"
        ) from error
