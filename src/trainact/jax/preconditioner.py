r"""The identity on the kernel whose backward applies a factor.

The layer sees ``w -> mark(w)`` and is an ordinary XLA convolution or product. The value
is w; the cotangent that comes back is multiplied by
:math:`(X^\top X / b + \lambda I)^{-1}` (Eq. 12, Fig. 2). Where no gradient with respect
to w is asked for, no statistics are computed, with or without jit. Those over named
axes are computed where the layer is called, and there jit drops them.

Legend: G groups, O outputs of one group, P entries of a row.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from trainact.damping import Damping
from trainact.jax.checks import check_floating
from trainact.jax.factor import Factor, apply_factor
from trainact.jax.layouts import InputLayout
from trainact.jax.precision import float64_allowed
from trainact.jax.sharding import split_freely
from trainact.jax.statistics import AxisName, input_factor


class Call(NamedTuple):
    r"""The constants of one call of a layer.

    Attributes:
        axes: where the kernel has its outputs, its inputs, its spatial dimensions.
        layout: of the layer's input.
        damping: :math:`\lambda`; its number is None where that is an array.
    """

    axes: tuple[int, ...]
    layout: InputLayout
    damping: Damping


def mark(
    w: Array,
    x: Array,
    damping: Damping,
    axes: tuple[int, ...],
    layout: InputLayout,
    axis_name: AxisName,
) -> Array:
    r"""Pass a kernel on; its gradient will be preconditioned for this input.

    Args:
        w: the kernel.
        x: the layer's input.
        damping: :math:`\lambda`, checked.
        axes: where the kernel has its outputs, its inputs, its spatial dimensions.
        layout: of the input.
        axis_name: mapped axes whose rows belong together.

    Returns:
        The kernel, unchanged.

    Raises:
        ValueError: if a dtype is not real and floating.
    """
    w, x = check_floating("kernel", w), check_floating("x", x)
    if not (x.size and w.size and layout.has_rows(x)):
        return w
    # Slices, as a constant of NumPy that vmap maps is not one of JAX yet.
    leaves_span = _leaves_span(*(lax.slice_in_dim(a, 0, 0) for a in (w, x)))
    if axis_name is not None:
        # Not in the forward rule: JAX may trace that after the axis has lost its name.
        factor = input_factor(x, layout, damping, axis_name)
        return _mark_with(axes, _depend_on(w, factor), factor, leaves_span)
    number = damping.lam if isinstance(damping.lam, Array) else None
    if number is not None:
        damping = replace(damping, lam=None)
    x, number = lax.stop_gradient((x, number))
    w = _depend_on(w, (x, number))
    return _mark(Call(axes, layout, damping), w, x, number, leaves_span)


def mark_with(w: Array, factor: Factor, axes: tuple[int, ...]) -> Array:
    """Pass a kernel on; its gradient will be multiplied by a factor.

    Args:
        w: the kernel.
        factor: of the layer's input.
        axes: where the kernel has its outputs, its inputs, its spatial dimensions.

    Returns:
        The kernel, unchanged.
    """
    factor = lax.stop_gradient(factor)
    # Such a factor is of a Gram matrix, for any gradient.
    return _mark_with(axes, _depend_on(w, factor), factor, np.array(True))


def apply_to_kernel(
    grad: Array, factor: Factor, axes: tuple[int, ...], leaves_span: Any = True
) -> Array:
    """Multiply a kernel's gradient by a factor.

    Args:
        grad: in the kernel's layout.
        factor: of the layer's input.
        axes: where the kernel has its outputs, its inputs, its spatial dimensions.
        leaves_span: whether the gradient may be another than a combination of the rows.

    Returns:
        The preconditioned gradient, in the same layout and dtype.
    """
    with float64_allowed(factor.inner.dtype):
        apply = partial(_apply_to_kernel, axes)
        return split_freely(apply, grad, factor, leaves_span, like=grad)


# Compiled as one also where the user's code is not.
@partial(jax.jit, static_argnums=0)
def _apply_to_kernel(
    axes: tuple[int, ...], grad: Array, factor: Factor, leaves_span: Array
) -> Array:
    ordered = lax.transpose(grad, axes)
    grad_GOP = ordered.reshape(factor.groups, -1, factor.num_entries)
    result = apply_factor(grad_GOP, factor, leaves_span).reshape(ordered.shape)
    return lax.transpose(result, tuple(map(int, np.argsort(axes))))


def entries_of(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Entries of a kernel's row: all but its outputs.

    Args:
        shape: of the kernel.
        axes: where it has its outputs, its inputs, its spatial dimensions.

    Returns:
        Their number.
    """
    return math.prod(shape[axis] for axis in axes[1:])


Kept = tuple[Factor, Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mark_with(
    axes: tuple[int, ...], w: Array, factor: Factor, leaves_span: Array
) -> Array:
    del axes, factor, leaves_span
    return w


def _mark_with_forward(
    axes: tuple[int, ...], w: Array, factor: Factor, leaves_span: Array
) -> tuple[Array, Kept]:
    del axes
    return w, (factor, leaves_span)


def _mark_with_backward(
    axes: tuple[int, ...], kept: Kept, grad: Array
) -> tuple[Array, None, None]:
    factor, leaves_span = kept
    return apply_to_kernel(grad, factor, axes, leaves_span), None, None


_mark_with.defvjp(_mark_with_forward, _mark_with_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mark(
    call: Call, w: Array, x: Array, number: Array | None, leaves_span: Array
) -> Array:
    del call, x, number, leaves_span
    return w


def _mark_forward(
    call: Call, w: Array, x: Array, number: Array | None, leaves_span: Array
) -> tuple[Array, Kept]:
    damping = call.damping if number is None else replace(call.damping, lam=number)
    return w, (input_factor(x, call.layout, damping, None), leaves_span)


def _mark_backward(
    call: Call, kept: Kept, grad: Array
) -> tuple[Array, None, None, None]:
    return *_mark_with_backward(call.axes, kept, grad), None


_mark.defvjp(_mark_forward, _mark_backward)


@jax.custom_jvp
def _leaves_span(w: Array, x: Array) -> Array:
    """Whether the kernel's gradient may be another than a combination of the rows."""
    del w, x
    return jnp.zeros((), bool)


# JAX calls it for every derivative around the layer, from the innermost one outwards.
# One with respect to the input alone leaves the kernel to a derivative of its result.
@partial(_leaves_span.defjvp, symbolic_zeros=True)
def _leaves_span_jvp(
    primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Any]:
    of_w, of_x = (not isinstance(t, SymbolicZero) for t in tangents)
    is_left = jnp.ones((), bool) if of_x and not of_w else _leaves_span(*primals)
    return is_left, np.zeros((), jax.dtypes.float0)


def _depend_on(w: Array, statistics: Any) -> Array:
    """A kernel that is mapped over the same axes as the statistics."""
    # Of a kernel that is not, JAX sums the gradient over the examples before it comes
    # back here, and the product of two sums is not the sum of the products. So the
    # kernel gets a border of no width that depends on the statistics' shapes alone: no
    # value changes, and XLA drops it. Under shard_map the kernel then also varies over
    # the axes over which they do.
    return split_freely(_add_no_border, *jax.tree.leaves(statistics), w, like=w)


# Compiled as one also where the user's code is not.
@jax.jit
def _add_no_border(*arrays: Array) -> Array:
    *leaves, w = arrays
    empty = [lax.slice_in_dim(jnp.atleast_1d(leaf), 0, 0) for leaf in leaves]
    zeros = [e.astype(w.dtype).sum() for e in empty]
    return lax.pad(w, sum(zeros[1:], zeros[0]), [(0, 0, 0)] * w.ndim)
