"""TrAct on the first layer, which is named or found by following an image."""

from __future__ import annotations

from torch import nn

import trainact
from trainact.lab.methods.base import Method, MethodSettings

DEFAULT_LAM = 0.1


def convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    """Put TrAct on a model.

    Args:
        model: any module.
        settings: with λ, or None for the paper's default.

    Returns:
        The same model.
    """
    lam = DEFAULT_LAM if settings.lam is None else settings.lam
    if settings.layer is not None:
        return trainact.apply(model, lam=lam, layer=settings.layer, sync=settings.sync)
    return trainact.apply(
        model, lam=lam, example_input=settings.example_input, sync=settings.sync
    )


TRACT = Method(
    name="tract",
    uses_lam=True,
    convert=convert,
    summary="TrAct on the first layer, one optimizer for all layers",
)
