"""Train the first layer's pre-activations, not its weights.

TrAct (Petersen, Borgelt, Ermon, NeurIPS 2024) for PyTorch: one line, the same model,
fewer epochs.
"""

from trainact import diagnostics, functional, kernels
from trainact._version import __version__
from trainact.damping import DampingWarning
from trainact.deferred import deferred
from trainact.estimate import Estimate
from trainact.layers import (
    TrActConv1d,
    TrActConv2d,
    TrActConv3d,
    TrActLayer,
    TrActLinear,
)
from trainact.stem import first_layers
from trainact.wrap import TrAct, apply, remove, split_parameters, tract_layers

__all__ = [
    "DampingWarning",
    "Estimate",
    "TrAct",
    "TrActConv1d",
    "TrActConv2d",
    "TrActConv3d",
    "TrActLayer",
    "TrActLinear",
    "__version__",
    "apply",
    "deferred",
    "diagnostics",
    "first_layers",
    "functional",
    "kernels",
    "remove",
    "split_parameters",
    "tract_layers",
]
