"""TrAct on the first layer, which is named or found by following an image."""

from __future__ import annotations

from typing import Any

from torch import nn

import trainact
from trainact.lab.methods.base import Method, MethodSettings

DEFAULT_LAM = 0.1


def lam_of(settings: MethodSettings) -> float:
    """Say which λ a method is to have.

    Args:
        settings: with λ, or None for the paper's default.

    Returns:
        It.
    """
    return DEFAULT_LAM if settings.lam is None else settings.lam


def convert(model: nn.Module, settings: MethodSettings, **options: Any) -> nn.Module:
    """Put TrAct on a model.

    Args:
        model: any module.
        settings: with λ, and how the first layer is found.
        **options: further ones of `trainact.apply`.

    Returns:
        The same model.
    """
    return trainact.apply(
        model,
        lam=lam_of(settings),
        layer=settings.layer,
        example_input=settings.example_input,
        sync=settings.sync,
        **options,
    )


TRACT = Method(
    name="tract",
    uses_lam=True,
    convert=convert,
    summary="TrAct on the first layer, one optimizer for all layers",
)
