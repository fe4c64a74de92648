"""The identity on the weight whose factor is made in the backward, not before.

Statistics that other ranks add to, or that a layer keeps from call to call, are made
when the call's gradient comes back. So a forward that is never differentiated (one that
only rank 0 runs, for a logger), and one that activation checkpointing runs a second
time, exchange and count nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainact.factor import Factor
from trainact.precision import full_precision
from trainact.span import Span, apply_in_span
from trainact.torch_internals import same_view

# A layer's input -> the factor of this call; the input is None where it is not needed.
MakeFactor = Callable[[Any], Factor]


class _PreconditionLater(torch.autograd.Function):
    """Identity forward; the backward makes the factor and applies it."""

    # Without a setup_context, as in `trainact.precondition`: transforms are refused.
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        x: Tensor | None,
        make: MakeFactor,
        span: Span | None,
    ) -> Tensor:
        ctx.make = make
        ctx.span = span
        ctx.factor = None
        ctx.save_for_backward(x)
        return same_view(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grad_outputs
        with full_precision(grad):
            if ctx.factor is None:  # one for all backward passes through this call
                with torch.no_grad():
                    ctx.factor = ctx.make(*ctx.saved_tensors)
            return apply_in_span(grad, ctx.factor, ctx.span), None, None, None


def precondition_later(
    weight: Tensor, x: Tensor | None, make: MakeFactor, span: Span | None = None
) -> Tensor:
    """Pass the weight on; the factor for its gradient is made in the backward.

    Args:
        weight: of the layer.
        x: the layer's input, kept for the backward as the layer itself keeps it; None
            if ``make`` does without.
        make: given ``x``, returns the factor.
        span: of the input's rows; None where gradients need not be in it.

    Returns:
        The weight.
    """
    saved = None if x is None else x.detach()
    return _PreconditionLater.apply(weight, saved, make, span)  # pyright: ignore[reportReturnType]
