"""The layers that train their pre-activations."""

from trainact.layers.plain import (
    TrActConv1d,
    TrActConv2d,
    TrActConv3d,
    TrActLayer,
    TrActLinear,
)

__all__ = ["TrActConv1d", "TrActConv2d", "TrActConv3d", "TrActLayer", "TrActLinear"]
