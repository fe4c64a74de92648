"""Apply TrAct for a callback, whose model may be under TrAct already."""

from __future__ import annotations

from typing import Any

from torch import nn

import trainact
from trainact.api import LayerChoice, tract_layers
from trainact.damping import Damping


def apply_once(
    model: nn.Module,
    lam: float,
    layer: LayerChoice | None,
    example_input: Any,
    sync: Any,
    relative: bool,
) -> None:
    """`trainact.apply`, unless that has been done with the same λ.

    Another λ would silently stay, so that raises a ValueError.
    """
    layers, ours = tract_layers(model), Damping(lam, relative)
    for name, module in layers.items():
        theirs = module.tract.damping
        if theirs != ours:
            msg = (
                f"layer {name!r} is under TrAct already, with {theirs}, and "
                f"TrActCallback has {ours}: give both the same"
            )
            raise ValueError(msg)
    if not layers:
        trainact.apply(model, lam, layer, example_input, sync, relative=relative)
