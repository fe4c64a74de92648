"""Statistics as sums, to be added over micro-batches before they are factorised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from trainact.jax.gram import compute_gram
from trainact.jax.layouts import InputLayout
from trainact.jax.precision import (
    Dtype,
    accumulation_dtype,
    cast,
    float64_allowed,
    statistics_dtype,
)
from trainact.jax.sharding import split_freely


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["products", "remainder", "rows"],
    meta_fields=[],
)
@dataclass(frozen=True)
class GramSums:
    r"""Sums over rows, from which A of any number of micro-batches is made; a pytree.

    ``first + second`` is the sums of both batches; so is ``jax.tree.map(jnp.add, first,
    second)``, and ``jax.lax.psum(sums, axis)`` those of all devices.

    Attributes:
        products: :math:`X^\top X`, ``[G, n, n]``, float32 (float64 for float64 inputs).
        remainder: what its float32 entries lack of the exact sums, ``[G, n, n]``: JAX
            programs without float64 can carry the pair. None for float64.
        rows: b, a scalar in the same dtype.
    """

    products: Array
    remainder: Array | None
    rows: Array

    def __add__(self, other: GramSums) -> GramSums:
        with float64_allowed(accumulation_dtype(self.products.dtype)):
            return _split(
                wide_products(self) + wide_products(other),
                self.products.dtype,
                self.rows + other.rows,
            )

    @classmethod
    def zeros(
        cls, num_entries: int, groups: int = 1, dtype: Any = np.float32
    ) -> GramSums:
        """Sums of no rows, to begin a `jax.lax.scan` with.

        Args:
            num_entries: n: input features, or channels / groups x kernel positions.
            groups: channel groups of the convolution.
            dtype: of the inputs to come.

        Returns:
            Zeros.
        """
        kept = statistics_dtype(dtype)
        zeros = jnp.zeros((groups, num_entries, num_entries), kept)
        remainder = None if kept == np.float64 else zeros
        return cls(zeros, remainder, jnp.zeros((), kept))


def input_sums(x: Array, layout: InputLayout) -> GramSums:
    """Sums over the rows of a layer's input.

    Args:
        x: the layer's input.
        layout: of the input.

    Returns:
        The sums; zeros if there are no rows.
    """
    x = lax.stop_gradient(x)
    if not layout.has_rows(x):
        geometry = layout.geometry
        return GramSums.zeros(geometry.num_entries, geometry.groups, x.dtype)
    with float64_allowed(accumulation_dtype(x.dtype)):
        return split_freely(partial(_input_sums, layout), x)


@partial(jax.jit, static_argnums=0)
def _input_sums(layout: InputLayout, x: Array) -> GramSums:
    geometry, x = layout.geometry, layout.order(x)
    dtype = statistics_dtype(x.dtype)
    rows = jnp.asarray(geometry.num_rows(x.shape), dtype)
    return _split(compute_gram(x, geometry), dtype, rows)


def wide_products(sums: GramSums) -> Array:
    """Put the products together again.

    Args:
        sums: of rows.

    Returns:
        b times A in the dtype of the factorisation, which must be allowed.
    """
    wide = accumulation_dtype(sums.products.dtype)
    products = cast(sums.products, wide)
    if sums.remainder is None:
        return products
    return products + cast(sums.remainder, wide)


def _split(products: Array, dtype: Dtype, rows: Array) -> GramSums:
    kept = cast(products, dtype)
    if dtype == np.float64:
        return GramSums(kept, None, rows)
    # Where an entry is not finite, the remainder would turn infinity into NaN.
    lacking = cast(products - cast(kept, products.dtype), dtype)
    return GramSums(kept, jnp.where(jnp.isfinite(kept), lacking, 0), rows)
