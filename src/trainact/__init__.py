"""Train the first layer's pre-activations, not its weights.

TrAct (Petersen, Borgelt, Ermon, NeurIPS 2024) for PyTorch: one line, the same model,
fewer epochs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from trainact import _former_names as _former_names  # pickles need it
from trainact._version import __version__

if TYPE_CHECKING:
    from trainact import diagnostics, functional, kernels
    from trainact import integrations as integrations
    from trainact import jax as jax
    from trainact import layers as layers
    from trainact import reference as reference
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

# Imported when it is first used, so that `trainact.jax` and the command need no torch.
_MODULES = {
    "trainact.accumulation": ("deferred",),
    "trainact.api": ("TrAct", "apply", "remove", "split_parameters", "tract_layers"),
    "trainact.damping": ("DampingWarning",),
    "trainact.find.first_layers": ("first_layers",),
    "trainact.layers": (
        "TrActConv1d",
        "TrActConv2d",
        "TrActConv3d",
        "TrActLayer",
        "TrActLinear",
    ),
    "trainact.statistics.estimated": ("Estimate",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = (
    "diagnostics",
    "functional",
    "integrations",
    "jax",
    "kernels",
    "layers",
    "reference",
)

if not TYPE_CHECKING:  # type checkers would take every name for one

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return import_module(f"trainact.{name}")
        if name not in _MODULE_OF:
            msg = f"module 'trainact' has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=import_module(__name__))
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
