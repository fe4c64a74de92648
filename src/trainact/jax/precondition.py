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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from trainact.jax.checks import check_floating
from trainact.jax.damping import Lam, Relative
from trainact.jax.factor import Factor, apply_factor
from trainact.jax.geometry import Geometry
from trainact.jax.precision import float64_allowed
from trainact.jax.statistics import AxisName, input_factor
from trainact.jax.varying import split_freely


class Call(NamedTuple):
    r"""The constants of one call of a layer.

    Attributes:
        axes: where the kernel has its outputs, its inputs, its spatial dimensions.
        geometry: of the layer; None for a dense one.
        lam: :math:`\lambda`; None if its number is an array.
    """

    axes: tuple[int, ...]
    geometry: Geometry | None = None
    lam: Lam | None = None


def mark(
    w: Array,
    x: Array,
    lam: Lam,
    axes: tuple[int, ...],
    geometry: Geometry | None,
    axis_name: AxisName,
) -> Array:
    r"""Pass a kernel on; its gradient will be preconditioned for this input.

    Args:
        w: the kernel.
        x: the layer's input, at least one row.
        lam: :math:`\lambda`, checked.
        axes: where the kernel has its outputs, its inputs, its spatial dimensions.
        geometry: of the layer; None for a dense one.
        axis_name: mapped axes whose rows belong together.

    Returns:
        The kernel, unchanged.

    Raises:
        ValueError: if a dtype is not real and floating.
    """
    w, x = check_floating("kernel", w), check_floating("x", x)
    # Slices, as a constant of NumPy that vmap maps is not one of JAX yet.
    leaves_span = _leaves_span(*(lax.slice_in_dim(a, 0, 0) for a in (w, x)))
    if axis_name is not None:
        # Not in the forward rule: JAX may trace that after the axis has lost its name.
        factor = input_factor(x, geometry, lam, axis_name)
        return _mark(Call(axes), _depend_on(w, factor), factor, None, leaves_span)
    is_array = isinstance(lam.lam if isinstance(lam, Relative) else lam, Array)
    call = Call(axes, geometry, None if is_array else lam)
    source, number = lax.stop_gradient((x, lam if is_array else None))
    w = _depend_on(w, (source, number))
    return _mark(call, w, source, number, leaves_span)


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
    return _mark(Call(axes), _depend_on(w, factor), factor, None, np.array(True))


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


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mark(
    call: Call, w: Array, source: Array | Factor, lam: Lam | None, leaves_span: Array
) -> Array:
    del call, source, lam, leaves_span
    return w


def _mark_forward(
    call: Call, w: Array, source: Array | Factor, lam: Lam | None, leaves_span: Array
) -> tuple[Array, tuple[Factor, Array]]:
    if isinstance(source, Factor):
        return w, (source, leaves_span)
    damping: Any = lam if call.lam is None else call.lam
    return w, (input_factor(source, call.geometry, damping, None), leaves_span)


def _mark_backward(
    call: Call, kept: tuple[Factor, Array], grad: Array
) -> tuple[Array, None, None, None]:
    factor, leaves_span = kept
    return apply_to_kernel(grad, factor, call.axes, leaves_span), None, None, None


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
