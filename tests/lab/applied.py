"""Methods applied to models as a run applies them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainact.lab.methods import METHODS, MethodSettings


def settings_for(x: Tensor, layer: str | None = None) -> MethodSettings:
    return MethodSettings(
        lam=None, layer=layer, example_input=x[:1], images=lambda k: x[:k]
    )


def apply(method: str, model: nn.Module, x: Tensor, layer: str | None = None) -> Any:
    converted = METHODS[method].convert(model, settings_for(x, layer))
    assert converted is model, "changed in place"
    return model
