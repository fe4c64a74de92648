"""Train the first layer's pre-activations, not its weights.

TrAct (Petersen, Borgelt, Ermon, NeurIPS 2024) for PyTorch: one line, the same model,
fewer epochs.
"""

from trainact import _former_names, diagnostics, functional, kernels
from trainact._version import __version__
from trainact.accumulation import deferred
from trainact.api import TrAct, apply, remove, split_parameters, tract_layers
from trainact.damping import DampingWarning
from trainact.find.first_layers import first_layers
from trainact.layers.plain import (
    TrActConv1d,
    TrActConv2d,
    TrActConv3d,
    TrActLayer,
    TrActLinear,
)
from trainact.statistics.estimated import Estimate

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
    "_former_names",
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
