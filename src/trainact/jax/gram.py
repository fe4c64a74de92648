"""A layer's input -> XᵀX of its rows, a tile at a time.

Legend: B batch, C input channels, G groups, N rows, P entries of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from jax import Array, lax
from jax.export import is_symbolic_dim

from trainact.geometry import Geometry
from trainact.jax.matmul import on_cpu, rows_per_tile, sum_over, sum_self_product
from trainact.jax.patches import pad, unfold_columns
from trainact.jax.precision import (
    Dtype,
    accumulation_dtype,
    cast,
    float64_allowed,
    statistics_dtype,
)


def is_symbolic(x: Array) -> bool:
    """Whether a size is not known yet, as where `jax.export` is given a symbolic batch.

    Args:
        x: the layer's input.

    Returns:
        True if so.
    """
    return any(map(is_symbolic_dim, x.shape))


def compute_gram(x: Array, geometry: Geometry) -> Array:
    """Sum over the rows of their outer products, XᵀX.

    Cost: ``N * P**2`` multiplications per group and one pass over the patches. At most
    `tile_bytes` of patches exist at a time.

    Args:
        x: ``[..., C, *spatial]``, at least one row.
        geometry: of the layer.

    Returns:
        b times A, ``[G, P, P]``, in the dtype of `accumulation_dtype`.
    """
    wide = accumulation_dtype(x.dtype)
    with float64_allowed(wide):
        if is_symbolic(x):  # Of blocks that cannot be counted, all sums are wide.
            x = cast(x, wide)
        if geometry.num_spatial:
            return _sum_images(x, geometry, wide)
        return _sum_vectors(x.reshape(-1, geometry.channels), wide)


def _sum_vectors(x_NP: Array, wide: Dtype) -> Array:
    """Tile by tile of rows; an accelerator takes them all at once."""
    total = x_NP.shape[0]
    is_tiled = on_cpu() and not is_symbolic(x_NP)
    size = min(total, rows_per_tile(x_NP.shape[1])) if is_tiled else total

    def products(start: Array | int, rows: int) -> Array:
        some = lax.dynamic_slice_in_dim(x_NP, start, rows)
        return sum_self_product(cast(some, statistics_dtype(x_NP.dtype)).T[None], wide)

    return _sum_tiles(products, total, size, x_NP)


def _sum_tiles(
    products: Callable[[Array | int, int], Array], total: int, size: int, like: Array
) -> Array:
    """Sum what is made from a tile's start and its size, which is even but for one."""
    count = total // size
    total_GPP = sum_over(lambda tile: products(tile * size, size), count, like)
    if size * count < total:
        total_GPP += products(size * count, total - size * count)
    return total_GPP


def _sum_images(images: Array, geometry: Geometry, wide: Dtype) -> Array:
    """Tile by tile of images."""
    batch, outputs = images.shape[0], geometry.output_size(images.shape[2:])
    most = max(1, _rows_per_tile(geometry) // math.prod(outputs))
    size = 1 if is_symbolic(images) else _even(batch, most)
    count = batch // size
    # Image i of tile t is number i * count + t: the axis that devices may share stays
    # the first one, so that every tile is spread over all of them.
    tiles = images[: size * count].reshape(size, count, *images.shape[1:])

    def term(tile: Array | int) -> Array:
        some = lax.dynamic_index_in_dim(tiles, tile, axis=1, keepdims=False)
        return _sum_lines(some, geometry, wide)

    total_GPP = sum_over(term, count, images)
    if size * count < batch:
        total_GPP += _sum_lines(images[size * count :], geometry, wide)
    return total_GPP


def _sum_lines(images: Array, geometry: Geometry, wide: Dtype) -> Array:
    """Tile by tile of output lines, if the images' patches are more than one tile."""
    padded = pad(cast(images, statistics_dtype(images.dtype)), geometry)
    outputs = geometry.output_size(images.shape[2:])
    width = len(images) * math.prod(outputs[1:])
    size = _even(outputs[0], max(1, _rows_per_tile(geometry) // width))
    stride, extent = geometry.stride[0], geometry.extent[0]
    bare = replace(geometry, padding=((0, 0),) * geometry.num_spatial)

    def products(line: Array | int, lines: int) -> Array:
        reach = (lines - 1) * stride + extent
        part = lax.dynamic_slice_in_dim(padded, line * stride, reach, axis=2)
        return sum_self_product(unfold_columns(part, bare), wide)

    return _sum_tiles(products, outputs[0], size, padded)


def _rows_per_tile(geometry: Geometry) -> int:
    return rows_per_tile(geometry.channels * math.prod(geometry.kernel_size))


def _even(total: int, most: int) -> int:
    """A tile's size of at most ``most`` that divides the total, if one is near."""
    largest = min(total, most)
    near = range(largest, largest // 2, -1)
    return next((size for size in near if total % size == 0), largest)
