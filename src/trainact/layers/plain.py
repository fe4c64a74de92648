"""Linear and convolution layers that train their pre-activations.

A layer becomes one of these by a change of its class, in place: the Parameters, the
buffers, the hooks, the state dict's keys and the references that others hold all stay.
The forward and backward pass are the parent's; only the weight on its way into them is
marked for preconditioning, and only where a weight gradient will be computed.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.proxy import Proxy, TraceError
from torch.nn import functional as F

from trainact.damping import Damping
from trainact.geometry import Geometry, layer_geometry
from trainact.layers.guard import note_call, watch
from trainact.layers.state import Setting, State, restored, saved
from trainact.precondition import may_be_transformed


class TrActLayer(nn.Module):
    """What all layers trained by TrAct share.

    Attributes:
        tract: what TrAct keeps of the layer; its settings are attributes of both.
    """

    tract: State
    lam = Setting()
    relative = Setting()
    sync = Setting()
    estimate = Setting()
    overlap = Setting()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds."""
        state: Any = super().__getstate__()
        is_ours = isinstance(state, dict) and "tract" in state
        return saved(state) if is_ours else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, whose parameters have lost their hooks."""
        super().__setstate__(restored(state))
        watch(self)

    def __copy__(self) -> Any:
        """A shallow copy is the same layer: it shares the state."""
        own = getattr(super(), "__copy__", None)
        if own is not None:
            return own()
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    @property
    def damping(self) -> Damping:
        """``lam`` and ``relative`` in one."""
        return self.tract.damping

    def extra_repr(self) -> str:
        """The parent's description and λ, as `repr` shows them in the brackets."""
        state = self.tract
        sync = "" if state.group is None else f", sync={state.group!r}"
        estimate = "" if state.estimate is None else f", estimate={state.estimate!r}"
        return f"{super().extra_repr()}, {state.damping}{sync}{estimate}"

    def _is_training(self) -> bool:
        """Whether gradients of this call are TrAct's: in training mode, with grad."""
        if not torch.is_grad_enabled():
            return False
        if not self.training and not torch.compiler.is_compiling():
            watch(self)  # the parameters may have been replaced since the conversion
        return self.training

    def _trains(self, weight: Tensor, x: Tensor) -> bool:
        """Whether this call will produce a weight gradient to precondition."""
        if not self._is_training():
            return False
        refuse_proxy(x)
        # A weight that torch.func has put in place of the Parameter does not say
        # whether it will get a gradient.
        in_doubt = not isinstance(weight, nn.Parameter) and may_be_transformed()
        if not (weight.requires_grad or in_doubt):
            return False
        note_call(self)
        check_trainable(x)
        return x.is_floating_point() and not x.is_meta

    def _preconditioned(self, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        """The weight, with its gradient to be preconditioned for this input."""
        return self.tract.precondition(weight, x, geometry)


class TrActLinear(TrActLayer, nn.Linear):
    r"""`torch.nn.Linear` whose weight gradient is preconditioned.

    :math:`G (X^\top X / b + \lambda I)^{-1}`, with the input's vectors as the b rows of
    X. With fewer rows than ``in_features`` a b x b system is solved instead.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: ``[..., in_features]``.

        Returns:
            ``[..., out_features]``, as `torch.nn.Linear` computes it.
        """
        weight = self.weight
        if self._trains(weight, input):
            geometry = Geometry(weight.shape[-1])
            weight = self._preconditioned(weight, input, geometry)
        return F.linear(input, weight, self.bias)


class _TrActConv(TrActLayer):
    """The part that is common to all numbers of spatial dimensions."""

    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        if self._trains(weight, input):
            weight = self._preconditioned(weight, input, layer_geometry(self))
        return super()._conv_forward(input, weight, bias)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


class TrActConv1d(_TrActConv, nn.Conv1d):
    r"""`torch.nn.Conv1d` whose weight gradient is preconditioned (per group)."""


class TrActConv2d(_TrActConv, nn.Conv2d):
    r"""`torch.nn.Conv2d` whose weight gradient is preconditioned (per group)."""


class TrActConv3d(_TrActConv, nn.Conv3d):
    r"""`torch.nn.Conv3d` whose weight gradient is preconditioned (per group)."""


def refuse_proxy(x: Any) -> None:
    """Refuse to be written into a graph that would train without TrAct."""
    if isinstance(x, Proxy):
        msg = (
            "torch.fx cannot trace a layer under TrAct in training mode: trace first, "
            "then apply trainact to the traced model, or make trainact.TrActLayer a "
            "leaf of the tracer"
        )
        raise TraceError(msg)


def check_trainable(x: Tensor) -> None:
    """Refuse inputs of which TrAct makes no statistics."""
    if torch.compiler.is_exporting():
        msg = (
            "a layer under TrAct is exported in training mode: call model.eval() "
            "first, or trainact.remove on a copy if the exported program is to train"
        )
        raise RuntimeError(msg)
    if x.is_complex():
        msg = (
            f"the input of a layer under TrAct is complex ({x.dtype}): TrAct needs "
            "real numbers, take it off with trainact.remove"
        )
        raise RuntimeError(msg)
    if x.layout is not torch.strided and not x.is_nested:
        msg = (
            f"the input of a layer under TrAct is sparse ({x.layout}): pass "
            "input.to_dense(), or take TrAct off with trainact.remove"
        )
        raise RuntimeError(msg)


def making_plain(plain: type[nn.Module]) -> Any:
    """The ``__init__`` of a class under TrAct: calling the class gives a plain layer.

    Libraries make more layers by ``type(layer)(...)``, as LoRA makes its adapters. Only
    `trainact.TrAct` and `trainact.apply` put TrAct on a layer.
    """

    @wraps(plain.__init__)
    def initialise(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        plain.__init__(self, *args, **kwargs)
        if made_of(type(self)) is plain:
            self.__class__ = plain
        else:  # a class that a user has derived
            vars(self)["tract"] = State()
            watch(self)

    return initialise


TRACT_CLASSES: dict[type[nn.Module], type[TrActLayer]] = {
    nn.Linear: TrActLinear,
    nn.Conv1d: TrActConv1d,
    nn.Conv2d: TrActConv2d,
    nn.Conv3d: TrActConv3d,
}
# The attribute by which a class under TrAct names the class that it adds TrAct to.
MADE_OF = "_tract_made_of"
for _plain, _tract in TRACT_CLASSES.items():
    _tract.__init__ = making_plain(_plain)
    setattr(_tract, MADE_OF, _plain)


def made_of(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class to which a class under TrAct adds TrAct; None for other classes."""
    return vars(kind).get(MADE_OF)


SETTINGS = tuple(k for k, v in vars(TrActLayer).items() if isinstance(v, Setting))
