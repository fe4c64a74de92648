"""Input -> A = XᵀX / b, tile by tile: the whole unfolded batch never exists.

Legend: B batch, C input channels, G groups, N rows, P entries of a patch in one group.

Where this departs from the released code: that one unfolds the whole batch and
multiplies once. Here a tile of a few images (or a few output rows of one image) is
unfolded and multiplied at a time, which bounds the extra memory by `tile_bytes` plus
one padded tile. Products are summed over at most a thousand rows or so in float32 and
beyond that in float64, so that millions of rows cost no accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from trainact.geometry import Geometry
from trainact.patches import (
    columns_from_windows,
    pad,
    windows,
)
from trainact.precision import accumulation_dtype, self_product, statistics_dtype

# Measured on 2 CPU cores (3x3/1 at 128x32², 7x7/2 and 16x16/16 at 16x224²): 4 MiB is
# within 5 % of the best tile for each, and 64 MiB up to 60 % slower.
TILE_BYTES = 4 * 2**20

# On an accelerator a launch costs more than a cache miss, so tiles are larger there.
ACCELERATOR_TILE_BYTES = 256 * 2**20

# Rows that one float32 sum may run over. Summing 116,000 positive rows at once loses a
# digit more than eps; blocks of this size cost no time (measured, P = 9 to 768).
BLOCK_ROWS = 1024

# Above this many entries a tile has few rows, and a matrix per block would be large.
BLOCK_ENTRIES = 256


def patch_products(x: Tensor, geometry: Geometry) -> Tensor:
    """Sum over a batch's patches of their outer products, XᵀX.

    Cost: ``N * P**2`` multiplications per group and one pass over the patches; extra
    memory of about `tile_bytes`, whatever the batch.

    Args:
        x: ``[B, C, *spatial]``, any floating dtype and memory layout.
        geometry: of the layer.

    Returns:
        b times A, ``[G, P, P]``, float64 (float32 on devices without it); zeros for an
        empty batch.
    """
    size = geometry.num_entries
    total_GPP = x.new_zeros(geometry.groups, size, size, dtype=accumulation_dtype(x))
    for tile in tiles(x, geometry) if len(x) else ():
        columns_GPN = columns_from_windows(tile.to(statistics_dtype(x)), geometry)
        total_GPP += _sum_of_products(columns_GPN, total_GPP.dtype)
    return total_GPP


def row_products(x_NP: Tensor) -> Tensor:
    """Sum of the outer products of vectors, XᵀX, for linear layers.

    Args:
        x_NP: one vector a row.

    Returns:
        b times A, ``[1, P, P]``, float64 (float32 on devices without it); zeros for no
        rows.
    """
    size = x_NP.shape[1]
    total_1PP = x_NP.new_zeros(1, size, size, dtype=accumulation_dtype(x_NP))
    for tile_NP in x_NP.split(max(BLOCK_ROWS, tile_bytes(x_NP) // (4 * size))):
        columns_1PN = tile_NP.to(statistics_dtype(x_NP)).mT[None]
        total_1PP += _sum_of_products(columns_1PN, total_1PP.dtype)
    return total_1PP


def tile_bytes(x: Tensor) -> int:
    """How much of the unfolded batch may exist at a time.

    Args:
        x: a layer's input.

    Returns:
        Bytes, by the device of ``x``.
    """
    return TILE_BYTES if x.device.type == "cpu" else ACCELERATOR_TILE_BYTES


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


def _sum_of_products(columns_GPN: Tensor, dtype: torch.dtype) -> Tensor:
    """X transposed times X, in blocks of rows that are summed in ``dtype``."""
    blocks = columns_GPN.shape[-1] // BLOCK_ROWS
    if blocks < 2 or columns_GPN.shape[1] > BLOCK_ENTRIES:
        return self_product(columns_GPN).to(dtype)
    whole, rest = columns_GPN.tensor_split([blocks * BLOCK_ROWS], dim=-1)
    stacked = whole.unflatten(-1, (blocks, BLOCK_ROWS)).movedim(-2, 1)
    return self_product(stacked).sum(1, dtype=dtype) + self_product(rest)
