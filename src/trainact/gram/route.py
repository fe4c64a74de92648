"""A layer's input -> XᵀX of its patches, the way that costs least for its shapes."""

from __future__ import annotations

from torch import Tensor

from trainact.geometry import Geometry
from trainact.gram.cost import cheapest_dim
from trainact.gram.patches import batched
from trainact.gram.shifted import shifted_gram
from trainact.gram.tiled import tiled_gram
from trainact.kernels import choice


def compute_gram(x: Tensor, geometry: Geometry) -> Tensor:
    """Sum over the rows of a layer's input of their outer products, XᵀX.

    Of ``[..., C, *spatial]`` in any floating dtype and memory layout, ``[G, P, P]`` in
    float64 (float32 on devices without it); zeros for an empty batch.

    Cost: at most ``N * P**2`` multiplications per group and one pass over the patches,
    for overlapping patches a fraction of both; extra memory of about
    `trainact.gram.matmul.tile_bytes`, whatever the batch.
    """
    x = batched(x, geometry)
    if choice.may_take("products") and choice.takes_products(
        x, geometry.num_entries, geometry.num_rows(x.shape)
    ):
        from trainact.kernels.gram import patch_products  # imports Triton

        return patch_products(x, geometry)
    dim = None
    if geometry.num_spatial:
        dim = cheapest_dim(geometry, tuple(map(int, x.shape)), x.device.type)
    return tiled_gram(x, geometry) if dim is None else shifted_gram(x, geometry, dim)
