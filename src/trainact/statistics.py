"""A layer's input -> the factor of this call, in the form that its shapes ask for."""

from __future__ import annotations

import torch
from torch import Tensor

from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.gram import patch_gram, row_gram
from trainact.patches import extract_patches, statistics_dtype


@torch.no_grad()
def linear_factor(x: Tensor, lam: float, in_span: bool) -> Factor:
    r"""Factor of a linear layer's input.

    Args:
        x: ``[..., P]``, any rank from one, contiguous or not; every vector is a row.
        lam: :math:`\lambda`.
        in_span: whether every gradient to come is a combination of the rows.

    Returns:
        The primal form for at least as many rows as entries, otherwise the dual form.
    """
    with _full_precision(x):
        rows_NP = x.reshape(-1, x.shape[-1])
        if len(rows_NP) < rows_NP.shape[1]:
            return factorise_rows(rows_NP[None], lam, in_span)
        return factorise(row_gram(rows_NP), lam, statistics_dtype(x))


@torch.no_grad()
def conv_factor(x: Tensor, geometry: Geometry, lam: float, in_span: bool) -> Factor:
    r"""Factor of a convolution's input.

    Args:
        x: ``[B, C, *spatial]``, or unbatched ``[C, *spatial]``.
        geometry: of the layer.
        lam: :math:`\lambda`.
        in_span: whether every gradient to come is a combination of the rows.

    Returns:
        The primal form for at least as many rows as entries, otherwise the dual form.
    """
    images = x if x.ndim == geometry.num_spatial + 2 else x[None]
    num_rows = geometry.num_rows(len(images), images.shape[2:])
    with _full_precision(x):
        if num_rows < geometry.num_entries:
            rows_GNP = extract_patches(images, geometry)
            return factorise_rows(rows_GNP, lam, in_span)
        gram_GPP = patch_gram(images, geometry)
        return factorise(gram_GPP, lam, statistics_dtype(x))


def _full_precision(x: Tensor) -> torch.autocast:
    """Keep autocast from rounding A: in bfloat16 that alone costs 4 to 13 %."""
    return torch.autocast(x.device.type, enabled=False)
