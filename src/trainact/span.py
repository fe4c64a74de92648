r"""Whether a weight's gradient may leave the span of the rows that its layer saw.

The ordinary gradient :math:`G = \nabla_z^\top X` is a combination of the rows. With
fewer rows than entries it has nothing outside their span but its rounding, which
:math:`(A + \lambda I)^{-1}` would multiply by 1 / λ. A bfloat16 gradient is rounded to
0.2 %, and the directions inside the span are divided by 1,000 λ, say: then nothing but
noise would be left. So what lies outside is dropped.

Only one thing gives the gradient true parts outside: differentiating through the input
and then differentiating the result (gradient penalties, double backpropagation). Then
everything is kept and multiplied as the formula says.

G itself does not tell which of the two it is. A part outside may be smaller than the
rounding of another gradient, whose size depends on the dtype, on TF32, on the device's
algorithms and on what cancels in the sum over rows. What autograd does tells:

1. In eager mode a hook on the input notes a backward that records a graph for another
   one (``create_graph=True``). Backwards after that one may leave the span.
2. Inside `torch.func` two nested derivatives are needed, of which one concerns the
   input. Plain autograd around the transforms counts as one.
3. Compiled code cannot be differentiated twice from outside; AOTAutograd refuses that.
   Which transforms inside it concern the input cannot be told, so nothing is dropped
   there, and 1 / λ multiplies the rounding.

The first backward that records a graph has an ordinary gradient, whose derivative need
not lie in the span: its value is taken inside, its derivative is the whole operator's.
"""

from __future__ import annotations

import weakref
from functools import partial

import torch
from torch import Tensor

from trainact.factor import Factor
from trainact.sharding import apply_to_gradient
from trainact.torch_internals import (
    backward_task,
    graphs_differentiate,
    in_forward_mode,
    in_transform,
    num_derivatives,
    outside_transforms,
)


class Span:
    """Whether the gradient of one call may leave the span of the call's rows."""

    def __init__(self, weight: Tensor, x: Tensor) -> None:
        # Known in the forward, for forms that cannot decide in the backward.
        self.may_leave_in_forward = _is_differentiated_twice(weight, x)
        self.has_gradient = False
        self.first_recorded: int | None = None
        if not (torch.compiler.is_compiling() or in_transform()) and x.requires_grad:
            self.has_gradient = True
            # An input that the user keeps is neither to keep this nor to collect hooks.
            hook = partial(_note, weakref.ref(self))
            weakref.finalize(self, x.register_hook(hook).remove)

    def may_leave(self) -> bool:
        """Whether an earlier backward has recorded a graph through the input."""
        return self.first_recorded not in (None, backward_task())


def apply_in_span(grad: Tensor, factor: Factor, span: Span | None) -> Tensor:
    r"""Multiply a gradient by :math:`(A + \lambda I)^{-1}`, in a backward.

    Without a ``span`` the gradient need not be a combination of the factor's rows.
    """
    if span is None or factor.outer is None or span.may_leave():
        return apply_to_gradient(grad, factor)
    inside = apply_to_gradient(grad, factor.in_span())
    if span.has_gradient and torch.is_grad_enabled():
        whole = apply_to_gradient(grad, factor)
        return inside.detach() + (whole - whole.detach())
    return inside


def _note(reference: weakref.ref[Span], grad: Tensor) -> None:
    """Remember the first backward through the input that records a graph."""
    del grad
    span = reference()
    if span is not None and span.first_recorded is None and torch.is_grad_enabled():
        span.first_recorded = backward_task()


def _is_differentiated_twice(weight: Tensor, x: Tensor) -> bool:
    depth = num_derivatives()
    if torch.compiler.is_compiling():
        return depth > 0 or (x.requires_grad and graphs_differentiate())
    if depth == 0:
        return in_forward_mode()  # a tangent need not lie anywhere
    by_autograd = [outside_transforms(t).requires_grad for t in (weight, x)]
    is_tracked = x.requires_grad or by_autograd[1]
    return is_tracked and depth + any(by_autograd) > 1
