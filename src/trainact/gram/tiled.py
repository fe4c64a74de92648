"""Input -> XᵀX of its patches, the way that costs least for its shapes.

Legend: B batch, C input channels, G groups, N rows, P entries of a patch in one group.

Where this departs from the released code: that one unfolds the whole batch and
multiplies once. Here overlapping patches are taken as shifts of the image (`shifts`),
or else a tile of a few images (or a few output rows of one image) is unfolded and
multiplied at a time. Either way the extra memory is bounded by `tile_bytes` plus one
padded tile, and long sums are formed in float64 (`products`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from torch import Tensor

from trainact.geometry import Geometry
from trainact.gram.cost import cheapest_dim
from trainact.gram.matmul import BLOCK_ROWS, sum_self_product, tile_bytes
from trainact.gram.patches import (
    columns_from_windows,
    pad,
    windows,
)
from trainact.gram.shifted import shifted_products
from trainact.precision import accumulation_dtype, statistics_dtype


def patch_products(x: Tensor, geometry: Geometry) -> Tensor:
    """Sum over a batch's patches of their outer products, XᵀX.

    Cost: at most ``N * P**2`` multiplications per group and one pass over the patches,
    for overlapping patches a fraction of both; extra memory of about `tile_bytes`,
    whatever the batch.

    Args:
        x: ``[B, C, *spatial]``, any floating dtype and memory layout.
        geometry: of the layer.

    Returns:
        b times A, ``[G, P, P]``, float64 (float32 on devices without it); zeros for an
        empty batch.
    """
    dim = cheapest_dim(geometry, tuple(map(int, x.shape)), x.device.type)
    if dim is None:
        return tiled_products(x, geometry)
    return shifted_products(x, geometry, dim)


def tiled_products(x: Tensor, geometry: Geometry) -> Tensor:
    """XᵀX from explicit patches, a tile at a time.

    Args:
        x: ``[B, C, *spatial]``.
        geometry: of the layer.

    Returns:
        As `patch_products`.
    """
    size = geometry.num_entries
    total_GPP = x.new_zeros(geometry.groups, size, size, dtype=accumulation_dtype(x))
    for tile in tiles(x, geometry) if len(x) else ():
        columns_GPN = columns_from_windows(tile.to(statistics_dtype(x)), geometry)
        total_GPP += sum_self_product(columns_GPN, total_GPP.dtype, given=x.dtype)
    return total_GPP


def row_products(x_NP: Tensor) -> Tensor:
    """Sum of the outer products of vectors, XᵀX, for linear layers.

    Args:
        x_NP: one vector a row.

    Returns:
        b times A, ``[1, P, P]``, float64 (float32 on devices without it); zeros for no
        rows.
    """
    wide, size = accumulation_dtype(x_NP), max(1, x_NP.shape[1])
    products = (
        sum_self_product(tile.to(statistics_dtype(x_NP)).mT[None], wide, x_NP.dtype)
        for tile in x_NP.split(max(BLOCK_ROWS, tile_bytes(x_NP) // (4 * size)))
    )
    return functools.reduce(Tensor.add_, products)


def tiles(x: Tensor, geometry: Geometry) -> Iterator[Tensor]:
    """Cut a batch's windows into pieces that are cheap to copy.

    Args:
        x: ``[B, C, *spatial]``.
        geometry: of the layer.

    Yields:
        Views of windows, ``[b, C, *output positions, *kernel positions]``.
    """
    outputs = geometry.output_size(x.shape[2:])
    patch_bytes = 4 * geometry.channels * math.prod(geometry.kernel_size)
    budget = max(1, tile_bytes(x) // patch_bytes)
    images_per_tile = max(1, budget // math.prod(outputs))
    rows_per_tile = max(1, budget // math.prod(outputs[1:]))
    for images in x.split(images_per_tile):
        view = windows(pad(images, geometry), geometry)
        if images_per_tile > 1 or rows_per_tile >= outputs[0]:
            yield view
        else:
            yield from view.split(rows_per_tile, dim=2)
