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
    if axis_name is not None:
        # Not in the forward rule: JAX may trace that after the axis has lost its name.
        return mark_with(w, input_factor(x, geometry, lam, axis_name), axes)
    is_array = isinstance(lam.lam if isinstance(lam, Relative) else lam, Array)
    call = Call(axes, geometry, None if is_array else lam)
    source, number = lax.stop_gradient((x, lam if is_array else None))
    return _mark(call, _depend_on(w, (source, number)), source, number)


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
    return _mark(Call(axes), _depend_on(w, factor), factor, None)


def apply_to_kernel(grad: Array, factor: Factor, axes: tuple[int, ...]) -> Array:
    """Multiply a kernel's gradient by a factor.

    Args:
        grad: in the kernel's layout.
        factor: of the layer's input.
        axes: where the kernel has its outputs, its inputs, its spatial dimensions.

    Returns:
        The preconditioned gradient, in the same layout and dtype.
    """
    with float64_allowed(factor.inner.dtype):
        return split_freely(partial(_apply_to_kernel, axes), grad, factor, like=grad)


# Compiled as one also where the user's code is not.
@partial(jax.jit, static_argnums=0)
def _apply_to_kernel(axes: tuple[int, ...], grad: Array, factor: Factor) -> Array:
    ordered = lax.transpose(grad, axes)
    grad_GOP = ordered.reshape(factor.groups, -1, factor.num_entries)
    result = apply_factor(grad_GOP, factor).reshape(ordered.shape)
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
def _mark(call: Call, w: Array, source: Array | Factor, lam: Lam | None) -> Array:
    del call, source, lam
    return w


def _mark_forward(
    call: Call, w: Array, source: Array | Factor, lam: Lam | None
) -> tuple[Array, Factor]:
    if isinstance(source, Factor):
        return w, source
    damping: Any = lam if call.lam is None else call.lam
    return w, input_factor(source, call.geometry, damping, None)


def _mark_backward(call: Call, factor: Factor, grad: Array) -> tuple[Array, None, None]:
    return apply_to_kernel(grad, factor, call.axes), None, None


_mark.defvjp(_mark_forward, _mark_backward)


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
