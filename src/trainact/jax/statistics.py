"""A layer's input -> the factor of this call, of one device or of many."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from trainact.damping import Damping
from trainact.geometry import Geometry
from trainact.jax.factor import Factor, factorise_gram, factorise_rows
from trainact.jax.gram import compute_gram
from trainact.jax.layouts import InputLayout
from trainact.jax.patches import extract_patches
from trainact.jax.precision import (
    accumulation_dtype,
    float64_allowed,
    statistics_dtype,
)
from trainact.jax.sharding import split_freely

AxisName = Hashable | tuple[Hashable, ...] | None


def input_factor(
    x: Array, layout: InputLayout, damping: Damping, axis_name: AxisName
) -> Factor:
    r"""Factor of one call of a layer.

    Args:
        x: the layer's input, at least one row.
        layout: of the input.
        damping: :math:`\lambda`.
        axis_name: mapped axes whose rows belong together; each has as many.

    Returns:
        The primal form for at least as many rows as entries, otherwise the dual form.
    """
    with float64_allowed(accumulation_dtype(x.dtype)):
        given = lax.stop_gradient((x, jax.tree.map(jnp.asarray, damping)))
        return split_freely(partial(_input_factor, layout, axis_name), *given)


# Compiled also where the user's code is not: hundreds of operations, one call. λ is an
# argument, so that a schedule compiles nothing again.
@partial(jax.jit, static_argnums=(0, 1))
def _input_factor(
    layout: InputLayout, axis_name: AxisName, x: Array, damping: Damping
) -> Factor:
    geometry, x = layout.geometry, layout.order(x)
    num_rows = geometry.num_rows(x.shape) * axis_size(axis_name)
    if _is_primal(num_rows, geometry.num_entries):
        gram_GPP = mean_products(x, geometry, axis_name)
        return factorise_gram(gram_GPP, damping, statistics_dtype(x.dtype))
    rows_GNP = _gather_rows(extract_patches(x, geometry), axis_name)
    return factorise_rows(rows_GNP, damping)


def _is_primal(num_rows: int, num_entries: int) -> bool:
    """Whether there are at least as many rows as entries; an error if unknown."""
    try:
        is_primal = num_rows >= num_entries
    except Exception:  # of JAX, under other names in other versions: inconclusive
        is_primal = False
    if not is_primal and is_symbolic_dim(num_rows):
        msg = (
            f"a symbolic number of rows, {num_rows}, may be less than the "
            f"{num_entries} entries of a row: give jax.export.symbolic_shape the "
            f"constraint '{num_rows} >= {num_entries}'"
        )
        raise ValueError(msg)
    return is_primal


def mean_products(x: Array, geometry: Geometry, axis_name: AxisName) -> Array:
    """A, over all rows of the mapped axes.

    Args:
        x: ``[..., C, *spatial]``, at least one row.
        geometry: of the layer.
        axis_name: mapped axes whose rows belong together.

    Returns:
        ``[G, P, P]`` in the dtype of the factorisation, which must be allowed.
    """
    num_rows = geometry.num_rows(x.shape) * axis_size(axis_name)
    products_GPP = compute_gram(x, geometry)
    if axis_name is not None:
        products_GPP = lax.psum(products_GPP, axis_name)
    return products_GPP / num_rows


def axis_size(axis_name: AxisName) -> int:
    """Number of devices (or examples) along mapped axes.

    Args:
        axis_name: of the axes, None for no axis.

    Returns:
        Their size.
    """
    return 1 if axis_name is None else int(lax.psum(1, axis_name))


def _gather_rows(rows_GNP: Array, axis_name: AxisName) -> Array:
    """The rows of all devices, fewer than entries, on each of them."""
    size = axis_size(axis_name)
    if size == 1:
        return rows_GNP if axis_name is None else lax.psum(rows_GNP, axis_name)
    # A sum of what each puts in its place: of an all_gather JAX does not know that the
    # result is the same everywhere, as the gradient of a replicated weight must be.
    groups, num_rows, entries = rows_GNP.shape
    mine_D = lax.iota(jnp.int32, size) == lax.axis_index(axis_name).astype(jnp.int32)
    placed = jnp.where(mine_D[None, :, None, None], rows_GNP[:, None], 0)
    gathered = lax.psum(placed, axis_name)
    return gathered.reshape(groups, math.prod((size, num_rows)), entries)
