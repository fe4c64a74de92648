"""Ordinary training, the baseline: the model stays as it is."""

from __future__ import annotations

from torch import nn

from trainact.lab.methods.base import Method, MethodSettings


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    del settings  # nothing to do
    return model


VANILLA = Method(
    name="vanilla",
    uses_lam=False,
    convert=_convert,
    summary="the model as it is, the baseline",
)
