r"""The identity on the weight whose backward applies a factor.

The layer sees ``weight -> precondition(weight, factor)`` and keeps its own forward and
backward. The forward value is the weight; the gradient that comes back is multiplied by
:math:`(X^\top X / b + \lambda I)^{-1}` (Eq. 12, Fig. 2).

It has three forms, equal in exact arithmetic:

1. *Now*: an autograd function that keeps the factor. One multiplication with the
   inverse, in the backward only. Used in eager mode.
2. *Later*: the same function, which makes the factor when the gradient comes back. Used
   for statistics that other ranks add to, or that a layer keeps from call to call. So a
   forward that is never differentiated (one that only rank 0 runs, for a logger), and
   one that activation checkpointing runs a second time, exchange and count nothing.
3. *A zero in the forward*: :math:`W + Z P^\top` with :math:`Z = W - W`, the gradient
   stopped in both W but the first of Z: autograd makes G P of it. Z is zero, so nothing
   overflows, and what is not finite in it (0 times a P of NaN, where the input holds
   one) is set to zero: the value is W. One more multiplication, in the forward. Used
   under `torch.compile` and `torch.func`, where a function's backward may be dropped
   silently (pytorch/pytorch#193279, seen on torch 2.8 and 2.13) or has no batching
   rule; and in forward-mode differentiation, where a tangent T of W becomes T P, so
   that ``jvp`` and ``vjp`` stay adjoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainact.factor import Factor, apply_factor
from trainact.precision import full_precision
from trainact.span import Span, apply_in_span
from trainact.torch_internals import in_forward_mode, in_transform, same_view

# A layer's input -> the factor of this call; the input is None where it is not needed.
MakeFactor = Callable[[Any], Factor]


class _Precondition(torch.autograd.Function):
    """Identity forward, `apply_factor` backward; linear, so it differentiates twice."""

    # Without a setup_context, which transforms would need, as they do not come here:
    # with one, PyTorch inspects the signature in every call (40 microseconds).
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        make: Callable[..., Factor],
        span: Span | None,
        *kept: Tensor | None,
    ) -> Tensor:
        ctx.make, ctx.span = make, span
        ctx.save_for_backward(*kept)
        return same_view(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), kept = grad_outputs, ctx.saved_tensors
        with full_precision(grad):
            result = apply_in_span(grad, ctx.make(*kept), ctx.span)
            return result, *(None for _ in range(2 + len(kept)))


def precondition(weight: Tensor, factor: Factor, span: Span | None = None) -> Tensor:
    """The weight; its gradient will be multiplied by the factor.

    The rows of the weight, P entries each, are split over the factor's groups. Without
    a ``span`` gradients need not be combinations of the factor's rows.
    """
    if may_be_transformed():
        in_span = span is not None and not span.may_leave_in_forward
        return _add_zero(weight, factor.in_span() if in_span else factor)
    return _Precondition.apply(weight, Factor, span, *factor)  # pyright: ignore[reportReturnType]


def precondition_later(
    weight: Tensor, x: Tensor | None, make: MakeFactor, span: Span | None = None
) -> Tensor:
    """The weight; the factor for its gradient is made in the backward, by ``make(x)``.

    ``make`` is called once for all backward passes through this call. The input is kept
    for the backward as the layer itself keeps it, or is None if ``make`` does without.
    """
    made: list[Factor] = []

    def make_once(x: Tensor | None) -> Factor:
        if not made:
            with torch.no_grad():
                made.append(make(x))
        return made[0]

    kept = None if x is None else x.detach()
    return _Precondition.apply(weight, make_once, span, kept)  # pyright: ignore[reportReturnType]


def may_be_transformed() -> bool:
    """Whether `torch.func` or forward mode may run; compiled code cannot tell."""
    return torch.compiler.is_compiling() or in_transform() or in_forward_mode()


def _add_zero(weight: Tensor, factor: Factor) -> Tensor:
    value = weight.detach()
    with full_precision(weight):
        zero = apply_factor(weight - value, *factor.transposed())
    return value + zero.nan_to_num(0.0, 0.0, 0.0)
