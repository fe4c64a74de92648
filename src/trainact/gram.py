"""Input -> A = XᵀX / b, tile by tile: the whole unfolded batch never exists.

Legend: B batch, C input channels, G groups, N rows, P entries of a patch in one group.

Where this departs from the released code: that one unfolds the whole batch and
multiplies once. Here a tile of a few images (or a few output rows of one image) is
unfolded and multiplied at a time, which bounds the extra memory by `TILE_BYTES` plus
one padded tile, and tiles are summed in float64, so that millions of rows cost no
accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from trainact.geometry import Geometry
from trainact.patches import (
    accumulation_dtype,
    columns_from_windows,
    pad,
    statistics_dtype,
    windows,
)

# Measured on 2 CPU cores (3x3/1 at 128x32², 7x7/2 and 16x16/16 at 16x224²): 4 MiB is
# within 5 % of the best tile for each, and 64 MiB up to 60 % slower.
TILE_BYTES = 4 * 2**20


def patch_gram(x: Tensor, geometry: Geometry) -> Tensor:
    """Second moment of a batch's patches.

    Cost: ``N * P**2`` multiplications per group and one pass over the patches; extra
    memory of about `TILE_BYTES`, whatever the batch.

    Args:
        x: ``[B, C, *spatial]``, any floating dtype and memory layout, at least one row.
        geometry: of the layer.

    Returns:
        A, ``[G, P, P]``, float64 (float32 on devices without it).
    """
    size = geometry.num_entries
    total_GPP = x.new_zeros(geometry.groups, size, size, dtype=accumulation_dtype(x))
    for tile in tiles(x, geometry):
        columns_GPN = columns_from_windows(tile.to(statistics_dtype(x)), geometry)
        total_GPP += columns_GPN @ columns_GPN.mT
    return total_GPP / geometry.num_rows(len(x), x.shape[2:])


def row_gram(x_NP: Tensor) -> Tensor:
    """Second moment of vectors, for linear layers.

    Args:
        x_NP: one vector a row, at least one.

    Returns:
        A, ``[1, P, P]``, float64 (float32 on devices without it).
    """
    num_rows, size = x_NP.shape
    total_PP = x_NP.new_zeros(size, size, dtype=accumulation_dtype(x_NP))
    rows_per_tile = max(size, TILE_BYTES // (4 * size))
    for tile_NP in x_NP.split(rows_per_tile):
        tile = tile_NP.to(statistics_dtype(x_NP))
        total_PP += tile.mT @ tile
    return total_PP[None] / num_rows


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
    budget = max(1, TILE_BYTES // patch_bytes)
    images_per_tile = max(1, budget // math.prod(outputs))
    rows_per_tile = max(1, budget // math.prod(outputs[1:]))
    for images in x.split(images_per_tile):
        view = windows(pad(images, geometry), geometry)
        if images_per_tile > 1 or rows_per_tile >= outputs[0]:
            yield view
        else:
            yield from view.split(rows_per_tile, dim=2)
