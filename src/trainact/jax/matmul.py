r"""Products of long matrices with themselves, block by block.

Sums run over a thousand or two of rows in float32, and beyond that in float64, so that
millions of rows cost no accuracy.

Legend: G groups, N rows, P entries, K blocks, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from trainact.jax.precision import Dtype, cast, product
from trainact.jax.sharding import varies_over, vary_over

# Rows that one float32 sum runs over, unless a matrix per block would be larger than
# the block. With half as many, errors are 1.2 times smaller.
BLOCK_ROWS = 2048

# Bytes of unfolded patches that may exist at a time. A CPU takes one block at a time:
# it stays in the cache, and XLA's products of many blocks at once are 2 to 5 times
# slower there (measured with 42 to 168 entries). An accelerator takes them all at once.
TILE_BYTES = 8 * 2**20
ACCELERATOR_TILE_BYTES = 256 * 2**20


def tile_bytes() -> int:
    """How much may exist at a time of what is made from the whole batch.

    Returns:
        Bytes, by the default backend.
    """
    return TILE_BYTES if on_cpu() else ACCELERATOR_TILE_BYTES


def rows_per_tile(entries: int) -> int:
    """How many rows may exist at a time.

    Args:
        entries: of a row, all groups together.

    Returns:
        Rows, at least one.
    """
    most = tile_bytes() // (4 * max(1, entries))
    return max(1, min(most, BLOCK_ROWS) if on_cpu() else most)


def sum_self_product(columns_GPN: Array, dtype: Dtype) -> Array:
    """A matrix times its own transpose, in blocks that are summed in a wider dtype.

    Args:
        columns_GPN: float32 or float64, at least one column.
        dtype: of the sum.

    Returns:
        ``[G, P, P]``.
    """
    groups, entries, num_rows = columns_GPN.shape
    if is_symbolic_dim(num_rows) or num_rows < 2 * max(BLOCK_ROWS, entries):
        return _self_product(columns_GPN, dtype)
    blocks = num_rows // max(BLOCK_ROWS, entries)
    whole = num_rows // blocks * blocks
    blocks_GPKR = columns_GPN[:, :, :whole].reshape(groups, entries, blocks, -1)
    blocks_GKPR = jnp.swapaxes(blocks_GPKR, 1, 2)
    total_GPP = cast(product(blocks_GKPR, blocks_GKPR, (3, 3), 2), dtype).sum(1)
    if whole < num_rows:
        total_GPP += _self_product(columns_GPN[:, :, whole:], dtype)
    return total_GPP


def sum_over(term: Callable[[Array | int], Array], count: int, like: Array) -> Array:
    """Sum terms in a compiled loop.

    Args:
        term: makes one from its index.
        count: of terms, at least one.
        like: what the terms are made from.

    Returns:
        The sum.
    """
    if count == 1:
        return term(0)
    shape = jax.eval_shape(term, 0)
    zeros = vary_over(jnp.zeros(shape.shape, shape.dtype), varies_over(like))

    def add(index: Array, total: Array) -> Array:
        return total + term(index)

    return lax.fori_loop(0, count, add, zeros)


def _self_product(columns_GPN: Array, dtype: Dtype) -> Array:
    if len(columns_GPN) == 1:  # without a batch axis a CPU is faster
        columns_PN = columns_GPN[0]
        return cast(product(columns_PN, columns_PN, (1, 1), 0), dtype)[None]
    return cast(product(columns_GPN, columns_GPN, (2, 2)), dtype)


def on_cpu() -> bool:
    """Whether programs run on a CPU.

    Returns:
        True if that is the default backend.
    """
    return jax.default_backend() == "cpu"
