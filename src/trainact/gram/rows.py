"""A layer's input as rows: how many, their products, the rows themselves.

Everywhere a geometry is expected, None stands for a linear layer, whose rows are the
input's vectors.
"""

from __future__ import annotations

import math

from torch import Tensor

from trainact.geometry import Geometry
from trainact.gram.patches import extract_patches
from trainact.gram.tiled import patch_products, row_products
from trainact.kernels import choice


def count_rows(x: Tensor, geometry: Geometry | None) -> int:
    """Rows that a layer makes of its input, the paper's b.

    Args:
        x: ``[..., P]`` for a linear layer, otherwise ``[B, C, *spatial]`` or unbatched.
        geometry: of the layer.

    Returns:
        Batch x tokens, or batch x output positions.
    """
    if geometry is None:
        # x.shape.numel() and len(x) would tie compiled code to one batch size.
        return math.prod(x.shape[:-1])
    images = _batched(x, geometry)
    return geometry.num_rows(images.shape[0], images.shape[2:])


def count_entries(x: Tensor, geometry: Geometry | None) -> int:
    """Entries of a row, the paper's n.

    Args:
        x: the layer's input.
        geometry: of the layer.

    Returns:
        Features, or channels per group x kernel positions.
    """
    return x.shape[-1] if geometry is None else geometry.num_entries


def sum_products(x: Tensor, geometry: Geometry | None) -> Tensor:
    """Sum over the rows of their outer products, XᵀX.

    Args:
        x: the layer's input.
        geometry: of the layer.

    Returns:
        b times A, ``[G, P, P]``, float64 (float32 on devices without it).
    """
    if choice.may_take("products") and choice.takes_products(
        x, count_entries(x, geometry), count_rows(x, geometry)
    ):
        from trainact.kernels import gram  # imports Triton

        batch = x if geometry is None else _batched(x, geometry)
        return gram.patch_products(batch, geometry)
    if geometry is None:
        return row_products(x.reshape(-1, x.shape[-1]))
    return patch_products(_batched(x, geometry), geometry)


def extract_rows(x: Tensor, geometry: Geometry | None) -> Tensor:
    """Write the rows out, for the dual form.

    Args:
        x: the layer's input.
        geometry: of the layer.

    Returns:
        X, ``[G, N, P]``.
    """
    if geometry is None:
        return x.reshape(1, -1, x.shape[-1])
    return extract_patches(_batched(x, geometry), geometry)


def _batched(x: Tensor, geometry: Geometry) -> Tensor:
    return x if x.ndim == geometry.num_spatial + 2 else x[None]
