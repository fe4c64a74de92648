r"""The identity on the weight whose backward applies a factor.

The layer sees ``weight -> precondition(weight, factor)`` and keeps its own forward and
backward. The forward value is the weight; the gradient that comes back is multiplied by
:math:`(X^\top X / b + \lambda I)^{-1}` (Eq. 12, Fig. 2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainact.factor import Factor, apply_factor


class _Precondition(torch.autograd.Function):
    """Identity forward, `apply_factor` backward; linear, so it differentiates twice."""

    @staticmethod
    def forward(weight: Tensor, *factor: Tensor | None) -> Tensor:  # noqa: ARG004
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        with torch.autocast(grad.device.type, enabled=False):
            return apply_factor(grad, *ctx.saved_tensors), None, None, None


def precondition(weight: Tensor, factor: Factor) -> Tensor:
    """Pass the weight on; its gradient will be preconditioned.

    Args:
        weight: ``[O, ...]`` with P entries a row; its rows are split over the factor's
            groups.
        factor: of the input that this call of the layer sees.

    Returns:
        The weight: same values, same dtype, a view.
    """
    return _Precondition.apply(weight, *factor)  # pyright: ignore[reportReturnType]
