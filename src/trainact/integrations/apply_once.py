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
    r"""Apply TrAct, unless that has been done with the same :math:`\lambda`.

    Args:
        model: what is trained.
        lam: :math:`\lambda`.
        layer: as for `trainact.apply`.
        example_input: as for `trainact.apply`.
        sync: as for `trainact.apply`.
        relative: as for `trainact.apply`.

    Raises:
        ValueError: if it has been done with another, which would silently stay.
    """
    there = tract_layers(model)
    for name, module in there.items():
        theirs, ours = module.tract.damping, Damping(lam, relative)
        if theirs != ours:
            msg = (
                f"layer {name!r} is under TrAct already, with {theirs}, and "
                f"TrActCallback has {ours}: give both the same"
            )
            raise ValueError(msg)
    if not there:
        trainact.apply(model, lam, layer, example_input, sync, relative=relative)
