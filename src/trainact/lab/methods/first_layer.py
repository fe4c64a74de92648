"""What the methods that change the first layer share: finding it, and changing it.

A layer is changed by a change of its class, in place, as TrAct does it: the Parameters,
the hooks, the names in the state dict and the references that others hold all stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

import trainact
from trainact.api import resolve_layer
from trainact.find.by_structure import LAYERS
from trainact.lab.methods.base import MethodSettings


def find_first_layer(
    model: nn.Module, settings: MethodSettings
) -> tuple[str, nn.Module]:
    """Find the one layer that a method changes.

    Args:
        model: any module.
        settings: name the layer, or an image that is followed to it.

    Returns:
        (qualified name, a plain Linear, Conv1d, Conv2d or Conv3d).

    Raises:
        ValueError: if it cannot be told, there are several, or it is of another type.
    """
    if settings.layer is not None:
        found = dict([resolve_layer(model, settings.layer)])
    else:
        found = trainact.first_layers(model, example_input=settings.example_input)
    if len(found) > 1:
        listed = ", ".join(map(repr, found))
        msg = f"the model has several first layers, {listed}: name one of them"
        raise ValueError(msg)
    name, layer = found.popitem()
    # A subclass, or a forward that was replaced, may compute anything.
    own = " with a forward of its own" if "forward" in vars(layer) else ""
    if own or type(layer) not in LAYERS:
        msg = (
            f"layer {name!r} is a {type(layer).__name__}{own}: this method changes "
            "plain Linear, Conv1d, Conv2d and Conv3d layers only"
        )
        raise ValueError(msg)
    return name, layer


def change_class(
    layer: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]
) -> None:
    """Make a plain layer one of a method's own classes, in place.

    Args:
        layer: to be changed.
        classes: for each of `LAYERS` a subclass without a constructor of its own.
    """
    changed: Any = layer
    changed.__class__ = classes[type(layer)]
