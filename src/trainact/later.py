"""The identity on the weight whose factor is asked for in the backward, not before.

Statistics that other ranks add to, that are made on a stream of their own, or that a
layer keeps from call to call, must be started once for each call. Activation
checkpointing runs a forward twice: here the second pass finds what the first one
started.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from trainact.factor import Factor
from trainact.precision import full_precision
from trainact.sharded import apply_to_gradient
from trainact.torch_internals import backward_task


class Pending:
    """The statistics of one call while they are under way, and then its factor.

    Args:
        finish: waits for what is under way and factorises.
        token: saved for the backward like any other tensor, and held by nobody else.
    """

    def __init__(self, finish: Callable[[], Factor], token: Tensor) -> None:
        self.used = False
        self._finish: Callable[[], Factor] | None = finish
        self._factor: Factor | None = None
        self._token = TensorWeakRef(token)

    @property
    def recomputable(self) -> bool:
        """Whether checkpointing has dropped what the call saved, to make it again."""
        return self._token() is None

    def factor(self) -> Factor:
        """Finish the statistics and factorise, once.

        Returns:
            The factor of all rows that count.
        """
        self.used = True
        if self._finish is not None:
            self._factor, self._finish = self._finish(), None
        return cast("Factor", self._factor)


class _PreconditionLater(torch.autograd.Function):
    """Identity forward; the backward finishes the statistics."""

    # Without a setup_context, as in `trainact.precondition`: transforms are refused.
    @staticmethod
    def forward(ctx: Any, weight: Tensor, token: Tensor, pending: Pending) -> Tensor:
        ctx.pending = pending
        ctx.save_for_backward(token)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        with full_precision(grad):
            with torch.no_grad():
                factor = ctx.pending.factor()
            return apply_to_gradient(grad, factor), None, None


def precondition_later(
    weight: Tensor,
    x: Tensor,
    owner: nn.Module,
    start: Callable[[], Callable[[], Factor]],
) -> Tensor:
    """Pass the weight on; the factor for its gradient is asked for in the backward.

    Args:
        weight: of the layer.
        x: the layer's input.
        owner: the layer, by which a recomputed forward finds its first pass.
        start: begins the statistics, once for both passes of activation checkpointing,
            and returns what finishes them.

    Returns:
        The weight.
    """
    token = x.new_empty(0)
    pending = _first_pass(owner)
    if pending is None:
        pending = Pending(start(), token)
        _remember(owner, pending)
    return _PreconditionLater.apply(weight, token, pending)  # pyright: ignore[reportReturnType]


_first_passes: weakref.WeakKeyDictionary[nn.Module, list[weakref.ref[Pending]]]
_first_passes = weakref.WeakKeyDictionary()


def _remember(owner: nn.Module, pending: Pending) -> None:
    alive = [ref for ref in _first_passes.get(owner, []) if ref() is not None]
    _first_passes[owner] = [*alive, weakref.ref(pending)]


def _first_pass(owner: nn.Module) -> Pending | None:
    """The statistics of the pass that this one recomputes, if it recomputes one."""
    # Activation checkpointing runs the forward again inside the backward. The
    # non-reentrant kind keeps the first pass's nodes, which hold the statistics that
    # count, without the tensors saved for them; what the second pass makes is dropped,
    # and a second collective would be one too many. The reentrant kind ran its first
    # pass without gradients: nothing is found.
    if backward_task() == -1:
        return None
    for ref in _first_passes.get(owner, []):
        pending = ref()
        if pending is not None and pending.recomputable and not pending.used:
            return pending
    return None
