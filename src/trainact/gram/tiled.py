"""XᵀX from explicit patches, a tile of a few images or output rows at a time.

The released code unfolds the whole batch and multiplies once. Here the extra memory is
bounded by a tile, and long sums are formed in float64.

Legend: B batch, C input channels, G groups, P entries of a patch in one group.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from torch import Tensor

from trainact.geometry import Geometry
from trainact.gram.matmul import BLOCK_ROWS, sum_self_product, tile_bytes
from trainact.gram.patches import columns_from_windows, pad, windows
from trainact.precision import accumulation_dtype, statistics_dtype


def tiled_gram(x: Tensor, geometry: Geometry) -> Tensor:
    """B times A, ``[G, P, P]``, of ``[B, C, *spatial]``; zeros for an empty batch."""
    wide = accumulation_dtype(x)
    products = (
        sum_self_product(
            columns_from_windows(tile.to(statistics_dtype(x)), geometry), wide, x.dtype
        )
        for tile in _tiles(x, geometry)
    )
    return functools.reduce(Tensor.add_, products)


def _tiles(x: Tensor, geometry: Geometry) -> Iterator[Tensor]:
    """Cut a batch's windows into views that are cheap to copy, one float32 sum each."""
    outputs = geometry.output_size(x.shape[2:])
    patch_bytes = 4 * geometry.channels * math.prod(geometry.kernel_size)
    budget = max(BLOCK_ROWS, tile_bytes(x) // patch_bytes)
    images_per_tile = max(1, budget // max(1, math.prod(outputs)))
    for images in x.split(images_per_tile) if len(x) > images_per_tile else (x,):
        view = windows(pad(images, geometry), geometry)
        if images_per_tile > 1:
            yield view
        else:
            yield from view.split(max(1, budget // math.prod(outputs[1:])), dim=2)
