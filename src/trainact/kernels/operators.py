"""The inverse as a single operator: for compiled code, fake tensors and vmap.

The products have one already, `trainact.statistics.operators`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("trainact::damped_inverse", mutates_args=())
def damped_inverse(
    products_GPP: Tensor,
    num_rows: int,
    lam: float,
    dtype: torch.dtype,
    relative: bool = False,
) -> Tensor:
    """`trainact.kernels.inverse.damped_inverse` as one operator."""
    from trainact.kernels import inverse  # imports Triton

    return inverse.damped_inverse(products_GPP, num_rows, lam, dtype, relative)


@damped_inverse.register_fake
def _(
    products_GPP: Tensor,
    num_rows: int,
    lam: float,
    dtype: torch.dtype,
    relative: bool = False,
) -> Tensor:
    del num_rows, lam, relative
    return products_GPP.new_empty(products_GPP.shape, dtype=dtype)


@damped_inverse.register_vmap
def _(
    info: Any, in_dims: Any, products_GPP: Tensor, *settings: Any
) -> tuple[Tensor, int]:
    del info
    stacked = products_GPP.movedim(in_dims[0], 0)
    inverse = damped_inverse(stacked.flatten(0, 1), *settings)
    return inverse.unflatten(0, stacked.shape[:2]), 0
