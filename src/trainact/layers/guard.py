"""One warning where a weight under TrAct is trained without TrAct.

A layer preconditions the gradients of its calls in training mode. If it was left in
eval mode, or if something else uses its weight, the weight gets the ordinary gradient.
That is noticed where it happens: when the gradient is added to ``weight.grad``.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from trainact.torch_internals import constant_in_graphs, post_accumulate_hooks


class Guard:
    """A hook on the parameters of which a layer's weight is made.

    What it knows of the layer is in ``layer.tract``, which replicas and copies share.
    """

    # Compiled code cannot say which layer was called, so it counts for all of them.
    is_any_compiled = False

    def __init__(self, layer: nn.Module) -> None:
        self._layer = weakref.ref(layer)

    def __call__(self, _: Tensor) -> None:
        """Warn if the gradient that was added to a parameter cannot be TrAct's."""
        layer: Any = self._layer()
        if layer is None:
            return
        if not layer.training:
            why = (
                "the layer is in eval mode, as from_pretrained leaves models: call "
                "model.train() before you train"
            )
        elif not (layer.tract.is_seen or Guard.is_any_compiled):
            why = (
                "the layer has not been called in training mode, so that something "
                "else uses its weight: take TrAct off it with trainact.remove"
            )
        else:
            return
        warn(layer, f"the weight of {layer!r} got the ordinary gradient; {why}")


def warn(layer: Any, message: str) -> None:
    """Warn once for each layer."""
    if torch.compiler.is_compiling():
        _warn_at_compilation(message)
    elif not layer.tract.is_warned:
        layer.tract.is_warned = True
        warnings.warn(f"trainact: {message}", stacklevel=3)


@constant_in_graphs
def _warn_at_compilation(message: str) -> bool:
    warnings.warn(f"trainact: {message}", stacklevel=3)
    return True


def note_call(layer: Any) -> None:
    """Note that a layer has seen its linear map in training mode."""
    if torch.compiler.is_compiling():
        _note_compiled_call()
    else:
        layer.tract.is_seen = True


@constant_in_graphs
def _note_compiled_call() -> bool:
    Guard.is_any_compiled = True
    return True


def watch(layer: Any) -> None:
    """Have a guard called whenever a gradient was added to a layer's weight."""
    for parameter in weight_parameters(layer):
        is_trained = isinstance(parameter, nn.Parameter) and parameter.requires_grad
        if is_trained and not _guards(parameter):
            parameter.register_post_accumulate_grad_hook(Guard(layer))


def unwatch(layer: nn.Module) -> None:
    """Undo `watch`."""
    for parameter in weight_parameters(layer):
        for key in _guards(parameter):
            del post_accumulate_hooks(parameter)[key]


def _guards(parameter: Tensor) -> list[int]:
    hooks = post_accumulate_hooks(parameter)
    return [key for key, hook in hooks.items() if isinstance(hook, Guard)]


def weight_parameters(layer: nn.Module) -> list[Tensor]:
    """Parameters of which a layer's weight is made, or what `torch.func` put there."""
    named: Any = layer.named_parameters()
    return [tensor for name, tensor in named if is_of_weight(name)]


def is_of_weight(name: str) -> bool:
    """Whether it is ``weight``, ``weight_orig``, ``parametrizations.weight.0`` ..."""
    return name.startswith(("weight", "parametrizations.weight"))
