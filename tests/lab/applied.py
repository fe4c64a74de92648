"""Methods applied to models as a run applies them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from trainact.lab.methods import METHODS, Method, MethodSettings


def settings_for(x: Tensor, layer: str | None = None) -> MethodSettings:
    return MethodSettings(
        lam=None, layer=layer, example_input=x[:1], images=lambda k: x[:k]
    )


def apply(method: str, model: nn.Module, x: Tensor, layer: str | None = None) -> Any:
    converted = METHODS[method].convert(model, settings_for(x, layer))
    assert converted is model, "changed in place"
    return model


def _local(model: nn.Module, settings: MethodSettings) -> nn.Module:
    return METHODS["tract"].convert(model, replace(settings, sync=False))


# Every process has statistics of its own, which is wrong.
LOCAL = Method("local", uses_lam=True, convert=_local)
