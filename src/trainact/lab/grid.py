"""From options to the list of runs, with every value checked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TypeVar

from trainact.lab.config import RunConfig
from trainact.lab.defaults import default_batch_size, default_lr
from trainact.lab.devices import resolve_device
from trainact.lab.environment import hide_home
from trainact.lab.errors import LabError, check_positive, check_seed
from trainact.lab.methods import find_method
from trainact.lab.models import resolve_model
from trainact.lab.options import CompareOptions

_Value = TypeVar("_Value")


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
    """
    check_positive("--epochs", options.epochs)
    check_positive("--batch-size", options.batch_size)
    check_positive("--limit", options.limit)
    check_positive("--image-size", options.image_size)
    check_positive("--lr", options.lr)
    for lam in options.lam:
        check_positive("--lam", lam)
    for seed in options.seeds:
        check_seed("--seeds", seed)
