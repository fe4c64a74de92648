"""Explicit patches: the rows of the unfolded batch, or its columns.

Legend: B batch, C input channels, G groups, N rows (B x output positions), P entries of
a patch within one group (C / G x kernel positions).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from trainact.geometry import Geometry
from trainact.jax.precision import cast, statistics_dtype


def pad(images: Array, geometry: Geometry) -> Array:
    """Add the layer's border to a batch.

    Args:
        images: ``[B, C, *spatial]``.
        geometry: of the layer.

    Returns:
        The batch with its border.
    """
    zero = lax.full((), 0, images.dtype)
    config = [(0, 0, 0), (0, 0, 0), *((lo, hi, 0) for lo, hi in geometry.padding)]
    return lax.pad(images, zero, config)


def unfold_columns(padded: Array, geometry: Geometry) -> Array:
    """Write the patches of a padded batch out, X transposed.

    One spatial dimension after the other, so that a kernel of k x k positions takes 2 k
    slices.

    Args:
        padded: ``[B, C, *spatial]`` with its border.
        geometry: of the layer.

    Returns:
        ``[G, P, N]``; P runs over channels, then kernel positions, as in a kernel of
        layout ``OI...``; N over images, then output positions.
    """
    view = jnp.swapaxes(padded, 0, 1)
    for dim in range(geometry.num_spatial):
        # Here: C, kernel positions so far, B, outputs so far, what is left.
        view = _unfold(view, 1 + dim, 2 + 2 * dim, geometry, dim)
    return view.reshape(geometry.groups, geometry.num_entries, -1)


def _unfold(view: Array, to: int, axis: int, geometry: Geometry, dim: int) -> Array:
    """Replace an axis by output positions; kernel positions become axis ``to``."""
    size, stride = geometry.kernel_size[dim], geometry.stride[dim]
    dilation = geometry.dilation[dim]
    outputs = (view.shape[axis] - geometry.extent[dim]) // stride + 1
    if dilation > 1:
        last = stride * (outputs - 1) + 1
        starts = range(0, dilation * size, dilation)
        slices = [lax.slice_in_dim(view, s, s + last, stride, axis) for s in starts]
        return jnp.stack(slices, axis=to)
    # Whole strides: where patches do not overlap, a reshape and no slices at all.
    steps = -(-size // stride)
    lines = outputs + steps - 1
    missing = lines * stride - view.shape[axis]
    edges = [(0, missing if a == axis else 0, 0) for a in range(view.ndim)]
    view = lax.pad(view, lax.full((), 0, view.dtype), edges)
    shape = (*view.shape[:axis], lines, stride, *view.shape[axis + 1 :])
    view = jnp.moveaxis(view.reshape(shape), axis + 1, to)
    shifted = [
        lax.slice_in_dim(view, step, step + outputs, axis=axis + 1)
        for step in range(steps)
    ]
    return lax.slice_in_dim(jnp.concatenate(shifted, axis=to), 0, size, axis=to)


def extract_patches(x: Array, geometry: Geometry) -> Array:
    """Unfold a layer's input into X: the rows of the dual form.

    Args:
        x: ``[..., C, *spatial]``.
        geometry: of the layer.

    Returns:
        X, ``[G, N, P]``, float32 or float64.
    """
    wide = cast(x, statistics_dtype(x.dtype))
    if not geometry.num_spatial:
        return wide.reshape(1, -1, geometry.channels)
    return unfold_columns(pad(wide, geometry), geometry).swapaxes(1, 2)
