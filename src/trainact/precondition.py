r"""The identity on the weight whose backward applies a factor.

The layer sees ``weight -> precondition(weight, factor)`` and keeps its own forward and
backward. The forward value is the weight; the gradient that comes back is multiplied by
:math:`(X^\top X / b + \lambda I)^{-1}` (Eq. 12, Fig. 2).

Two ways to write that down, equal in exact arithmetic:

1. An autograd function. One multiplication with the inverse, in the backward only. Used
   in eager mode.
2. A zero in the forward, :math:`W + Z P^\top` with :math:`Z = W - W`, the gradient
   stopped in both W but the first of Z: autograd makes G P of it. Z is zero, so nothing
   overflows, and what is not finite in it (0 times a P of NaN, where the input holds
   one) is set to zero: the value is W. One more multiplication, in the forward. Used
   under `torch.compile` and `torch.func`, where a function's backward may be dropped
   without a word (pytorch/pytorch#193279, seen on torch 2.8 and 2.13) or has no
   batching rule; and in forward-mode differentiation, where a tangent T of W becomes
   T P, so that ``jvp`` and ``vjp`` stay adjoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainact.factor import Factor, apply_factor
from trainact.precision import full_precision
from trainact.span import Span, apply_in_span
from trainact.torch_internals import in_forward_mode, in_transform, same_view


class _Precondition(torch.autograd.Function):
    """Identity forward, `apply_factor` backward; linear, so it differentiates twice."""

    # Without a setup_context, which transforms would need, as they do not come here:
    # with one, PyTorch inspects the signature in every call (40 microseconds).
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, span: Span | None, *factor: Tensor | None
    ) -> Tensor:
        ctx.span = span
        ctx.save_for_backward(*factor)
        return same_view(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        with full_precision(grad):
            result = apply_in_span(grad, Factor(*ctx.saved_tensors), ctx.span)
            return result, None, None, None, None


def precondition(weight: Tensor, factor: Factor, span: Span | None = None) -> Tensor:
    """Pass the weight on; its gradient will be preconditioned.

    Args:
        weight: ``[O, ...]`` with P entries a row; its rows are split over the factor's
            groups.
        factor: of the input that this call of the layer sees.
        span: of that input's rows; None where gradients need not be in it.

    Returns:
        The weight: same values, same dtype.
    """
    if may_be_transformed():
        in_span = span is not None and not span.is_left_in_forward
        return _add_zero(weight, factor.in_span() if in_span else factor)
    return _Precondition.apply(weight, span, *factor)  # pyright: ignore[reportReturnType]


def may_be_transformed() -> bool:
    """Whether a `torch.func` transform is running, or may be: compiled code can't tell.

    Returns:
        True under `torch.compile`, inside a transform and in forward-mode
        differentiation.
    """
    return torch.compiler.is_compiling() or in_transform() or in_forward_mode()


def _add_zero(weight: Tensor, factor: Factor) -> Tensor:
    value = weight.detach()
    with full_precision(weight):
        zero = apply_factor(weight - value, *factor.transposed())
    return value + zero.nan_to_num(0.0, 0.0, 0.0)
