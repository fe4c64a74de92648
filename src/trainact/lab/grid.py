"""From options to the list of runs, with every value checked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import TypeVar

import torch

from trainact.lab.config import RunConfig
from trainact.lab.defaults import default_batch_size, default_lr
from trainact.lab.environment import hide_home
from trainact.lab.errors import LabError
from trainact.lab.methods import find_method
from trainact.lab.models import resolve_model
from trainact.lab.options import CompareOptions

_Value = TypeVar("_Value")
_MAX_SEED = 2**32 - 1


def build_grid(options: CompareOptions) -> list[RunConfig]:
    """List the runs: models, in each the seeds, in each the methods side by side.

    So an interrupted comparison holds whole seeds, and methods share the machine's
    good and bad moments.

    Args:
        options: what the user asked for.

    Returns:
        One configuration per run, without duplicates.
    """
    check_numbers(options)
    device = resolve_device(options.device, options.precision).type
    models = [resolve_model(name) for name in _some("--model", options.model)]
    grid = [
        RunConfig(
            data=hide_home(options.data),
            model=model,
            method=method,
            lam=lam,
            optimizer=options.optimizer,
            lr=options.lr or default_lr(options.optimizer, model),
            epochs=options.epochs,
            batch_size=options.batch_size or default_batch_size(options.data),
            schedule=options.schedule,
            seed=seed,
            limit=options.limit,
            image_size=options.image_size,
            layer=options.layer,
            device=device,
            precision=options.precision,
        )
        for model, seed, (method, lam) in product(
            models, _some("--seeds", options.seeds), _arms(options)
        )
    ]
    return list(dict.fromkeys(grid))


def _arms(options: CompareOptions) -> list[tuple[str, float | None]]:
    arms: list[tuple[str, float | None]] = []
    for name in _some("--methods", options.methods):
        method = find_method(name)
        lams = _some("--lam", options.lam) if method.uses_lam else (None,)
        arms += [(method.name, lam) for lam in lams]
    return arms


def _some(option: str, values: Iterable[_Value]) -> tuple[_Value, ...]:
    given = tuple(values)
    if not given:
        raise LabError(f"{option} was given without a value: give at least one")
    return given


def check_numbers(options: CompareOptions) -> None:
    """Refuse numbers that make no sense.

    Args:
        options: what the user asked for.

    Raises:
        LabError: if one is not a finite number above 0, or a seed out of range.
    """
    _check_positive("--epochs", options.epochs)
    _check_positive("--batch-size", options.batch_size)
    _check_positive("--limit", options.limit)
    _check_positive("--image-size", options.image_size)
    _check_positive("--lr", options.lr)
    for lam in options.lam:
        _check_positive("--lam", lam)
    for seed in options.seeds:
        if not 0 <= seed <= _MAX_SEED:
            raise LabError(f"--seeds {seed}: a seed lies between 0 and {_MAX_SEED}")


def _check_positive(option: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise LabError(f"{option} {value}: give a finite number above 0")


def resolve_device(name: str, precision: str) -> torch.device:
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
