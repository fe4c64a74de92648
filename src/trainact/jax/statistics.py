"""A layer's input -> the factor of this call, of one device or of many."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from trainact.jax.damping import Lam
from trainact.jax.factor import Factor, factorise_gram, factorise_rows
from trainact.jax.geometry import Geometry
from trainact.jax.gram import (
    count_entries,
    count_rows,
    extract_rows,
    sum_products,
)
from trainact.jax.precision import (
    accumulation_dtype,
    float64_allowed,
    statistics_dtype,
)
from trainact.jax.varying import split_freely

AxisName = Hashable | tuple[Hashable, ...] | None


def input_factor(
    x: Array, geometry: Geometry | None, lam: Lam, axis_name: AxisName
) -> Factor:
    r"""Factor of one call of a layer.

    Args:
        x: the layer's input, at least one row.
        geometry: of the layer, or None for a dense one.
        lam: :math:`\lambda`.
        axis_name: mapped axes whose rows belong together; each has as many.

    Returns:
        The primal form for at least as many rows as entries, otherwise the dual form.
    """
    with float64_allowed(accumulation_dtype(x.dtype)):
        x, damping = lax.stop_gradient((x, jax.tree.map(jnp.asarray, lam)))

        def factor(x: Array, damping: Lam) -> Factor:
            return _input_factor(x, damping, geometry, axis_name)

        return split_freely(factor, x, damping)


# Compiled also where the user's code is not: hundreds of operations, one call. λ is an
# argument, so that a schedule compiles nothing again.
@partial(jax.jit, static_argnums=(2, 3))
def _input_factor(
    x: Array, lam: Lam, geometry: Geometry | None, axis_name: AxisName
) -> Factor:
    num_rows = count_rows(x, geometry) * axis_size(axis_name)
    if _is_primal(num_rows, count_entries(x, geometry)):
        gram_GPP = mean_products(x, geometry, axis_name)
        return factorise_gram(gram_GPP, lam, statistics_dtype(x.dtype))
    return factorise_rows(_gather_rows(extract_rows(x, geometry), axis_name), lam)


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


def mean_products(x: Array, geometry: Geometry | None, axis_name: AxisName) -> Array:
    """A, over all rows of the mapped axes.

    Args:
        x: the layer's input, at least one row.
        geometry: of the layer, or None for a dense one.
        axis_name: mapped axes whose rows belong together.

    Returns:
        ``[G, P, P]`` in the dtype of the factorisation, which must be allowed.
    """
    num_rows = count_rows(x, geometry) * axis_size(axis_name)
    products_GPP = sum_products(x, geometry)
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
